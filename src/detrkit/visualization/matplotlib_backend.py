"""Import of matplotlib with any value of MPLBACKEND."""

from __future__ import annotations

import contextlib
import os
import sys


def import_matplotlib() -> None:
    """Import matplotlib, even where MPLBACKEND names a backend that it does not know: the import alone would fail.

    Everything is drawn to files here, so the backend does not matter. To be called before whatever imports matplotlib,
    as Lightning and supervision do; what the variable asks for holds for the rest of the program, if it can.
    """
    if "matplotlib" in sys.modules:
        return
    requested = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if requested is not None:
            os.environ["MPLBACKEND"] = requested
    if requested:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = requested
