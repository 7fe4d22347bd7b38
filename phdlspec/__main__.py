"""`python -m phdlspec` is the command `phdlspec`."""

import sys

from phdlspec.cli import main

sys.exit(main())
