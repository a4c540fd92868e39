"""What the model says, as boxes in pixels with a class and a score (paper, section 4, "Technical details")."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.structures import Detections, Output


@torch.no_grad()
def postprocess(out: Output, sizes: Tensor, *, top_k: int | None = None) -> list[Detections]:
    """Detections of each image of a batch; `class_ids` are class indices 0..C-1.

    Args:
        out: of the model.
        sizes: int [B, 2], height and width in pixels of the pictures that the boxes shall be given in.
        top_k: 0 gives every query its best class, Q detections an image in the order of the queries, as the original
            does. Otherwise the `top_k` best of all pairs of query and class, best first, as newer detectors score; a
            query may then appear under several classes. None follows the model: 0 for one with softmax, Q for one
            whose classes are a yes or no each.
    """
    logits = out.logits.float()
    probabilities = logits.sigmoid() if out.sigmoid else logits.softmax(-1)[..., :-1]  # [B, Q, C]
    if top_k is None:
        top_k = logits.shape[1] if out.sigmoid else 0
    height, width = sizes.to(out.boxes.device).unbind(1)
    boxes = cxcywh_to_xyxy(out.boxes.float()) * torch.stack([width, height, width, height], dim=1)[:, None]
    if top_k:
        classes = probabilities.shape[-1]
        scores, pair = probabilities.flatten(1).topk(min(top_k, probabilities[0].numel()))
        labels, boxes = pair % classes, boxes.gather(1, (pair // classes)[..., None].expand(-1, -1, 4))
    else:
        scores, labels = probabilities.max(-1)
    return [
        Detections(boxes[i], scores[i], labels[i], image_size=(int(h), int(w)))
        for i, (h, w) in enumerate(sizes.tolist())
    ]
