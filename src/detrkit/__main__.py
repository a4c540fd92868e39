"""Run the command line as `python -m detrkit`."""

import sys

from detrkit.cli import main

sys.exit(main())
