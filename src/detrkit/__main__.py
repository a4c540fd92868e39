"""`python -m detrkit` is `detrkit`."""

import sys

from detrkit.cli import main

sys.exit(main())
