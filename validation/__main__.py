"""``python -m validation [STUDY...] [--quick] [--jobs N]``: the studies of theory against d."""

import sys

from validation.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
