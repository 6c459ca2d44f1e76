"""`python -m fastmodel` is the command `fastmodel`."""

import sys

from fastmodel.cli import main

sys.exit(main())
