"""Averages over the Gaussian fields: the expensive half of the state evolution."""
