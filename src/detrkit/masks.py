"""Mask arithmetic: pure functions over boolean masks [..., H, W] and COCO's run-length code."""

from __future__ import annotations

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
        DataError: it is neither, a polygon has fewer than three corners or an odd number of coordinates, or the size
            of the RLE is not that of the picture.
    """
    from faster_coco_eval.core import mask as coco_mask

    if isinstance(segmentation, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise DataError(
                "expected polygons as lists of x, y with at least three corners, found one of "
                f"{min(len(polygon) for polygon in segmentation)} numbers"
            )
        if not segmentation:
            return torch.zeros(height, width, dtype=torch.bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if tuple(segmentation["size"]) != (height, width):
            raise DataError(
                f"expected a mask of the picture's size [{height}, {width}] (height, width), "
                f"found {segmentation['size']}"
            )
        counts = segmentation["counts"]
        rle = coco_mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    else:
        raise DataError(f"expected a segmentation as polygons or RLE, found {type(segmentation).__name__}")
    return torch.from_numpy(coco_mask.decode(rle).astype(bool))
