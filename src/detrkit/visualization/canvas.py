"""Basics of drawing: images as arrays, and the colors of classes."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from detrkit.errors import DataError

ImageArray = npt.NDArray[np.uint8]
"""uint8 RGB [H, W, 3]."""

READABLE_SIDE = 480
"""Pixels of the longer side below which an image is enlarged before it is drawn on."""

FIRST_COLORS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46d9f0", "#f032e6", "#bfef45",
    "#ffe119", "#009688", "#dc9cff", "#9a6324", "#fabed4", "#800000", "#aaffc3", "#3f51b5",
)  # fmt: skip


def color_of(class_id: int) -> tuple[int, int, int]:
    """The color of a class, RGB (0..255): the same in every image and run, and far apart for neighboring ids."""
    if 0 <= class_id < len(FIRST_COLORS):
        code = FIRST_COLORS[class_id]
        return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
    # Steps of the golden ratio never come back near a hue soon; brightness and saturation change along.
    hue = class_id * 0.618033988749895 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.95, 0.6, 0.8)[class_id % 3], (0.95, 0.75)[class_id // 3 % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is more readable on `color` (luma of ITU-R BT.601)."""
    return (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else (255, 255, 255)


def as_image(image: Any) -> ImageArray:
    """Convert a path, PIL image, tensor or array to a uint8 RGB array [H, W, 3]; arrays are returned as they are.

    Raises:
        DataError: the image cannot be read or has another shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"expected a uint8 array [H, W, 3], found {image.dtype} {list(image.shape)}")
        return image
    from detrkit.data.decode.images import to_tensor

    return np.ascontiguousarray(to_tensor(image).permute(1, 2, 0).numpy())


def enlarged_side(rgb: ImageArray) -> int:
    """Longer side in pixels of a drawing: that of the image, or a multiple where it is too small."""
    longer = int(max(rgb.shape[:2]))
    return longer * max(1, math.ceil(READABLE_SIDE / longer))


def resized(rgb: ImageArray, side: int) -> ImageArray:
    """Resize an image so that its longer side has `side` pixels."""
    height, width = rgb.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return rgb.copy()
    method = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(rgb).resize(size, method), dtype=np.uint8).copy()
