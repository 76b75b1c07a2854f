"""Studies that hold the theory against finite dimension; `python -m validation`."""

import os

# The studies run many instances at a time, so a BLAS with threads of its own only gets in their
# way: measured 6 times slower on two busy cores.  It is read when NumPy is first imported, which
# `python -m validation...` does after this; a value that the user has set is left alone.
for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
