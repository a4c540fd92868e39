"""Shapes as people draw them: points out of whatever a file has, boxes around them, ovals as polygons, class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import cos, hypot, isfinite, pi, sin
from typing import Any

from detrkit.data.formats.raw import RawImage
from detrkit.structures import Categories

Points = list[tuple[float, float]]
_CORNERS = 64
"""Of the polygon that stands for a circle: its area is a sixth of a percent too small."""


class UnreadableError(ValueError):
    """A record of an annotation file that says nothing, so that its image may hold more than is known."""


def number(value: Any) -> float | None:
    """A finite number, or the one that a text writes; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if isfinite(found) else None


def points_of(value: Any) -> Points | None:
    """Points of a list of [x, y]; None where there are none, or something that is no point among them."""
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


def extent(points: Points) -> list[float]:
    """x1, y1, x2, y2 of the smallest box that holds all points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def flat(points: Points) -> list[float]:
    """x, y, x, y, ... as COCO polygons have them."""
    return [value for point in points for value in point]


def oval(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> tuple[list[float], Points]:
    """The exact box of an ellipse, and a polygon for it.

    Args:
        cx: x of its centre, in pixels.
        cy: y of it.
        rx: half of its first axis.
        ry: half of its second axis.
        angle: by which the first axis is turned from x towards y, in radians.
    """
    c, s = cos(angle), sin(angle)
    wide, high = hypot(rx * c, ry * s), hypot(rx * s, ry * c)
    turns = [2 * pi * k / _CORNERS for k in range(_CORNERS)]
    points = [(cx + rx * cos(t) * c - ry * sin(t) * s, cy + rx * cos(t) * s + ry * sin(t) * c) for t in turns]
    return [cx - wide, cy - high, cx + wide, cy + high], points


def printable(value: Any) -> str:
    """A name as text: numbers are written out, anything else but text is none; halves of characters are spelt out."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())


def number_classes(images: Iterable[RawImage], order: Sequence[str] = ()) -> Categories:
    """Number the classes of objects, whose categories are names: those of `order` first, then the alphabet.

    Objects without a name keep None as category, which the check finds.
    """
    objects = [found for image in images for found in image.objects]
    names = list(dict.fromkeys([*order, *sorted({found.category for found in objects if found.category})]))
    ids = {name: index for index, name in enumerate(names)}
    for found in objects:
        found.category = ids.get(found.category)
    return Categories(tuple(range(len(names))), tuple(names))
