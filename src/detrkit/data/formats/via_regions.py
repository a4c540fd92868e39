"""Convert VIA regions to objects: shapes to boxes and polygons, and one of the attributes to the class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detrkit.data.files.source import Source
from detrkit.data.formats.raw import RawImage, RawObject
from detrkit.data.formats.shapes import (
    Points,
    UnreadableError,
    bounding_box,
    ellipse_polygon,
    flatten,
    number,
    printable,
)

_CLASS_WORDS = ("class", "label", "category", "type", "name", "object", "species", "defect")
"""Words in the names of attributes that hold classes, the most likely first."""
_THROUGHOUT = 0.9
_ONE_CLASS = "object"


@dataclass
class Region:
    """A shape and its attributes."""

    where: str
    shape: dict[str, Any]
    attributes: dict[str, Any]

    @property
    def key(self) -> str:
        """Equal for equal regions of different files."""
        return json.dumps([self.shape, self.attributes], sort_keys=True)


def choose_attribute(regions: Sequence[Region], source: Source) -> str:
    """Choose the attribute that holds the class; empty if there are no attributes."""
    values: dict[str, list[str]] = {}
    for region in regions:
        for attribute, value in region.attributes.items():
            if names := _names(value):
                values.setdefault(attribute, []).append(" ".join(names))
    if not values:
        if regions:
            source.notes.append(f"the regions have no attributes; all objects are of the class {_ONE_CLASS!r}")
        return ""
    most = max(map(len, values.values()))

    def rank(attribute: str) -> tuple[int, int, int]:
        given = values[attribute]
        word = next((k for k, w in enumerate(_CLASS_WORDS) if w in attribute.lower()), len(_CLASS_WORDS))
        return word if len(given) >= _THROUGHOUT * most else len(_CLASS_WORDS), -len(given), len(set(given))

    chosen = min(values, key=rank)
    if len(values) > 1:
        others = " and ".join(repr(printable(name)) for name in values if name != chosen)
        source.notes.append(
            f"the class of a region is its attribute {printable(chosen)!r} ({len(values[chosen])} of {len(regions)} "
            f"regions have it); {others} is not used"
        )
    if any(len(_names(region.attributes.get(chosen))) > 1 for region in regions):
        source.notes.append(f"regions with several values of {printable(chosen)!r} are an object of each")
    return chosen


def _names(value: Any) -> list[str]:
    """Class names in the value of an attribute: its text, or its selected options."""
    if isinstance(value, dict):
        value = [option for option, ticked in value.items() if ticked and ticked != "false"]
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [name for name in map(printable, values) if name]


def objects_of(region: Region, chosen: str, image: RawImage, source: Source) -> list[RawObject]:
    """Make the objects of a region: none, one, or one per class."""
    kind = region.shape.get("name")
    outline = _box_and_polygon(kind, region)
    if outline is None:
        source.findings.add("shape_no_object", image.file, region.where, f"shape {kind!r}")
        return []
    if any(isinstance(value, str) for key, value in region.shape.items() if key != "name"):
        source.findings.add("number_as_text", image.file, region.where, "shape_attributes")
    names: list[Any] = (_names(region.attributes.get(chosen)) or [None]) if chosen else [_ONE_CLASS]
    box, polygon = outline
    return [RawObject(None, name, box, None, False, polygon, region.where) for name in names]


def _box_and_polygon(kind: Any, region: Region) -> tuple[list[float], Any] | None:
    """Box (x1, y1, x2, y2) and polygons of a shape; None if it is no object, such as a point.

    Raises:
        UnreadableError: numbers are missing, so that the image may hold objects that are not known.
    """
    if kind == "rect":
        x, y, width, height = _numbers(region, "x", "y", "width", "height")
        return [x, y, x + width, y + height], None
    if kind == "circle":
        cx, cy, r = _numbers(region, "cx", "cy", "r")
        box, ring = ellipse_polygon(cx, cy, r, r)
        return box, [flatten(ring)]
    if kind == "ellipse":
        cx, cy, rx, ry = _numbers(region, "cx", "cy", "rx", "ry")
        box, ring = ellipse_polygon(cx, cy, rx, ry, number(region.shape.get("theta")) or 0.0)
        return box, [flatten(ring)]
    if kind == "polygon":
        xs, ys = (region.shape.get(f"all_points_{axis}") for axis in "xy")
        points: Points = []
        for pair in zip(xs, ys, strict=False) if isinstance(xs, list) and isinstance(ys, list) else ():
            px, py = map(number, pair)
            if px is None or py is None:
                break
            points.append((px, py))
        if not isinstance(xs, list) or not isinstance(ys, list) or not points or not len(xs) == len(ys) == len(points):
            raise UnreadableError(f"{region.where}: expected all_points_x and all_points_y, as many of each")
        return bounding_box(points), [flatten(points)]
    return None


def _numbers(region: Region, *keys: str) -> list[float]:
    values = [number(region.shape.get(key)) for key in keys]
    finite = [value for value in values if value is not None]
    if len(finite) < len(keys):
        raise UnreadableError(f"{region.where}: expected numbers for {', '.join(keys)}")
    return finite
