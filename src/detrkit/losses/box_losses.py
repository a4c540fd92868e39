"""Terms of the set prediction loss but those of class and mask (paper, section 3.1, equation 2, and appendix A.2).

Each is a function from the matched pairs of all decoder layers to one number per layer, so that the number of calls of
a device does not grow with the layers.

Shapes: L layers, B images, Q queries, C classes, M matched pairs of all layers and images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.losses.supervision import Matched, Term
from detrkit.ops.boxes import cxcywh_to_xyxy, giou


def box_l1(matched: Matched) -> Tensor:
    """L1 distance of matched boxes: sum over the pairs of a layer, per object; [L]."""
    distance = (matched.pred_boxes - matched.target_boxes).abs().sum(1)  # [M]
    return matched.sum_per_layer(distance) / matched.num_boxes


def box_giou(matched: Matched) -> Tensor:
    """1 - GIoU of matched boxes: sum over the pairs of a layer, per object; [L]."""
    overlap = giou(cxcywh_to_xyxy(matched.pred_boxes), cxcywh_to_xyxy(matched.target_boxes))  # [M]
    return matched.sum_per_layer(1 - overlap) / matched.num_boxes


@torch.no_grad()
def class_error(matched: Matched) -> Tensor:
    """Percentage of objects whose query predicts another class, [L]; for the log alone.

    0 for a batch without objects, where no prediction can be wrong; the reference DETR logs 100 there.
    """
    pred_labels = matched.preds.logits[matched.layer_index, matched.image_index, matched.query_index].argmax(-1)  # [M]
    wrong = (pred_labels != matched.target_labels).float()
    return 100 * matched.sum_per_layer(wrong) / matched.sum_per_layer(torch.ones_like(wrong)).clamp(min=1)


@torch.no_grad()
def cardinality_error(matched: Matched) -> Tensor:
    """Absolute difference of the number of predicted and of true objects, mean over the images, [L]; for the log."""
    logits = matched.preds.logits  # [L, B, Q, C or C + 1]
    is_object = (logits > 0).any(-1) if matched.preds.sigmoid else logits.argmax(-1) != logits.shape[-1] - 1
    num_preds = is_object.sum(2)  # [L, B]
    num_objects = torch.tensor(matched.num_objects).to(logits.device, non_blocking=True)  # [B]
    return (num_preds - num_objects).abs().float().mean(1)


BOX_TERMS: tuple[tuple[str, str, Term], ...] = (
    ("loss_bbox", "bbox_loss_coef", box_l1),
    ("loss_giou", "giou_loss_coef", box_giou),
)
"""Terms of the boxes: name in the logs, field of `LossFlags` that is its weight, function."""
