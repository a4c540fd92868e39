"""Parse lines of YOLO label files, one object per line: `class cx cy w h`, and variants that tools write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_SEPARATORS = re.compile(r"[\s,;]+")
_DECIMAL_COMMA = re.compile(r"^-?\d*,\d+$")


@dataclass(slots=True)  # not frozen: three times slower to create
class Line:
    """The object of one line."""

    category: int
    box: list[float]
    """cx, cy, w, h, relative to the image."""
    polygon: list[float] | None = None
    """x, y, x, y, ..., relative to the image."""
    extra: str = ""
    """Values that were ignored: `confidence` or `key points`."""
    wide: list[float] | None = None
    """The values after the class, if they may be a polygon or a box with key points: one line does not tell."""


def parse_line(line: str, *, key_points: int = 0, ids: dict[str, int] | None = None) -> Line | str | None:
    """Parse one line.

    Values are separated by blanks, tabs, commas or semicolons; a # starts a comment. The class is followed by a box, a
    box and a confidence, a box and key points, or a polygon, perhaps with a confidence.

    Args:
        line: the text.
        key_points: number of key point values after each box (`kpt_shape` of the yaml file), 0 for none.
        ids: class name -> id, for files that write the class name.

    Returns:
        The object; None for an empty line; an error text for a line that cannot be parsed.
    """
    text = line.split("#")[0].strip()
    if not text:
        return None
    words = text.split()
    if "," in text or ";" in text:
        if len(words) >= 5 and all(_DECIMAL_COMMA.match(word) or word.isdigit() for word in words[1:]):
            words = [word.replace(",", ".") for word in words]
        else:
            words = [word for word in _SEPARATORS.split(text) if word] or [text]
    if ids and words[0] in ids:
        words[0] = str(ids[words[0]])
    try:
        category, *numbers = map(float, words)
    except ValueError:
        return f"expected numbers, found {text[:60]!r}"
    if not category.is_integer():
        return f"expected the number of a class first, found {text[:60]!r}"
    count = len(numbers)
    if key_points and count in (4 + key_points, 5 + key_points):
        return Line(int(category), numbers[:4], extra="key points")
    if count == 4:
        return Line(int(category), numbers)
    if count == 5:
        return Line(int(category), numbers[:4], extra="confidence")
    if count < 6:
        return f"expected class cx cy w h or a polygon, found {len(words)} columns: {text[:60]!r}"
    if has_visibilities(numbers):
        return Line(int(category), numbers[:4], extra="key points", wide=numbers)
    polygon, extra = (numbers, "") if count % 2 == 0 else (numbers[:-1], "confidence")
    xs, ys = polygon[0::2], polygon[1::2]
    box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    return Line(int(category), box, polygon, extra, numbers)


def has_visibilities(numbers: list[float], needed: tuple[float, ...] = (2.0,)) -> bool:
    """Whether the values are a box and points of x, y and a visibility of 0, 1 or 2.

    Args:
        numbers: the values after the class.
        needed: visibilities that must occur; a polygon never contains a 2.
    """
    flags = numbers[6::3]
    return (
        len(numbers) % 3 == 1
        and all(flag in flags for flag in needed)
        and all(flag in (0.0, 1.0, 2.0) for flag in flags)
        and all(0 <= number <= 1 for number in numbers[:4])
        and (bool(needed) or is_box(numbers))
    )


def is_box(numbers: list[float]) -> bool:
    """Whether the first four values are a box inside its image, up to rounding."""
    cx, cy, w, h = numbers[:4]
    return 0 < w <= 1 and 0 < h <= 1 and all(c - s / 2 > -0.01 and c + s / 2 < 1.01 for c, s in ((cx, w), (cy, h)))


def as_ids(names: dict[int, str]) -> dict[str, int]:
    """Invert id -> name for `parse_line`, without names that are numbers, which would be read as ids."""
    return {name: number for number, name in names.items() if not _is_number(name)}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
