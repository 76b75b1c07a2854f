"""The model at finite dimension: data, exact risk and its minimisation. No torch."""
