"""Convert COCO masks and boxes, in the variants that tools write, to the numbers of the COCO format."""

from __future__ import annotations

import json
from typing import Any

from detrkit.ops.masks import decode_segmentation, is_polygon, segmentation_fault

_LEAST = 6
"""Number of values of the smallest polygon: three points."""


def plain_segmentation(value: Any) -> Any:
    """Convert a segmentation to a list of polygons [x, y, x, y, ...] or an RLE; anything else is returned as it is.

    Tools write one flat polygon (VIA), points as pairs or as {"x": .., "y": ..}, and numbers or all of it as text.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(number, int | float) for number in value):
        return [value]
    if _is_points(value):
        return [_flat(value)]
    return [_flat(p) if isinstance(p, list) and not set(map(type, p)) <= {int, float} else p for p in value]


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """The box x, y, w, h in pixels around polygons or an RLE; None if the segmentation is empty."""
    if isinstance(segmentation, dict):
        return _box_of_rle(segmentation)
    if not isinstance(segmentation, list):
        return None
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs else None


def _box_of_rle(rle: dict[str, Any]) -> list[float] | None:
    size = rle.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        return None
    if segmentation_fault(rle, *size):
        return None
    mask = decode_segmentation(rle, *size)
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return None
    y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return [x1, y1, x2 - x1, y2 - y1]


def _is_points(value: list[Any]) -> bool:
    """Whether a list holds the points of one polygon rather than several polygons."""
    return all(_is_point(point) for point in value) and len(value) * 2 >= _LEAST


def _is_point(value: Any) -> bool:
    if isinstance(value, dict):
        return {"x", "y"} <= value.keys()
    return isinstance(value, list) and len(value) == 2 and all(_number(number) is not None for number in value)


def _flat(polygon: list[Any]) -> list[Any]:
    """The polygon as a flat list of numbers; unchanged if it contains anything else."""
    flat: list[Any] = []
    for part in polygon:
        if isinstance(part, dict) and {"x", "y"} <= part.keys():
            flat += [part["x"], part["y"]]
        elif isinstance(part, list) and len(part) == 2:
            flat += part
        else:
            flat.append(part)
    numbers = [_number(value) for value in flat]
    return polygon if any(number is None for number in numbers) else numbers


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None
