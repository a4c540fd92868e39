"""Decode the masks of all objects of an image: polygons, RLE and mask files to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrkit.data.decode.mask_files import Bools, FileMask, Ids, Region, read_ids, regions_of, resize_ids
from detrkit.ops.masks import run_lengths
from detrkit.ops.tiles import Tile


def decode_masks(shapes: Sequence[Any], boxes: Tensor, height: int, width: int, *, tile: Tile | None = None) -> Tensor:
    """Decode the masks of n objects of an image or of a tile.

    The mask of an object without one is its box, also if its polygons or RLE have no pixel, as very small polygons. A
    `FileMask` without pixels stays empty: the image has no such object. So does a mask whose pixels lie outside of the
    tile.

    Args:
        shapes: n polygons, RLE, `FileMask` or None, as in `ObjectRecord.segmentation`.
        boxes: float [n, 4], x1, y1, x2, y2 in pixels.
        height: H of the image.
        width: W of the image.
        tile: part of the image, of H x W pixels, that `boxes` are relative to; shapes are of the whole image. None: the
            whole image.

    Returns:
        bool [n, H, W]. RLE of another size is cut or padded with False; files of another size are resized.

    Raises:
        DataError: a file cannot be read.
    """
    tile = tile or Tile.whole(height, width)
    masks = np.zeros((len(shapes), height, width), bool)
    in_files: dict[Path, list[int]] = {}
    for k, shape in enumerate(shapes):
        if isinstance(shape, FileMask):
            in_files.setdefault(shape.path, []).append(k)
        elif not shape or not _draw(masks[k], shape, tile):
            _draw_box(masks[k], boxes[k].tolist())
    for path, members in in_files.items():
        x1, y1, x2, y2 = tile.box
        ids = resize_ids(read_ids(path), tile.image_height, tile.image_width)[y1:y2, x1:x2]
        if len(members) == 1:
            value = shapes[members[0]].value
            masks[members[0]] = ids == value if value else ids != 0
        else:
            _draw_regions(masks, ids, regions_of(ids), {k: shapes[k].value for k in members})
    return torch.from_numpy(masks)


def _draw(mask: Bools, shape: Any, tile: Tile) -> bool:
    """Draw polygons or RLE into the mask of a tile; returns whether they have any pixel in the whole image."""
    from faster_coco_eval.core import mask as coco_mask

    if isinstance(shape, list):
        rles = coco_mask.frPyObjects(shape, tile.image_height, tile.image_width)
        rle = coco_mask.merge(rles) if len(rles) > 1 else rles[0]
    else:
        rle = shape
    runs = rle["counts"] if isinstance(rle["counts"], list) else run_lengths(rle["counts"])
    part, x, y = _patch(runs or [], rle["size"][0])
    part = part[: max(0, tile.image_height - y), : max(0, tile.image_width - x)]
    seen = part[max(0, tile.top - y) :, max(0, tile.left - x) :]
    top, left = max(0, y - tile.top), max(0, x - tile.left)
    place = mask[top : top + seen.shape[0], left : left + seen.shape[1]]
    place |= seen[: place.shape[0], : place.shape[1]]
    return bool(part.any())


def _patch(runs: Sequence[int], height: int) -> tuple[Bools, int, int]:
    """Decode the part of an RLE of `height` rows that is not empty, bool [h, w], with its first column and row.

    This takes a tenth of the time of decoding the whole mask, since most objects are small.
    """
    runs = runs[: len(runs) // 2 * 2]  # drop a last run of zeros
    if not any(runs[1::2]):
        return np.zeros((0, 0), bool), 0, 0
    start, stop = runs[0], sum(runs)  # first pixel of the object and end of it, column by column
    first, last = start // height, -(-stop // height)  # its columns
    lengths = [start - first * height, *runs[1:], last * height - stop]  # padded to whole columns
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(last - first, height)  # [w, height]
    rows = np.flatnonzero(columns.any(axis=0))
    return columns[:, rows[0] : rows[-1] + 1].T, first, int(rows[0])


def _draw_box(mask: Bools, box: list[float]) -> None:
    """Draw a box into a mask, at least one pixel."""
    x1, y1, x2, y2 = (round(v) for v in box)
    x1, y1 = min(x1, mask.shape[1] - 1), min(y1, mask.shape[0] - 1)
    mask[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True


def _draw_regions(masks: Bools, ids: Ids, regions: dict[int, Region], values: dict[int, int]) -> None:
    """Draw several values of one file into masks, each within its box."""
    for k, value in values.items():
        if not value:
            masks[k] = ids != 0
        elif value in regions:
            x1, y1, x2, y2 = (int(v) for v in regions[value].box)
            masks[k, y1:y2, x1:x2] = ids[y1:y2, x1:x2] == value
