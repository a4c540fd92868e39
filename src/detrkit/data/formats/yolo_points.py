"""Decide whether YOLO rows with many values are polygons or boxes with key points, where no yaml file states it.

A row `class cx cy w h x y visible ...` looks like a polygon. All rows with the same number of columns decide together:
they hold key points if any of them has a visibility of 2, or if all of them have visibilities of 0 or 1. Key points
without visibilities cannot be distinguished from polygon corners; rows that look like them raise an error with a
question.
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
"""Fewest rows that raise the question."""
_CROSSING = 0.2
"""Share of self-intersecting outlines from which on rows may be no polygons."""


@dataclass(frozen=True, slots=True)
class WideRow:
    """A row with more values than a box and a confidence."""

    raw: RawObject
    """The object that was made of the row."""
    numbers: list[float]
    """The values after the class."""
    file: Path


def resolve_key_points(rows: Sequence[WideRow], source: Path, findings: Findings) -> None:
    """Turn objects into boxes that were read as polygons, but whose rows hold a box and key points.

    Args:
        rows: the rows of all label files of the data set.
        source: the data set, for messages.
        findings: takes the files with key points.

    Raises:
        DataError: the rows may be polygons as well as boxes with key points.
    """
    by_count: dict[int, list[WideRow]] = {}
    for row in rows:
        by_count.setdefault(len(row.numbers), []).append(row)
    for count, rows_of_count in by_count.items():
        is_points = any(row.raw.segmentation is None for row in rows_of_count)  # a visibility of 2 was in the row
        if not is_points and len(by_count) == 1:  # polygons of a data set seldom have as many corners each
            is_points = all(has_visibilities(row.numbers, needed=()) for row in rows_of_count)
            if not is_points and _may_be_points(count, rows_of_count):
                raise DataError(_ambiguity_message(count, rows_of_count, source))
        if is_points:
            _as_points((row for row in rows_of_count if row.raw.segmentation is not None), findings)


def _as_points(rows: Iterable[WideRow], findings: Findings) -> None:
    files: set[Path] = set()
    for row in rows:
        row.raw.box, row.raw.segmentation = row.numbers[:4], None
        if row.file not in files:
            files.add(row.file)
            findings.add("label_extra_columns", row.file, row.raw.where, "key points")


def _may_be_points(count: int, rows: list[WideRow]) -> bool:
    """Whether all rows begin with a box, and too many have an outline that intersects itself."""
    if count % 2 or len(rows) < _FEWEST or not all(is_box(row.numbers) for row in rows):
        return False
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    return sum(_crosses(row.numbers) for row in sample) >= _CROSSING * len(sample)


def _ambiguity_message(count: int, rows: list[WideRow], source: Path) -> str:
    return (
        f"expected polygons, or boxes with key points, in the label files of {source}, found rows of {count + 1} "
        f"columns that may be either (the first: {rows[0].file}, {rows[0].raw.where}); write kpt_shape: "
        f"[{count // 2 - 2}, 2] for key points, or kpt_shape: [0, 0] for polygons, into data.yaml"
    )


def _crosses(numbers: list[float]) -> bool:
    """Whether an outline intersects itself, or repeats a point."""
    points = list(zip(numbers[0::2], numbers[1::2], strict=True))
    if any(a == b for a, b in pairwise(points)):
        return True
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    pairs = ((i, j) for i in range(len(edges)) for j in range(i + 2, len(edges)) if (i, j) != (0, len(edges) - 1))
    return any(_intersect(*edges[i], *edges[j]) for i, j in pairs)


Point = tuple[float, float]


def _intersect(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a-b and c-d intersect in their interiors."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
