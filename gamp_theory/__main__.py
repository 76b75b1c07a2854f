"""``python -m gamp_theory``: the command line."""

import sys

from gamp_theory.cli import main

if __name__ == "__main__":
    sys.exit(main())
