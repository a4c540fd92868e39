"""Key points in YOLO labels that no file tells of: what rows of many numbers are is decided by all of them together.

A row of a box and key points looks like a polygon: `class cx cy w h x y visible ...`. One row tells little, but a
visibility of 2 in any row of so many columns tells what all of them hold, and so do visibilities of 0 or 1 in all rows.
Key points without visibilities cannot be told from corners for certain; where it looks so, the user is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from detrkit.data.formats.raw import RawObject
from detrkit.data.formats.yolo_lines import has_visibilities, is_box
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError

_SAMPLE = 500
_FEWEST = 3
"""Rows from which on the user is asked."""
_CROSSING = 0.2
"""Share of rows that are no simple polygon from which on they may be something else."""


@dataclass(frozen=True, slots=True)
class WideRow:
    """A row of more numbers than a box and a confidence."""

    raw: RawObject
    """What was made of it."""
    numbers: list[float]
    """What follows the class."""
    file: Path


def settle_points(rows: Sequence[WideRow], source: Path, findings: Findings) -> None:
    """Make boxes of rows that were read as polygons and hold a box and key points.

    Args:
        rows: of all label files of the data set.
        source: the data set, for messages.
        findings: is told which files hold key points.

    Raises:
        DataError: the rows may be polygons or boxes with key points alike.
    """
    by_count: dict[int, list[WideRow]] = {}
    for row in rows:
        by_count.setdefault(len(row.numbers), []).append(row)
    for count, some in by_count.items():
        told = any(row.raw.segmentation is None for row in some)  # a visibility of 2 told what it is
        if not told and len(by_count) == 1:  # polygons of a data set seldom have as many corners each
            told = all(has_visibilities(row.numbers, needed=()) for row in some)
            if not told and _may_be_points(count, some):
                raise DataError(_question(count, some, source))
        if told:
            _as_points((row for row in some if row.raw.segmentation is not None), findings)


def _as_points(rows: Iterable[WideRow], findings: Findings) -> None:
    files: set[Path] = set()
    for row in rows:
        row.raw.box, row.raw.segmentation = row.numbers[:4], None
        if row.file not in files:
            files.add(row.file)
            findings.add("label_extra_columns", row.file, row.raw.where, "key points")


def _may_be_points(count: int, rows: list[WideRow]) -> bool:
    """Whether all rows begin with a box, and too many go on in a way that no outline does."""
    if count % 2 or len(rows) < _FEWEST or not all(is_box(row.numbers) for row in rows):
        return False
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    return sum(_crosses(row.numbers) for row in sample) >= _CROSSING * len(sample)


def _question(count: int, rows: list[WideRow], source: Path) -> str:
    return (
        f"expected polygons, or boxes with key points, in the label files of {source}, found rows of {count + 1} "
        f"columns that may be either (the first: {rows[0].file}, {rows[0].raw.where}); write kpt_shape: "
        f"[{count // 2 - 2}, 2] for key points, or kpt_shape: [0, 0] for polygons, into data.yaml"
    )


def _crosses(numbers: list[float]) -> bool:
    """Whether an outline crosses itself, or stays in one place for two points."""
    points = list(zip(numbers[0::2], numbers[1::2], strict=True))
    if any(a == b for a, b in pairwise(points)):
        return True
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    pairs = ((i, j) for i in range(len(edges)) for j in range(i + 2, len(edges)) if (i, j) != (0, len(edges) - 1))
    return any(_cut(*edges[i], *edges[j]) for i, j in pairs)


Point = tuple[float, float]


def _cut(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the line from a to b and that from c to d cross in their insides."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
