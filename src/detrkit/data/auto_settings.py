"""Suggest `num_queries`, `image_size` and `batch_size` from statistics of the training images, with reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.data.records import Split
from detrkit.data.split_arrays import Floats

QUERIES = (20, 300)
"""Smallest and largest suggested number of queries."""
BATCHES = (2, 16)
"""Smallest and largest suggested batch size."""
STEPS = 50
"""Fewest steps per epoch with the suggested batch size, if the smallest allows that."""


@dataclass(frozen=True)
class SuggestedSettings:
    """Suggested settings, named as in `TrainConfig`, and the reason of each."""

    num_queries: int
    image_size: int
    """Shorter side in pixels."""
    batch_size: int
    reasons: dict[str, str]
    """Setting -> reason, as `VALUE: ...`; one sentence without a full stop."""


def suggest_settings(split: Split, *, on_cpu: bool = False, square_resize: bool = False) -> SuggestedSettings:
    """Suggest the settings that depend on the data.

    Args:
        split: the training images, at least one.
        on_cpu: suggest smaller images, with a shorter side of at most 640 pixels instead of 800.
        square_resize: images will be resized to squares.
    """
    fullest = int(split.arrays.counts.max())
    queries, why_queries = _queries(fullest)
    size, why_size = _image_size(split, on_cpu=on_cpu, square_resize=square_resize)
    batch, why_batch = _batch_size(len(split))
    reasons = {
        "num_queries": f"{queries}: {why_queries}",
        "image_size": f"{size}: {why_size}",
        "batch_size": f"{batch}: {why_batch}",
    }
    return SuggestedSettings(queries, size, batch, reasons)


def _queries(fullest: int) -> tuple[int, str]:
    """Three queries per object of the fullest image, rounded up to tens.

    For COCO, with up to 93 objects, that is the usual 300. Several of the best tokens may belong to one object, later
    images may have more objects, and a mosaic has about twice as many.
    """
    low, high = QUERIES
    queries = -(-3 * fullest // 10) * 10
    why = f"three for each of the {_many(fullest, 'object')} in the fullest image"
    if queries < low:
        return low, f"{why} would be too few"
    if queries > high:
        return high, f"{why} would cost more than they bring"
    return queries, why


def _image_size(split: Split, *, on_cpu: bool, square_resize: bool) -> tuple[int, str]:
    """The size at which nine of ten objects are at least 16 pixels large, in multiples of 32.

    16 pixels are two tokens of the finest usual feature level, with stride 8. On a GPU it is twice that, up to the own
    size of the images. The size is below 320 only for images that are smaller, since classes differ in details; and at
    most 1.5 times the own size, since enlarging adds no information. It is at least 64: below, the coarsest level has
    a single token, on which batch norm cannot be trained.
    """
    arrays, own_size = split.arrays, _own_square if square_resize else _own_size
    own = float(np.median(own_size(np.asarray(arrays.heights, np.float64), np.asarray(arrays.widths, np.float64))))
    relative = arrays.measure(lambda w, h, *image: np.sqrt(w * h) / own_size(*image))
    small = float(np.percentile(relative, 10, overwrite_input=True)) if len(relative) else 1.0
    target = 16 / small
    if not on_cpu:
        target = max(target, min(2 * target, own))
    most = min(1.5 * own, 640 if on_cpu else 800)
    size = max(64, round(min(max(target, min(own, 320)), most) / 32) * 32)
    why = f"the images' own size is {own:.0f} in the median"
    if len(relative):
        why += f", and nine of ten objects are at least {small * size:.0f} pixels large then"
    return size, why


def _own_size(heights: Floats, widths: Floats) -> Floats:
    """The `image_size` that leaves images as they are: the shorter side, or more for a long one (see `Transform`)."""
    return np.maximum(np.minimum(heights, widths), np.maximum(heights, widths) * 800 / 1333)


def _own_square(heights: Floats, widths: Floats) -> Floats:
    """Side of the square with as many pixels as each image."""
    return np.sqrt(heights * widths)


def _batch_size(num_images: int) -> tuple[int, str]:
    """The largest power of two within BATCHES that leaves `STEPS` steps per epoch."""
    low, high = BATCHES
    batch = high
    while batch > low and num_images // batch < STEPS:
        batch //= 2
    makes = "makes" if num_images == 1 else "make"
    return batch, f"{_many(num_images, 'image')} {makes} {_many(max(1, num_images // batch), 'step')} per epoch"


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
