"""Sections of an HTML report as plain data: summary, table, charts, matrix, gallery, settings and notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A number with its interval, shown as `0.412 (0.380 to 0.441)` and sorted by the number."""

    value: float
    low: float
    high: float


Cell = str | int | float | Interval | None
"""A value of a table or summary. None, and numbers that are not finite, are shown as a dash and sorted last."""


@dataclass(frozen=True)
class Summary:
    """The most important figures of a report, in large digits."""

    values: Mapping[str, Cell]
    """Label -> value; floats are shown with three decimals."""
    title: str = "Summary"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    digits: int = 3
    """Decimals of floats."""
    align_right: bool = False
    """Align texts to the right, as numbers always are."""
    bar: bool = False
    """Also draw each number of the column as a bar; a number of 1, or the largest if it is above 1, fills the bar."""


@dataclass(frozen=True)
class Table:
    """A table whose columns sort by a click on their heads. It shows its rows in the given order at first."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    """One value per column."""
    footer: Sequence[Cell] = ()
    """A last row that stays in its place, such as the mean of all classes; empty: none."""
    note: str = ""
    total: int = 0
    """Number of rows of the whole, if `rows` are only the first; 0: these are all."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    """Ascending."""
    y: Sequence[float]
    """One value per value of `x`; values that are not finite are gaps."""
    dashed: bool = False
    strong: bool = False
    """Whether it stands out, as the mean of all classes does."""
    shown: bool = True
    """Whether the curve is visible when the page opens; the legend shows and hides it."""


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis, whose values are shown under the pointer and by the arrow keys."""

    title: str
    curves: Sequence[Curve]
    x_label: str = ""
    y_range: tuple[float, float] | None = None
    """Lowest and highest value of the axis; None: those of the curves."""
    from_zero: bool = False
    """Begin the axis at 0 where there is no `y_range`."""
    log_y: bool = False


@dataclass(frozen=True)
class Charts:
    """Several charts side by side."""

    title: str
    charts: Sequence[Chart]
    note: str = ""
    small: bool = False
    """Draw them small, since there are many."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of counts, such as a confusion matrix. Cells are shaded by their share of the row."""

    title: str
    labels: Sequence[str]
    """[n] names of rows and columns."""
    counts: Sequence[Sequence[int]]
    """[n, n]."""
    row_label: str = "ground truth"
    column_label: str = "prediction"
    note: str = ""


@dataclass(frozen=True)
class BoxOverlay:
    """A box over an image of a gallery."""

    xyxy: Sequence[float]
    """x1, y1, x2, y2 in pixels of the image. Boxes that are not finite are left out."""
    label: str = ""
    layer: str = "prediction"
    """Boxes of one layer are shown and hidden together; a gallery has at most six layers."""
    color: tuple[int, int, int] | None = None
    """RGB, 0..255; None: a color of the layer."""
    dashed: bool = False


ImageSource = Path | str | Any | Callable[[], Any]
"""A path, a PIL image, a uint8 RGB array [H, W, 3], or a function that returns one when the image is drawn."""


@dataclass(frozen=True)
class GalleryImage:
    """An image of a gallery. It is read only if it fits on the page."""

    image: ImageSource
    caption: str
    boxes: Sequence[BoxOverlay] = ()
    """Drawn in their order; of more than 200 in the window the last are drawn."""
    detail: str = ""
    """A second, smaller line of the caption, such as the file name."""
    window: tuple[int, int, int, int] | None = None
    """Show only this part: x1, y1, x2, y2 in pixels of the image; where it reaches beyond the image, it is moved
    inside. None: the whole image."""
    group: str = ""
    """Images of one group can be shown alone, such as all missed objects."""


@dataclass(frozen=True)
class Gallery:
    """Images with boxes that can be shown and hidden."""

    title: str
    images: Sequence[GalleryImage]
    """Most important first: those at the end are left out where the page would grow too large."""
    total: int = 0
    """Number of images of the whole, if `images` are only the first; 0: these are all."""
    note: str = ""
    layers: Sequence[str] = ()
    """Order of the layers of boxes; empty: as they first occur."""


@dataclass(frozen=True)
class Settings:
    """Names and values, such as the settings of a run."""

    values: Mapping[str, Any]
    title: str = "Settings"


@dataclass(frozen=True)
class Notes:
    """Sentences, one paragraph each."""

    sentences: Sequence[str]
    title: str = "Notes"


Section = Summary | Table | Charts | Matrix | Gallery | Settings | Notes
