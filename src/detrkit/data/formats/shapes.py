"""Convert shapes of labeling tools: parse points, compute boxes, turn ellipses into polygons, number classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, hypot, isfinite, pi, sin
from typing import Any

from detrkit.data.formats.raw import RawImage
from detrkit.structures import Categories

Points = list[tuple[float, float]]
_CORNERS = 64
"""Corners of the polygon that replaces an ellipse; its area is 0.16 % too small."""


class UnreadableError(ValueError):
    """A record that cannot be understood, so that its image may hold objects that are not known."""


def number(value: Any) -> float | None:
    """Convert a number or its text to a finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if isfinite(parsed) else None


def points_of(value: Any) -> Points | None:
    """Convert a list of [x, y] to points; None if it is empty or contains anything else."""
    if not isinstance(value, list) or not value:
        return None
    points: Points = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) < 2:
            return None
        x, y = number(pair[0]), number(pair[1])
        if x is None or y is None:
            return None
        points.append((x, y))
    return points


def bounding_box(points: Points) -> list[float]:
    """The box x1, y1, x2, y2 around all points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def flatten(points: Points) -> list[float]:
    """The points as a COCO polygon: x, y, x, y, ..."""
    return [value for point in points for value in point]


def ellipse_polygon(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> tuple[list[float], Points]:
    """The exact box (x1, y1, x2, y2) of an ellipse, and a polygon that approximates it.

    Args:
        cx: x of the center, in pixels.
        cy: y of the center.
        rx: half of the first axis.
        ry: half of the second axis.
        angle: rotation of the first axis from x towards y, in radians.
    """
    c, s = cos(angle), sin(angle)
    wide, high = hypot(rx * c, ry * s), hypot(rx * s, ry * c)
    turns = [2 * pi * k / _CORNERS for k in range(_CORNERS)]
    points = [(cx + rx * cos(t) * c - ry * sin(t) * s, cy + rx * cos(t) * s + ry * sin(t) * c) for t in turns]
    return [cx - wide, cy - high, cx + wide, cy + high], points


def printable(value: Any) -> str:
    """Convert a name to text; numbers are written out, other types give an empty text, surrogates become escapes."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())


def number_classes(images: Iterable[RawImage], order: Sequence[str] = ()) -> Categories:
    """Replace class names in the objects by numbers: those of `order` first, then in alphabetical order.

    Objects without a class name get None as category, which the check reports.
    """
    objects = [raw for image in images for raw in image.objects]
    names = list(dict.fromkeys([*order, *sorted({raw.category for raw in objects if raw.category})]))
    ids = {name: index for index, name in enumerate(names)}
    for raw in objects:
        raw.category = ids.get(raw.category)
    return Categories(tuple(range(len(names))), tuple(names))
