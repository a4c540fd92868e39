"""Settings of the matching and the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrkit.config.fields import Settings, Weight


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """Matching and losses."""

    no_aux_loss: bool = False
    """Leave out the losses at the earlier decoder layers."""
    set_cost_class: Weight = 1.0
    """Weight of the class probability in the matching cost."""
    set_cost_bbox: Weight = 5.0
    """Weight of the L1 box distance in the matching cost."""
    set_cost_giou: Weight = 2.0
    """Weight of the generalized IoU in the matching cost."""
    mask_loss_coef: Weight = 1.0
    """Weight of the focal mask loss."""
    dice_loss_coef: Weight = 1.0
    """Weight of the dice mask loss."""
    ignore_mask_padding: bool = False
    """Leave padding out of the mask losses; the reference DETR counts it as background."""
    bbox_loss_coef: Weight = 5.0
    """Weight of the L1 box loss."""
    giou_loss_coef: Weight = 2.0
    """Weight of the generalized IoU loss."""
    eos_coef: Weight = 0.1
    """Relative weight of the no-object class in the classification loss."""
    class_loss: Literal["softmax", "focal", "varifocal", "matchability"] = "softmax"
    """softmax: cross-entropy with a no-object class; focal: an independent sigmoid per class; varifocal and
    matchability: the same, with the IoU of the predicted box as the target score."""
    cls_loss_coef: Weight = 1.0
    """Weight of the classification loss."""
    dense_loss_coef: Weight = 1.0
    """Weight of the losses of the dense head."""
    dn_loss_coef: Weight = 1.0
    """Weight of the losses of the denoising queries."""
