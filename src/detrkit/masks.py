"""Mask arithmetic: pure functions over boolean masks [..., H, W] and COCO's run-length code."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrkit.errors import DataError


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """COCO's compressed RLE of one mask [H, W] (bool): `{"size": [H, W], "counts": str}`."""
    from faster_coco_eval.core import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    counts = rle["counts"]
    return {"size": [int(s) for s in rle["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def decode_segmentation(segmentation: Any, height: int, width: int) -> Tensor:
    """The mask of one object, bool [H, W], from what COCO files hold.

    Args:
        segmentation: polygons (lists of x, y, x, y, ... in pixels, whose union is the object), or an RLE with `size`
            and `counts`, compressed (a string) or not (a list).
        height: H of the picture that the segmentation belongs to.
        width: its W.

    Raises:
        DataError: it is neither, or `segmentation_fault` finds something.
    """
    from faster_coco_eval.core import mask as coco_mask

    fault = segmentation_fault(segmentation, height, width)
    if fault:
        raise DataError(f"expected a mask as polygons or RLE, found {fault}")
    if isinstance(segmentation, list):
        if not segmentation:
            return torch.zeros(height, width, dtype=torch.bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        rle = (
            coco_mask.frPyObjects(segmentation, height, width)
            if isinstance(segmentation["counts"], list)
            else segmentation
        )
    return torch.from_numpy(coco_mask.decode(rle).astype(bool))


def segmentation_fault(segmentation: Any, height: int, width: int) -> str:
    """What is wrong with the polygons or the RLE of an object, in words; empty if nothing is.

    Without decoding it, so that a large data set is looked through in seconds.

    Args:
        segmentation: see `decode_segmentation`.
        height: H of the picture.
        width: its W.
    """
    if isinstance(segmentation, list):
        bad = next((polygon for polygon in segmentation if not is_polygon(polygon)), None)
        return "" if bad is None else f"a polygon without three corners of two finite numbers, {bad!r}"[:100]
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return f"{type(segmentation).__name__}"
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"an RLE of size {size!r} where the picture has [{height}, {width}] (height, width)"
    runs = counts if isinstance(counts, list) else _runs(counts)
    if runs is None or not all(isinstance(run, int) and run >= 0 for run in runs):
        return "an RLE whose counts are cut off or garbled"
    pixels = sum(runs)
    return "" if pixels == height * width else f"an RLE of {pixels} pixels where the picture has {height * width}"


def is_polygon(polygon: Any) -> bool:
    """Whether it is a list of x, y, x, y, ...: three or more corners, all finite and below 1e9 pixels."""
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and set(map(type, polygon)) <= {int, float}
        and isfinite(sum(polygon))  # NaN would slip through max and min
        and -1e9 < min(polygon) <= max(polygon) < 1e9
    )


def _runs(counts: Any) -> list[int] | None:
    """The run lengths in COCO's compressed RLE, None where it is none.

    Five bits a letter from "0" on, lowest first, the sixth telling that more follow; from the third run on, what
    stands there is the difference to the run before the last.
    """
    text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    if not isinstance(text, bytes):
        return None
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
