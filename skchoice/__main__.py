"""``python -m skchoice``."""

import sys

from skchoice.cli import main

sys.exit(main())
