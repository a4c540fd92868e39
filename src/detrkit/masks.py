"""Mask arithmetic: pure functions over boolean masks [..., H, W] and COCO's run-length code."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """COCO's compressed RLE of one mask [H, W] (bool): `{"size": [H, W], "counts": str}`."""
    from faster_coco_eval.core import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    counts = rle["counts"]
    return {"size": [int(s) for s in rle["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}
