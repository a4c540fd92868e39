"""Suggest `num_queries`, `image_size` and `batch_size` from statistics of the training images, with reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.data.records import ImageRecord, Split

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
    fullest = max(sum(not obj.crowd for obj in image.objects) for image in split.images)
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
    own_size = _own_square if square_resize else _own_size
    own = float(np.median([own_size(image) for image in split.images]))
    relative = [
        ((o.box[2] - o.box[0]) * (o.box[3] - o.box[1])) ** 0.5 / own_size(image)
        for image in split.images
        for o in image.objects
        if not o.crowd
    ]
    small = float(np.percentile(relative, 10)) if relative else 1.0
    target = 16 / small
    if not on_cpu:
        target = max(target, min(2 * target, own))
    most = min(1.5 * own, 640 if on_cpu else 800)
    size = max(64, round(min(max(target, min(own, 320)), most) / 32) * 32)
    why = f"the images' own size is {own:.0f} in the median"
    if relative:
        why += f", and nine of ten objects are at least {small * size:.0f} pixels large then"
    return size, why


def _own_size(image: ImageRecord) -> float:
    """The `image_size` that leaves an image as it is: its shorter side, or more for a long one (see `Transform`)."""
    return max(min(image.height, image.width), max(image.height, image.width) * 800 / 1333)


def _own_square(image: ImageRecord) -> float:
    """Side of the square with as many pixels as the image."""
    return float((image.height * image.width) ** 0.5)


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
