"""Parse numbers and boxes of annotation files."""

from __future__ import annotations

from typing import Any

from detrkit.data.formats.raw import BoxForm

Box = tuple[float, float, float, float]
_LARGEST = 1e9


def as_number(value: Any) -> float | None:
    """Convert a number or its text to a float (infinite if it is too large); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return float("inf")


def parse_box(values: Any, form: BoxForm) -> tuple[Box | None, str]:
    """Parse a box to x1, y1, x2, y2 in the units of the file, or None; and the kind of its finding, if any."""
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None, "box_malformed"
    numbers = [number for value in values if (number := as_number(value)) is not None]
    if len(numbers) < 4:
        return None, "box_malformed"
    a, b, c, d = numbers
    if not (abs(a) < _LARGEST and abs(b) < _LARGEST and abs(c) < _LARGEST and abs(d) < _LARGEST):
        return None, "box_not_finite"
    if form == "xyxy":
        box = (min(a, c), min(b, d), max(a, c), max(b, d))
    elif form == "xywh":
        box = (a, b, a + c, b + d)
    else:
        box = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    if not (box[0] < box[2] and box[1] < box[3]):
        return None, "box_empty"
    if form == "xyxy" and (c < a or d < b):
        return box, "corners_swapped"
    return box, "number_as_text" if any(isinstance(value, str) for value in values) else ""
