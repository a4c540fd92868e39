"""Find the value range of a data set whose images have more than 8 bits per channel.

The range is found over all images of the training split, never over a single image: from the smallest to the largest
value, widened to the natural range around them. Natural ranges are 0..255, 0..1023, 0..4095, ... (8 bits and every two
more) for integers, and 0..1 and 0..255 for floats. So the range depends little on which images are there, and a hot
pixel of a camera, which has the largest value of its bit depth, does not change it.

If the values fill less than a quarter of the natural range (such as the counts of a thermal camera), or some are
negative, the range is that of the values, since most of the 256 levels would be lost otherwise. Percentiles are not
used: few bright or hot pixels are the objects of many such data sets. A note reports extremes that are outliers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from detrkit.data.validation.findings import Findings
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange, Values, format_number

SAMPLES = 65536
"""Pixels of an image that are sampled for its percentiles."""

LEAST_FILLED = 1 / 4
"""Share of a natural range that the values must fill to be widened to it."""

FEW_LEVELS = 32
"""If nearly all pixels of all images lie within fewer of the 256 levels, the range is due to outliers."""

OTHER_SCALE = 1 / 16
"""An image whose values fill less than this share of the range may have another scale."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Value range of one image."""

    low: float
    """Smallest finite value; infinity if there is none."""
    high: float
    """Largest finite value."""
    usual_low: float
    """1st percentile of the pixels."""
    usual_high: float
    """99th percentile of the pixels."""
    whole: bool
    """Whether all values are whole numbers."""


class ProbedImage(Protocol):
    """The part of `ImageInfo` that is used here."""

    deep: bool
    """Whether the image has more than 8 bits per channel."""
    extent: Extent | None
    """Its value range, if it was measured."""


def measure_extent(values: Values) -> Extent:
    """Measure the value range of an image of any shape and type."""
    whole = True
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        values = values[finite] if not finite.all() else values
        whole = bool((values == np.rint(values)).all())
    if not values.size:
        return Extent(math.inf, -math.inf, math.inf, -math.inf, True)
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLES)]
    usual_low, usual_high = np.percentile(sample, (1, 99))
    return Extent(float(values.min()), float(values.max()), float(usual_low), float(usual_high), whole)


def find_value_range(extents: Iterable[Extent]) -> ValueRange | None:
    """The value range of a data set, from the extents of its images in any order; None if there are no images."""
    extents = list(extents)
    if not extents:
        return None
    low, high = min(each.low for each in extents), max(each.high for each in extents)
    whole = all(each.whole for each in extents)
    if low > high:  # no finite value at all
        return ValueRange(0, 1)
    natural = _natural_white(high, whole=whole)
    if low >= 0 and natural and (high - low >= LEAST_FILLED * natural or low == high):
        return ValueRange(0, natural)
    return ValueRange(low, high) if low < high else ValueRange(low, low + 1)


def _natural_white(high: float, *, whole: bool) -> float | None:
    """The smallest natural maximum that is not below a value."""
    if not whole:
        return 1.0 if high <= 1 else 255.0 if high <= 255 else None
    bits = 8
    while 2**bits - 1 < high:
        bits += 2
    return float(2**bits - 1)


def resolve_value_range(
    by_split: Mapping[str, Mapping[Path, ProbedImage]],
    value_range: ValueRange | Literal["find"] | None,
    findings: Findings,
) -> tuple[ValueRange | None, list[str]]:
    """Decide the value range of a data set, and explain the decision.

    Args:
        by_split: split -> usable image -> its probe. The training split decides, where there is one.
        value_range: the range of a model or of the user, None if it is unknown; or "find" it in the images.
        findings: takes images that do not fit the range.

    Returns:
        The range, None if no image needs one or none is known; and notes for the user.
    """
    deep = {name: {path: info for path, info in images.items() if info.deep} for name, images in by_split.items()}
    if not any(deep.values()):
        return None if value_range == "find" else value_range, []
    deciding = "train" if "train" in by_split else next(iter(by_split))
    measured = {
        name: {path: info.extent for path, info in images.items() if info.extent is not None}
        for name, images in deep.items()
    }
    if value_range is None:
        return None, [UNKNOWN_RANGE]
    if value_range != "find":
        _note_misfits(measured, deciding, value_range, findings)
        return value_range, [f"in images of more than 8 bits per channel, {value_range} is mapped to 0..255"]
    value_range = find_value_range(measured[deciding].values())
    if value_range is None:
        return None, [f"no image of {deciding} has more than 8 bits, but others have: {UNKNOWN_RANGE}"]
    _note_misfits(measured, deciding, value_range, findings)
    count = sum(map(len, deep.values()))
    notes = [_range_note(list(measured[deciding].values()), value_range, deciding)]
    plain = sum(map(len, by_split.values())) - count
    if plain:
        notes.append(f"the {plain} images of 8 bits are used as they are, beside {count} of more bits")
    return value_range, notes


def _range_note(extents: Sequence[Extent], value_range: ValueRange, name: str) -> str:
    low, high = min(each.low for each in extents), max(each.high for each in extents)
    text = (
        f"images of more than 8 bits per channel ({len(extents)} in {name}) hold values {format_number(low)} to "
        f"{format_number(high)}: {value_range} is mapped to 0..255 in every image, kept in the checkpoint, and the "
        "same in evaluation and prediction"
    )
    usual_low, usual_high = min(each.usual_low for each in extents), max(each.usual_high for each in extents)
    levels = 255 * (usual_high - usual_low) / (value_range.high - value_range.low)
    if levels >= FEW_LEVELS:
        return text
    return (
        f"{text}; but 98 % of the pixels of each image lie within {format_number(usual_low)} to "
        f"{format_number(usual_high)}, which are only {levels:.0f} of the 256 levels: if the others are defects of the "
        f"sensor, train with --value_range={format_number(usual_low)},{format_number(usual_high)}"
    )


def _note_misfits(
    measured: Mapping[str, Mapping[Path, Extent]], deciding: str, value_range: ValueRange, findings: Findings
) -> None:
    """Report images with values outside the range, and those within its lowest part, which may have another scale."""
    least = OTHER_SCALE * (value_range.high - value_range.low)
    for name, images in measured.items():
        for path, extent in images.items():
            text = f"values {format_number(extent.low)} to {format_number(extent.high)}, the range is {value_range}"
            if name != deciding and not value_range.low <= extent.low <= extent.high <= value_range.high:
                findings.add("value_out_of_range", path, detail=text)
            elif extent.low < extent.high < value_range.low + least:
                findings.add("value_scale_differs", path, detail=text)
