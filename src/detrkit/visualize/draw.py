"""Detections -> pictures: boxes, labels and masks on a picture, and contact sheets of truth beside prediction.

Pictures are uint8 RGB arrays [H, W, 3]. Line widths and letters follow the size of the picture; a picture too small
to be read is enlarged first, so what comes back may be a whole multiple of the size that went in.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from detrkit.errors import DataError
from detrkit.files import save_picture
from detrkit.structures import Categories, Detections

if TYPE_CHECKING:
    import supervision

__all__ = [
    "Picture",
    "Tile",
    "as_picture",
    "color_of",
    "draw_detections",
    "font",
    "grid",
    "resized",
    "save_picture",
    "sheet",
    "titled",
    "truth_detections",
]

Picture = npt.NDArray[np.uint8]
"""uint8 RGB [H, W, 3]."""

READABLE_SIDE = 480
"""Pixels of the longer side below which a picture is enlarged before it is drawn on."""

CROWD = 12
"""Detections in a picture above which their labels become smaller, so as not to hide what they name."""

FIRST_COLORS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46d9f0", "#f032e6", "#bfef45",
    "#ffe119", "#009688", "#dc9cff", "#9a6324", "#fabed4", "#800000", "#aaffc3", "#3f51b5",
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet."""

    image: Any
    """Path, PIL image or uint8 RGB array [H, W, 3]."""
    detections: Detections
    """What the model found, in pixels of `image`."""
    truth: Detections | None = None
    """What is really there (see `truth_detections`); None: the tile shows the predictions only."""
    caption: str = ""
    """One line above the tile."""


def truth_detections(
    boxes: Iterable[Sequence[float]], category_ids: Iterable[int], categories: Categories
) -> Detections:
    """Annotated boxes in the form of detections, to be drawn as truth.

    Args:
        boxes: x1, y1, x2, y2 in pixels, one an object.
        category_ids: original category ids, one an object.
        categories: where their names are found.
    """
    ids = [int(i) for i in category_ids]
    index = categories.index_of_id
    return Detections(
        xyxy=torch.tensor([list(map(float, box)) for box in boxes], dtype=torch.float32).reshape(-1, 4),
        scores=torch.ones(len(ids)),
        class_ids=torch.tensor(ids, dtype=torch.int64),
        class_names=tuple(categories.names[index[i]] if i in index else str(i) for i in ids),
    )


def color_of(class_id: int) -> tuple[int, int, int]:
    """RGB (0..255) of a class: the same in every picture and every run, far apart for neighbouring ids."""
    if 0 <= class_id < len(FIRST_COLORS):
        code = FIRST_COLORS[class_id]
        return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
    # Steps of the golden ratio never come back near a hue soon; brightness and saturation change along.
    hue = class_id * 0.618033988749895 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.95, 0.6, 0.8)[class_id % 3], (0.95, 0.75)[class_id // 3 % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(image: Any, detections: Detections, truth: Detections | None = None, *, side: int = 0) -> Picture:
    """The picture with every detection on it: box, class name with score, and mask where there is one.

    Args:
        image: path, PIL image or uint8 RGB array [H, W, 3].
        detections: what to draw, in pixels of `image`; the strongest end up on top.
        truth: annotated objects, drawn as dashed white boxes so that they cannot be taken for detections.
        side: pixels of the longer side of what comes back; 0: those of the picture, or a whole multiple of them where
            it is too small to be read.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        DataError: the picture cannot be read.
    """
    picture = as_picture(image)
    longer = max(picture.shape[:2])
    return _draw(picture, side or longer * max(1, math.ceil(READABLE_SIDE / longer)), detections, truth)


def sheet(tiles: Sequence[Tile], columns: int = 0, side: int = 384) -> Picture:
    """A contact sheet: every tile shows the truth at the left and the prediction at the right, under a caption.

    Args:
        tiles: the pictures; any mixture of sizes.
        columns: tiles side by side; 0: as many as make the sheet about as wide as high.
        side: pixels of the longer side of each drawn picture.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        DataError: there is no tile, or a picture cannot be read.
    """
    if not tiles:
        raise DataError("expected at least one picture for a contact sheet, found none")
    return grid([_cell(tile, side) for tile in tiles], columns)


def grid(cells: Sequence[Picture], columns: int = 0) -> Picture:
    """Pictures of any sizes in rows on a white page, at least one of them.

    Args:
        cells: uint8 RGB [H, W, 3] each.
        columns: how many side by side; 0: as many as make the page about as wide as high.
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


def titled(parts: Sequence[tuple[str, Picture]], caption: str = "") -> Picture:
    """Pictures of one size side by side, each under its title, all under one caption (none if empty)."""
    height, width = parts[0][1].shape[:2]
    letters = max(12, max(height, width) // 24)
    gap, line = max(3, letters // 4), round(letters * 1.6)
    head = line * (2 if caption else 1)
    cell = Image.new("RGB", (len(parts) * (width + gap) - gap, head + height), (255, 255, 255))
    pen = ImageDraw.Draw(cell)
    if caption:
        pen.text((0, line / 2), _shortened(caption, letters, cell.width), (0, 0, 0), font(letters), anchor="lm")
    for k, (title, picture) in enumerate(parts):
        left = k * (width + gap)
        pen.text((left, head - line / 2), title, (96, 96, 96), font(round(letters * 0.9)), anchor="lm")
        cell.paste(Image.fromarray(picture), (left, head))
    return np.asarray(cell, dtype=np.uint8)


def as_picture(image: Any) -> Picture:
    """A path, PIL image or uint8 RGB array as a uint8 RGB array [H, W, 3]; arrays come back as they are.

    Raises:
        DataError: the picture cannot be read or has another shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"expected a uint8 array [H, W, 3], found {image.dtype} {list(image.shape)}")
        return image
    from detrkit.data.decode import to_tensor

    return np.ascontiguousarray(to_tensor(image).permute(1, 2, 0).numpy())


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of so many pixels: it comes with matplotlib, so letters beyond ASCII look the same everywhere."""
    return ImageFont.truetype(_font_path(), size)


@lru_cache(maxsize=1)
def _font_path() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def resized(picture: Picture, side: int) -> Picture:
    """A copy of the picture with `side` pixels on its longer side, whether that is fewer or more than it has."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return picture.copy()
    method = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize(size, method), dtype=np.uint8).copy()


def _draw(
    picture: Picture, side: int, detections: Detections, truth: Detections | None, with_scores: bool = True
) -> Picture:
    """The picture with `side` pixels on its longer side and detections (in pixels of what came in) on it."""
    scene = Image.fromarray(resized(picture, side))
    width, height = scene.size
    from_size = (picture.shape[0], picture.shape[1])
    found = _fitted(detections, from_size, (height, width))
    thickness = max(2, round(max(height, width) / 400))
    letters = max(11, round(max(height, width) / 50))
    if truth is not None:
        _draw_truth(scene, _fitted(truth, from_size, (height, width)), thickness, letters)
    if len(found):
        crowded = max(9, round(letters * min(1.0, math.sqrt(CROWD / len(found)))))
        scene = _annotate(scene, found[found.scores.argsort(stable=True)], thickness, crowded, with_scores)
    return np.asarray(scene, dtype=np.uint8).copy()


def _annotate(scene: Image.Image, found: Detections, thickness: int, letters: int, with_scores: bool) -> Image.Image:
    import supervision as sv

    def palette(colors: list[tuple[int, int, int]]) -> supervision.ColorPalette:
        return sv.ColorPalette([sv.Color(*color) for color in colors])

    colors = [color_of(k) for k in found.class_ids.tolist()]
    by_index = sv.ColorLookup.INDEX  # the i-th colour belongs to the i-th detection
    lines, ink = palette(colors), palette([_ink_on(color) for color in colors])
    drawn = found.to_supervision()
    if found.masks is not None:
        scene = sv.MaskAnnotator(color=lines, opacity=0.45, color_lookup=by_index).annotate(scene, drawn)
    scene = sv.BoxAnnotator(color=lines, thickness=thickness, color_lookup=by_index).annotate(scene, drawn)
    names = found.class_names or tuple(str(k) for k in found.class_ids.tolist())
    annotator = sv.RichLabelAnnotator(
        color=lines,
        text_color=ink,
        color_lookup=by_index,
        font_path=_font_path(),
        font_size=letters,
        text_padding=max(2, letters // 4),
        smart_position=True,  # inside the picture, and off each other
    )
    labels = list(names)
    if with_scores:
        labels = [f"{name} {score:.2f}" for name, score in zip(names, found.scores.tolist(), strict=True)]
    annotated: Image.Image = annotator.annotate(scene, drawn, labels=labels)
    return annotated


def _draw_truth(scene: Image.Image, truth: Detections, thickness: int, letters: int) -> None:
    """Dashed white boxes over a dark line, each with its name inside at the bottom."""
    pen = ImageDraw.Draw(scene)
    names = truth.class_names or tuple(str(k) for k in truth.class_ids.tolist())
    for (x1, y1, x2, y2), name in zip(truth.xyxy.tolist(), names, strict=True):
        pen.rectangle((x1, y1, x2, y2), outline=(0, 0, 0), width=thickness)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            _dashes(pen, start, end, thickness)
        pen.text(
            (x1 + 2 * thickness, y2 - 2 * thickness),
            name,
            font=font(letters),
            fill=(255, 255, 255),
            anchor="lb",
            stroke_width=max(1, letters // 8),
            stroke_fill=(0, 0, 0),
        )


def _dashes(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], thickness: int) -> None:
    length = math.dist(start, end)
    dash = 4 * thickness
    for k in range(0, math.ceil(length), 2 * dash):
        a, b = k / length, min(k + dash, length) / length
        line = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in (a, b)]
        pen.line(line, fill=(255, 255, 255), width=thickness)


def _cell(tile: Tile, side: int) -> Picture:
    """One tile: caption, then truth | prediction, each headed by its name."""
    picture = as_picture(tile.image)
    parts = []
    for name, objects in (("truth", tile.truth), ("prediction", tile.detections)):
        if objects is not None:
            title = f"{name}: {len(objects)} object{'' if len(objects) == 1 else 's'}"
            parts.append((title, _draw(picture, side, objects, None, with_scores=name == "prediction")))
    return titled(parts, tile.caption)


def _fitted(found: Detections, old: tuple[int, int], new: tuple[int, int]) -> Detections:
    """Boxes and masks moved from a picture of size `old` to one of size `new` (h, w); non-finite ones are left out."""
    found = found.cpu()
    found = found[found.xyxy.isfinite().all(1)]
    (old_h, old_w), (h, w) = old, new
    scale = torch.tensor([w / old_w, h / old_h, w / old_w, h / old_h])
    limit = torch.tensor([w - 1, h - 1, w - 1, h - 1], dtype=torch.float32)
    xyxy = torch.minimum((found.xyxy * scale).clamp(min=0), limit)
    masks = found.masks
    if masks is not None and tuple(masks.shape[1:]) != new and len(masks):
        masks = torch.nn.functional.interpolate(masks[:, None].float(), size=new, mode="nearest")[:, 0] > 0.5
    return replace(found, xyxy=xyxy, masks=masks)


def _ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is read better on `color` (luma of ITU-R BT.601)."""
    return (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else (255, 255, 255)


def _shortened(text: str, letters: int, width: int) -> str:
    """As much of the end of `text` as fits: the end of a path says most."""
    if font(letters).getlength(text) <= width:
        return text
    while text and font(letters).getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
