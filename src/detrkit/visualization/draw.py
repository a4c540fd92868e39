"""Drawing of detections: boxes, labels and masks on an image, and contact sheets of ground truth beside prediction.

Images are uint8 RGB arrays [H, W, 3]. Line widths and letters follow the size of the image; an image too small
to be read is enlarged first, so what comes back may be a whole multiple of the size that went in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from detrkit.errors import DataError
from detrkit.files import save_image
from detrkit.visualization.box_labels import write_labels
from detrkit.visualization.canvas import ImageArray, as_image, color_of, enlarged_side, resized
from detrkit.visualization.fonts import cut_to, name_of, write
from detrkit.visualization.matplotlib_backend import import_matplotlib
from detrkit.visualization.segments import Named, draw_named, draw_panoptic, shades

__all__ = [
    "ImageArray",
    "Tile",
    "as_image",
    "color_of",
    "draw_detections",
    "draw_panoptic",
    "grid",
    "resized",
    "save_image",
    "sheet",
    "titled",
]

CROWD = 12
"""Number of detections in an image above which labels become smaller, so that they hide less."""


class Drawable(Protocol):
    """Detections to draw: `Detections`, or anything with the same fields."""

    @property
    def xyxy(self) -> Tensor:
        """float [n, 4], pixels."""

    @property
    def scores(self) -> Tensor:
        """float [n], in 0..1."""

    @property
    def class_ids(self) -> Tensor:
        """int64 [n]."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """n names, or empty."""

    @property
    def masks(self) -> Tensor | None:
        """bool [n, H, W], or None."""

    @property
    def track_ids(self) -> Tensor | None:
        """int64 [n], or None; written before the class names."""

    def __len__(self) -> int: ...


class _Objects(NamedTuple):
    """Objects of a scene, in its pixels and in main memory, best last."""

    xyxy: Tensor
    """float32 [n, 4]."""
    scores: list[float]
    class_ids: list[int]
    names: list[str]
    masks: list[Tensor] | None
    """bool [H, W] each, at the size of the original image."""


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet."""

    image: Any
    """Path, PIL image or uint8 RGB array [H, W, 3]."""
    detections: Drawable
    """Detections of the model, in pixels of `image`."""
    gt: Drawable | None = None
    """Ground truth (see `results.ground_truth_detections`); None: the tile shows predictions only."""
    caption: str = ""
    """One line above the tile."""


def draw_detections(
    image: Any, detections: Drawable, gt: Drawable | None = None, *, side: int = 0, with_scores: bool = True
) -> ImageArray:
    """Draw every detection on an image: its mask, or else its box, and its class name with the score.

    Args:
        image: path, PIL image or uint8 RGB array [H, W, 3].
        detections: detections to draw, in pixels of `image`; those with the highest scores end up on top.
        gt: annotated objects, drawn as dashed white boxes so that they cannot be taken for detections.
        side: longer side of the result in pixels; 0: those of the image, or a whole multiple of them where
            it is too small to be read.
        with_scores: write the score beside each class name.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        DataError: the image cannot be read.
    """
    rgb = as_image(image)
    return _draw(rgb, side or enlarged_side(rgb), detections, gt, with_scores)


def sheet(tiles: Sequence[Tile], columns: int = 0, side: int = 384) -> ImageArray:
    """Draw a contact sheet of tiles: ground truth at the left, predictions at the right, under a caption.

    Args:
        tiles: the images; any mixture of sizes.
        columns: tiles per row; 0: as many as make the sheet about as wide as high.
        side: pixels of the longer side of each drawn image.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        DataError: there is no tile, or an image cannot be read.
    """
    if not tiles:
        raise DataError("expected at least one image for a contact sheet, found none")
    return grid([_cell(tile, side) for tile in tiles], columns)


def grid(cells: Sequence[ImageArray], columns: int = 0) -> ImageArray:
    """Arrange images of any sizes, at least one, in rows on a white page.

    Args:
        cells: uint8 RGB [H, W, 3] each.
        columns: cells per row; 0: as many as make the page about as wide as high.
    """
    height, width = max(c.shape[0] for c in cells), max(c.shape[1] for c in cells)
    columns = min(columns or max(1, round(math.sqrt(len(cells) * height / width))), len(cells))
    gap = max(6, min(height, width) // 40)
    rows = math.ceil(len(cells) / columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for k, cell in enumerate(cells):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        page[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return page


def titled(parts: Sequence[tuple[str, ImageArray]], caption: str = "") -> ImageArray:
    """Arrange images of one size side by side, each under its title, all under a caption (none if empty)."""
    height, width = parts[0][1].shape[:2]
    letters = max(12, max(height, width) // 24)
    gap, line = max(3, letters // 4), round(letters * 1.6)
    head = line * (2 if caption else 1)
    cell = Image.new("RGB", (len(parts) * (width + gap) - gap, head + height), (255, 255, 255))
    pen = ImageDraw.Draw(cell)
    if caption:
        write(pen, (0, line / 2), cut_to(caption, letters, cell.width), letters, (0, 0, 0))
    for k, (title, rgb) in enumerate(parts):
        left = k * (width + gap)
        write(pen, (left, head - line / 2), title, round(letters * 0.9), (96, 96, 96))
        cell.paste(Image.fromarray(rgb), (left, head))
    return np.asarray(cell, dtype=np.uint8)


def _draw(
    rgb: ImageArray, side: int, detections: Drawable, gt: Drawable | None, with_scores: bool = True
) -> ImageArray:
    """Resize the image to a longer side of `side` pixels and draw detections (in pixels of the given image) on it."""
    scene = Image.fromarray(resized(rgb, side))
    width, height = scene.size
    from_size = (rgb.shape[0], rgb.shape[1])
    thickness = max(2, round(max(height, width) / 400))
    letters = max(11, round(max(height, width) / 50))
    if gt is not None:
        _draw_gt(scene, _fitted(gt, from_size, (height, width)), thickness, letters)
    objects = _fitted(detections, from_size, (height, width))
    labels = [f"{n} {s:.2f}" if with_scores else n for n, s in zip(objects.names, objects.scores, strict=True)]
    if objects.masks is not None:
        colors = shades(objects.class_ids[::-1])[::-1]  # the best of a class has the color of the class
        boxes = [(x1, y1, x2, y2) for x1, y1, x2, y2 in objects.xyxy.tolist()]
        rows = zip(objects.masks, colors, labels, objects.names, boxes, strict=True)
        named = [Named(mask, color, (label,), name, box) for mask, color, label, name, box in rows]
        return draw_named(np.array(scene, dtype=np.uint8), named, letters=letters)
    if objects.names:
        crowded = max(9, round(letters * min(1.0, math.sqrt(CROWD / len(objects.names)))))
        scene = _annotate(scene, objects, thickness, crowded, labels)
    return np.asarray(scene, dtype=np.uint8).copy()


def _annotate(scene: Image.Image, objects: _Objects, thickness: int, letters: int, labels: list[str]) -> Image.Image:
    """Draw boxes with labels on an image."""
    import_matplotlib()  # before supervision does
    import supervision as sv

    colors = [color_of(k) for k in objects.class_ids]
    lines = sv.ColorPalette([sv.Color(*color) for color in colors])
    by_index = sv.ColorLookup.INDEX  # the i-th color belongs to the i-th detection
    boxes = sv.BoxAnnotator(color=lines, thickness=thickness, color_lookup=by_index)
    annotated: Image.Image = boxes.annotate(scene, sv.Detections(objects.xyxy.numpy().astype(np.float32)))
    write_labels(annotated, objects.xyxy.tolist(), labels, colors, letters)
    return annotated


def _draw_gt(scene: Image.Image, gt: _Objects, thickness: int, letters: int) -> None:
    """Draw ground-truth boxes: dashed white over a dark line, each with its name inside at the bottom."""
    pen = ImageDraw.Draw(scene)
    for (x1, y1, x2, y2), name in zip(gt.xyxy.tolist(), gt.names, strict=True):
        pen.rectangle((x1, y1, x2, y2), outline=(0, 0, 0), width=thickness)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            _dashes(pen, start, end, thickness)
        xy = (x1 + 2 * thickness, y2 - 2 * thickness)
        write(pen, xy, name, letters, (255, 255, 255), above=True, stroke=(0, 0, 0))


def _dashes(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], thickness: int) -> None:
    length = math.dist(start, end)
    dash = 4 * thickness
    for k in range(0, math.ceil(length), 2 * dash):
        a, b = k / length, min(k + dash, length) / length
        line = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in (a, b)]
        pen.line(line, fill=(255, 255, 255), width=thickness)


def _cell(tile: Tile, side: int) -> ImageArray:
    """Draw one tile: caption, then ground truth | prediction, each under its title."""
    rgb = as_image(tile.image)
    parts = []
    for name, objects in (("ground truth", tile.gt), ("prediction", tile.detections)):
        if objects is not None:
            title = f"{name}: {len(objects)} object{'' if len(objects) == 1 else 's'}"
            parts.append((title, _draw(rgb, side, objects, None, with_scores=name == "prediction")))
    return titled(parts, tile.caption)


def _fitted(detections: Drawable, old: tuple[int, int], new: tuple[int, int]) -> _Objects:
    """Scale objects from an image of size `old` to one of size `new` (h, w), worst first; masks stay as they are.

    Those that are not finite are left out.
    """
    finite = detections.xyxy.isfinite().all(1).nonzero().flatten()
    order = finite[detections.scores[finite].argsort(stable=True)]
    (old_h, old_w), (h, w) = old, new
    scale = torch.tensor([w / old_w, h / old_h, w / old_w, h / old_h])
    limit = torch.tensor([w - 1, h - 1, w - 1, h - 1], dtype=torch.float32)
    names = detections.class_names or tuple(map(str, detections.class_ids.tolist()))
    indices = order.tolist()
    numbers = [] if detections.track_ids is None else [f"#{k} " for k in detections.track_ids.tolist()]
    return _Objects(
        torch.minimum((detections.xyxy[order].cpu() * scale).clamp(min=0), limit),
        detections.scores[order].tolist(),
        detections.class_ids[order].tolist(),
        [(numbers[k] if numbers else "") + name_of(names[k]) for k in indices],
        None if detections.masks is None else [detections.masks[k] for k in indices],  # views, no copies
    )
