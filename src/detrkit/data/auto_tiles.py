"""Suggest tiles for large images with small objects, from statistics of the training images, with the reason."""

from __future__ import annotations

import math

import numpy as np

from detrkit.data.records import Split
from detrkit.data.split_arrays import Floats
from detrkit.data.transforms.resize_crop import eval_transform

SMALLEST = 8
"""Side in pixels after the resize below which objects are too small: one cell of the finest usual feature level."""
WANTED = 16
"""Side in pixels that they shall have in tiles."""
ENLARGED = 1.5
"""Largest factor by which tiles are enlarged, which adds no information."""
LEAST_GAIN = 1.5
"""Tiles that show objects larger by less than this factor are not worth their time."""


def suggest_tiles(split: Split, image_size: int, *, square_resize: bool = False) -> tuple[int | None, str]:
    """Suggest the size of tiles.

    Tiles pay if one of ten objects would be smaller than `SMALLEST` pixels after the resize of whole images. They are
    so large that these objects are `WANTED` pixels large, and that 19 of 20 objects fit into one.

    Args:
        split: the training images, at least one.
        image_size: shorter side to which images, or tiles, are resized, in pixels.
        square_resize: whether both sides are resized.

    Returns:
        The side in pixels of the images; None: no tiles. And the reason, a sentence without a full stop.
    """
    transform = eval_transform(image_size, square_resize=square_resize)
    arrays = split.arrays

    def gain_of(w: Floats, h: Floats, heights: Floats, widths: Floats) -> Floats:
        sizes, which = np.unique(np.stack([heights, widths]).astype(np.int64), axis=1, return_inverse=True)
        gains = [(math.prod(transform.output_size(h, w)) / (h * w)) ** 0.5 for h, w in sizes.T.tolist()]
        return np.array(gains)[which.reshape(-1)]

    sides = arrays.measure(lambda w, h, *image: np.sqrt(w * h))
    longest = arrays.measure(lambda w, h, *image: np.maximum(w, h))
    gains = arrays.measure(gain_of)
    resized = sides * gains
    if not len(sides):
        return None, "there are no objects to be small"
    small, median = np.percentile(resized, [10, 50])
    sizes = f"after the resize of whole images to {image_size} half of the objects are below {median:.0f} pixels"
    if small >= SMALLEST:
        return None, f"{sizes}, and nine of ten at least {small:.0f}, which is large enough"
    size = max(image_size * float(np.percentile(sides, 10)) / WANTED, float(np.percentile(longest, 95)))
    size = max(32, round(max(size, image_size / ENLARGED) / 32) * 32)
    gain = image_size / size / float(np.median(gains))
    small_words = f"{sizes}, one of ten below {small:.1f}"
    if gain < LEAST_GAIN:
        return None, f"{small_words}, but tiles that hold the large objects, too, would show them hardly larger"
    return size, f"{small_words}; in tiles these are {gain:.1f} times as large"


def suggest_overlap(split: Split, size: int) -> int:
    """The overlap that lets some tile of `size` pixels show each object whole: the length of the longest but one in
    twenty, in multiples of 8, from an eighth to a half of the size."""
    longest = split.arrays.measure(lambda w, h, *image: np.maximum(w, h))
    length = -(-float(np.percentile(longest, 95)) // 8) * 8 if len(longest) else 0
    return int(min(max(length, size // 8), size // 2))
