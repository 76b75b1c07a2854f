"""Studies that hold the theory against finite dimension; `python -m validation`."""

from gamp_theory.cli.threads import single_blas_thread

single_blas_thread()  # the studies run many instances at a time
