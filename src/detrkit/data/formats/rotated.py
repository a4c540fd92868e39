"""Rotated rectangles: read the angle, and compute the axis-aligned box around them."""

from __future__ import annotations

from math import cos, radians, sin
from typing import Any
from xml.etree.ElementTree import Element

Box = tuple[float, float, float, float]


def enclosing_box(box: Box, rotation: float) -> Box:
    """The axis-aligned box x1, y1, x2, y2 around a rectangle rotated about its center.

    Args:
        box: x1, y1, x2, y2 before the rotation, in pixels.
        rotation: degrees; the sign does not matter.
    """
    x1, y1, x2, y2 = box
    across, down = abs(cos(radians(rotation))), abs(sin(radians(rotation)))
    width, height = (x2 - x1) * across + (y2 - y1) * down, (x2 - x1) * down + (y2 - y1) * across
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def coco_rotation(annotation: dict[str, Any]) -> float:
    """Rotation of a COCO annotation in degrees, as CVAT writes it: `attributes: {"rotation": 60.0}`."""
    attributes = annotation.get("attributes")
    return _angle(attributes.get("rotation")) if isinstance(attributes, dict) else 0.0


def voc_rotation(element: Element) -> float:
    """Rotation of a VOC object in degrees, an attribute that CVAT writes."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return _angle(attribute.findtext("value"))
    return 0.0


def _angle(value: Any) -> float:
    """Convert a number or its text to degrees; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        angle = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return angle if abs(angle) < 1e6 else 0.0
