"""`python -m cffa_hf.cli`: the command `cffa-hf`."""

import sys

from cffa_hf.cli import main

sys.exit(main())
