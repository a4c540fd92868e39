"""Labels of boxes: names on a background of their color, inside the image and without overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from detrkit.visualization.canvas import ink_on
from detrkit.visualization.fonts import Color, cut_to, text_width, write

FARTHEST = 12
"""Most label heights that a label is moved up or down to avoid others."""


def write_labels(
    scene: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[str],
    colors: Sequence[Color],
    letters: int,
) -> None:
    """Write a label at each box of an image, which is changed.

    Args:
        scene: image to write on.
        boxes: x1, y1, x2, y2 in pixels, one per label; the last is the most important one.
        labels: text at each box.
        colors: RGB of the background of each label.
        letters: height of the letters in pixels.
    """
    pad = max(2, letters // 4)
    texts = [cut_to(text, letters, scene.width - 2 * pad) for text in labels]
    widths = [math.ceil(text_width(text, letters)) + 2 * pad for text in texts]
    height = letters + 2 * pad
    corners = [(box[0], box[1] - height) for box in boxes]
    positions = place_labels(corners[::-1], widths[::-1], height, scene.size)[::-1]
    pen = ImageDraw.Draw(scene)
    for (left, top), width, text, color in zip(positions, widths, texts, colors, strict=True):
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
        write(pen, (left + pad, top + height / 2), text, letters, ink_on(color))


def place_labels(
    corners: Sequence[tuple[float, float]], widths: Sequence[int], height: int, size: tuple[int, int]
) -> list[tuple[int, int]]:
    """The left and upper edge of each label: as near to its corner as it can be without overlapping earlier ones.

    Where a crowd leaves no room nearby, it stays at its corner.

    Args:
        corners: preferred upper left corner of each label, x and y in pixels.
        widths: width of each label in pixels.
        height: height of every label in pixels.
        size: width and height of the image.
    """
    steps = sorted(range(-FARTHEST, FARTHEST + 1), key=abs)
    lefts, tops = np.zeros(len(corners)), np.zeros(len(corners))
    rights = lefts.copy()
    for k, ((x, y), width) in enumerate(zip(corners, widths, strict=True)):
        left, lowest = max(0, min(round(x), size[0] - width)), max(0, size[1] - height)
        first = max(0, min(round(y), lowest))
        beside = (lefts[:k] < left + width) & (rights[:k] > left)
        candidates = np.array([first + step * height for step in steps])
        free = (candidates >= 0) & (candidates <= lowest) & _apart(tops[:k][beside], candidates, height)
        lefts[k], rights[k] = left, left + width
        tops[k] = candidates[free.argmax()] if free.any() else first
    return list(zip(lefts.astype(int).tolist(), tops.astype(int).tolist(), strict=True))


def _apart(taken: npt.NDArray[np.float64], candidates: npt.NDArray[np.int_], height: int) -> npt.NDArray[np.bool_]:
    """[n]: whether candidate positions are a height or more away from all taken ones."""
    return np.asarray((np.abs(candidates[:, None] - taken[None]) >= height).all(axis=1))
