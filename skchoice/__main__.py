"""``python -m skchoice``."""

import sys

from skchoice.cli import main

if __name__ == "__main__":
    sys.exit(main())
