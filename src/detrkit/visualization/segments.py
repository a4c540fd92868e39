"""Drawing of masks and panoptic maps: tinted, outlined and named.

Names stand inside what they name where they fit, and never on each other. Where a crowd leaves no room for them, a
legend names the classes instead.
"""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from detrkit.visualization.canvas import ImageArray, as_image, color_of, enlarged_side, ink_on, resized
from detrkit.visualization.fonts import cut_to, name_of, text_width, write

Mask = npt.NDArray[np.bool_]
Color = tuple[int, int, int]

OPACITY = 0.45
"""Opacity of the color of a mask."""

SMALLEST = 9
"""Size of the smallest letters in pixels."""

PLACES = 800
"""Rows or columns, along the longer side of a large image, that are tried as positions of names."""

CROWD = 40
"""Number of objects in an image above which only names that fit into their objects are written."""


@dataclass(frozen=True)
class Named:
    """A segment to draw, in pixels of the image that it is drawn on."""

    mask: Tensor
    """bool [H, W], of the image's original size."""
    color: Color
    texts: tuple[str, ...]
    """Texts for its name, of which the first that fits is written."""
    class_name: str
    """Name of the class, for the legend."""
    box: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2: drawn where the mask is empty, and where the name goes if it does not fit inside. None: a name
    that does not fit is left out."""


class DrawableMap(Protocol):
    """A panoptic map to draw: a `PanopticMap`, or anything with the same fields."""

    @property
    def ids(self) -> Tensor:
        """int64 [H, W], the segment of each pixel."""

    @property
    def segments(self) -> list[dict[str, Any]]:
        """One row per segment: `id`, `category_id`, `area` in pixels and perhaps `category_name`."""


def draw_panoptic(image: Any, panoptic: DrawableMap, *, side: int = 0) -> ImageArray:
    """Draw the segments of an image: tinted, outlined and named, with the share of the image that each covers.

    Stuff has the color of its class; several things of one class have shades of it.

    Args:
        image: path, PIL image or uint8 RGB array [H, W, 3].
        panoptic: map of a `Detector` or, with class indices, of `detrkit.panoptic`; its ids are [H, W], of the size of
            the image.
        side: longer side of the result in pixels; 0: those of the image, or a whole multiple of them where
            it is too small to be read.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        DataError: the image cannot be read.
    """
    rgb = as_image(image)
    ids = panoptic.ids.cpu()
    rows = sorted(panoptic.segments, key=lambda row: -row["area"])
    named = []
    for row, color in zip(rows, shades([int(row["category_id"]) for row in rows]), strict=True):
        name = name_of(str(row.get("category_name", row["category_id"])))
        texts = (f"{name} {share_of(row['area'] / ids.numel())}", name)
        named.append(Named(ids == row["id"], color, texts, name))
    return draw_named(resized(rgb, side or enlarged_side(rgb)), named)


def draw_named(scene: ImageArray, segments: Sequence[Named], *, letters: int = 0) -> ImageArray:
    """Segments on an image, uint8 RGB [H, W, 3], which is changed; later ones lie above, names are placed from the
    last to the first.

    Args:
        scene: image to draw on; masks are resized to it.
        segments: segments to draw.
        letters: pixels of the largest letters; 0: by the size of the scene.
    """
    height, width = scene.shape[:2]
    thickness = max(1, round(max(height, width) / 500))
    letters = letters or max(11, round(max(height, width) / 45))
    outlines = [tint(scene, _fitted(each.mask, height, width), each.color) for each in segments]
    for each, outline in zip(segments, outlines, strict=True):
        cv2.drawContours(scene, outline, -1, _lighter(each.color), thickness, cv2.LINE_AA)
        if not outline and each.box:
            x1, y1, x2, y2 = (round(value) for value in each.box)
            cv2.rectangle(scene, (x1, y1), (x2, y2), each.color, thickness)
    labels = _Labels(height, width, letters)
    outside = []
    for each in reversed(segments):
        mask = _fitted(each.mask, height, width)[:: labels.step, :: labels.step]
        if not labels.add_inside(each, mask):
            outside.append(each)
            labels.small |= mask
    unnamed = Counter(each.class_name for each in outside if len(segments) > CROWD or not labels.add_beside(each))
    counts = Counter(each.class_name for each in segments)
    hardly_named = [each for each in segments if 2 * unnamed[each.class_name] > counts[each.class_name]]
    if hardly_named:
        labels.add_legend(hardly_named)
    return labels.write_on(scene)


def shades(class_ids: Sequence[int]) -> list[Color]:
    """One color per object: that of its class, and shades of it for further objects of the class.

    Where all are of one class, the colors tell objects apart instead.
    """
    spread = 0.9 if len(set(class_ids)) == 1 else 0.25
    seen: Counter[int] = Counter()
    colors = []
    for class_id in class_ids:
        colors.append(_shade(color_of(class_id), seen[class_id], spread))
        seen[class_id] += 1
    return colors


def _shade(color: Color, number: int, spread: float) -> Color:
    """A shade of `color` that differs from those of other numbers, within a share of the circle of hues.

    Number 0 gives `color`.
    """
    if not number:
        return color
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    turn = (number * 0.618033988749895 + 0.5) % 1.0 - 0.5  # golden steps, as in `color_of`
    light = min(0.75, max(0.35, light + (0.0, 0.14, -0.1)[number % 3]))
    red, green, blue = colorsys.hls_to_rgb((hue + spread * turn) % 1.0, light, max(0.45, saturation))
    return round(red * 255), round(green * 255), round(blue * 255)


def _lighter(color: Color) -> Color:
    """Lighten a color halfway to white, for outlines that stand out from their segment."""
    return (color[0] + 255) // 2, (color[1] + 255) // 2, (color[2] + 255) // 2


def share_of(share: float) -> str:
    """Format a share 0..1 in percent."""
    return f"{100 * share:.0f}%" if share >= 0.0095 else "<1%"


def tint(scene: ImageArray, mask: Mask, color: Color) -> list[Any]:
    """Tint the pixels of a mask [H, W] in place; returns the outlines, as OpenCV has them."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    below = scene[top : rows[-1] + 1, left : columns[-1] + 1]
    table = np.arange(256)[:, None] * (1 - OPACITY) + np.asarray(color) * OPACITY  # for each value of each channel
    below[:] = cv2.copyTo(cv2.LUT(below, table.round().astype(np.uint8)[None]), part, below.copy())
    outlines, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    return list(outlines)


class _Labels:
    """Names on an image that do not overlap.

    All positions and sizes are in steps of several pixels, so that there are few however large the image is.
    """

    def __init__(self, height: int, width: int, letters: int) -> None:
        self.step = max(1, max(height, width) // PLACES)
        self.taken = np.zeros((-(-height // self.step), -(-width // self.step)), dtype=bool)
        self.small = self.taken.copy()  # objects that a name would hide
        self.sizes = list(dict.fromkeys(max(SMALLEST, round(letters * part)) for part in (1, 0.85, 0.7, 0.5)))
        self.chips: list[tuple[int, int, int, int, str, int, Color]] = []

    def add_inside(self, segment: Named, mask: Mask) -> bool:
        """Write the name of a segment on it, near its middle; returns whether it fits."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return False
        window = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        free = _part(mask, window) & ~_part(self.taken, window)
        middle = [float(where.mean()) for where in np.nonzero(_part(mask, window))]
        return any(
            self._put(free, window, middle, text, size, segment.color) for text in segment.texts for size in self.sizes
        )

    def add_beside(self, segment: Named) -> bool:
        """Write the name near the upper left corner of the box, where it hides no name and no small object; returns
        whether that is possible.

        Nothing is written of a segment without a box.
        """
        if segment.box is None:
            return False
        text, size = segment.texts[0], self.sizes[min(1, len(self.sizes) - 1)]
        width, height = self._size_of(text, size)
        x, y = round(segment.box[0] / self.step), round(segment.box[1] / self.step) - height
        bottom, right = self.taken.shape
        window = (max(0, y - height), max(0, x - width), min(bottom, y + 6 * height), min(right, x + 2 * width))
        target = [y - window[0] + height / 2, x - window[1] + width / 2]
        free = ~(_part(self.taken, window) | _part(self.small, window))
        return self._put(free, window, target, text, size, segment.color)

    def add_legend(self, segments: Sequence[Named]) -> None:
        """Write a legend of classes with their numbers of objects, in the corner where it hides least."""
        counts = Counter(each.class_name for each in segments)
        colors = {each.class_name: each.color for each in segments}
        size = self.sizes[0]
        room = self.taken.shape[1] * self.step - 2 * (size // 4)
        texts = [
            cut_to(name if count == 1 else f"{name} × {count}", size, room) for name, count in counts.most_common()
        ]
        height, width = self._size_of("", size)[1], max(self._size_of(text, size)[0] for text in texts)
        bottom, right = self.taken.shape
        texts = texts[: max(1, bottom // height)]
        covered = self.taken.astype(np.float32) + 0.5 * self.small
        corners = [(y, x) for y in (bottom - height * len(texts), 0) for x in (0, right - width)]
        top, left = min(corners, key=lambda c: covered[c[0] :, c[1] :][: height * len(texts), :width].sum())
        for k, (text, name) in enumerate(zip(texts, (name for name, _ in counts.most_common()), strict=False)):
            self._write(max(0, left), top + k * height, width, height, text, size, colors[name])

    def write_on(self, scene: ImageArray) -> ImageArray:
        """Draw all names on the scene."""
        canvas = Image.fromarray(scene)
        pen = ImageDraw.Draw(canvas)
        for *place, text, size, color in self.chips:
            left, top, width, height = (value * self.step for value in place)
            pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
            write(pen, (left + size // 4, top + height / 2), text, size, ink_on(color))
        return np.asarray(canvas, dtype=np.uint8).copy()

    def _put(
        self, free: Mask, window: tuple[int, int, int, int], target: Sequence[float], text: str, size: int, color: Color
    ) -> bool:
        """Write a text on `free` pixels of the window, as near to the target (row, column) as possible."""
        width, height = self._size_of(text, size)
        if free.shape[0] < height or free.shape[1] < width:
            return False
        sums = cv2.integral(free.astype(np.uint8))
        inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
        rows, columns = np.nonzero(inside == height * width)
        if not len(rows):
            return False
        far = (rows + height / 2 - target[0]) ** 2 + (columns + width / 2 - target[1]) ** 2
        k = int(far.argmin())
        self._write(window[1] + int(columns[k]), window[0] + int(rows[k]), width, height, text, size, color)
        return True

    def _write(self, left: int, top: int, width: int, height: int, text: str, size: int, color: Color) -> None:
        self.chips.append((left, top, width, height, text, size, color))
        self.taken[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1] = True

    def _size_of(self, text: str, size: int) -> tuple[int, int]:
        """Width and height of a name with a margin."""
        width = math.ceil(text_width(text, size)) + 2 * (size // 4)
        return -(-width // self.step), -(-round(size * 1.35) // self.step)


def _part(of: Mask, window: tuple[int, int, int, int]) -> Mask:
    """The part of a mask within a window (top, left, bottom, right)."""
    top, left, bottom, right = window
    return of[top:bottom, left:right]


def _fitted(mask: Tensor, height: int, width: int) -> Mask:
    """Resize a mask."""
    given = mask.cpu().numpy()
    if given.shape == (height, width):
        return given
    scaled = cv2.resize(given.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(scaled > 127)
