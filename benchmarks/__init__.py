"""Speed and accuracy against the floor and against the alternatives; nothing passes or fails.

The BLAS has one thread: times are those of as many cores as the program asks for.
"""

from gamp_theory.cli.threads import single_blas_thread

single_blas_thread()
