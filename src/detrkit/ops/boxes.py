"""Box arithmetic: pure functions over tensors whose last dimension is 4.

The convention of this package: boxes are `x1, y1, x2, y2` in absolute pixels, x to the right and y downwards, x2 and y2
exclusive. The only exception are the outputs of the model and the training targets: `cx, cy, w, h` relative to the
image without padding, in 0..1. COCO's `x, y, w, h` occurs only in files.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12  # keeps a quotient of areas finite where both are zero; far below the area of any real box


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert center and size to corners; [..., 4], any unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert corners to center and size; [..., 4], any unit."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert COCO's corner and size, as in files, to corners; [..., 4], any unit."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x, y, x + w, y + h], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Convert corners to COCO's corner and size, as in files; [..., 4], any unit."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, y1, x2 - x1, y2 - y1], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area of corner boxes [..., 4] -> [...]; 0 for a box whose corners are swapped."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, in 0..1, of corresponding corner boxes: [..., 4] and [..., 4] broadcast to [...].

    The IoU of two boxes without area is 0.
    """
    overlap, union = _overlap_and_union(a, b)
    return overlap / union.clamp(min=_TINY)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU, in -1..1, of corresponding corner boxes: [..., 4] and [..., 4] broadcast to [...].

    IoU minus the share of the smallest enclosing box that neither covers (Rezatofighi et al. 2019, algorithm 1).
    Finite for every finite box, also for boxes without area.
    """
    overlap, union = _overlap_and_union(a, b)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    width = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)).clamp(min=0)
    enclosing = width * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)).clamp(min=0)
    return overlap / union.clamp(min=_TINY) - (enclosing - union) / enclosing.clamp(min=_TINY)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """`iou` of every box of `a` [..., N, 4] with every box of `b` [..., M, 4] -> [..., N, M]."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """`giou` of every box of `a` [..., N, 4] with every box of `b` [..., M, 4] -> [..., N, M]."""
    return giou(a[..., :, None, :], b[..., None, :, :])


def best_of_overlapping(boxes: Tensor, scores: Tensor, max_overlap: float) -> Tensor:
    """The boxes that remain if of every two whose IoU is above `max_overlap` only the better stays.

    Greedy non-maximum suppression, best first, whatever the classes.

    Args:
        boxes: corner boxes [N, 4].
        scores: [N].
        max_overlap: largest IoU of two boxes that stay, 0..1.

    Returns:
        Their indices, int64, in rising order.
    """
    from torchvision.ops import nms

    return nms(boxes, scores.to(boxes.dtype), max_overlap).sort().values


def _overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # one coordinate after another instead of [..., 2], so that inner loops run over boxes and not over two numbers
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = width * height
    return overlap, area(a) + area(b) - overlap


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of numbers in 0..1, clamped to at least `eps` from both ends."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()
