"""Plots as files, independent of windows, styles and environment variables."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.files import write_atomic
from detrkit.visualization.fonts import drawable, families, name_of
from detrkit.visualization.matplotlib_backend import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def figure_file(path: Path, width: float, height: float, names: Iterable[str] = ()) -> Iterator[Figure]:
    """Make a figure that is written when the block ends, whole or not at all.

    Args:
        path: PNG to write.
        width: width in inches.
        height: height in inches.
        names: class and file names, or lines with them, that the figure shows; see `as_label` and `as_text`.
    """
    import_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own style need not fit, and may ask for TeX
        mpl.rcParams["font.family"] = families(names)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=130)
    write_atomic(path, content.getvalue())


def as_label(name: str) -> str:
    """Make a user's name a label of a plot; legends leave out labels that begin with _."""
    text = as_text(name_of(name))
    return f" {text}" if text.startswith("_") else text


def as_text(line: str) -> str:
    """Make a line the text of a plot, whose dollars begin no formula."""
    return drawable(line).replace("$", r"\$")
