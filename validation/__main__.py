"""``python -m validation``: the first check of theory against simulation."""

import sys

from validation.first_check import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
