"""Settings of the matching and the losses: `LossFlags` has those that a person chooses, `LossConfig` all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrkit.config.fields import NonNegativeFloat, PositiveInt, Settings
from detrkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LossFlags(Settings):
    """Matching and losses."""

    set_cost_class: NonNegativeFloat = 1.0
    """Weight of the class in the matching cost (its negative probability, or the focal cost with sigmoids)."""
    set_cost_bbox: NonNegativeFloat = 5.0
    """Weight of the L1 box distance in the matching cost."""
    set_cost_giou: NonNegativeFloat = 2.0
    """Weight of the generalized IoU in the matching cost."""
    mask_loss_coef: NonNegativeFloat = 1.0
    """Weight of the focal mask loss."""
    dice_loss_coef: NonNegativeFloat = 1.0
    """Weight of the dice mask loss."""
    ignore_mask_padding: bool = False
    """Leave padding out of the mask losses; the reference DETR counts it as background."""
    bbox_loss_coef: NonNegativeFloat = 5.0
    """Weight of the L1 box loss."""
    giou_loss_coef: NonNegativeFloat = 2.0
    """Weight of the generalized IoU loss."""
    eos_coef: NonNegativeFloat = 0.1
    """Relative weight of the no-object class in the classification loss."""
    class_loss: Literal["softmax", "focal", "varifocal", "matchability"] = "softmax"
    """softmax: cross-entropy with a no-object class; focal: an independent sigmoid per class; varifocal and
    matchability: the same, with the IoU of the predicted box as the target score."""
    cls_loss_coef: NonNegativeFloat = 1.0
    """Weight of the classification loss."""
    dense_loss_coef: NonNegativeFloat = 1.0
    """Weight of the losses of the dense head."""
    dn_loss_coef: NonNegativeFloat = 1.0
    """Weight of the losses of the denoising queries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for names in (
            ("set_cost_class", "set_cost_bbox", "set_cost_giou"),
            ("cls_loss_coef", "bbox_loss_coef", "giou_loss_coef"),
        ):
            if not any(getattr(self, name) for name in names):
                known = ", ".join(f"--{name}" for name in names)
                raise ConfigError(f"one of {known} must be above 0, found none")


@dataclass(frozen=True, kw_only=True)
class LossConfig(LossFlags):
    """All settings that a criterion is built from."""

    num_classes: PositiveInt = 91
    """Number C of classes."""
    masks: bool = False
    """Add the mask losses; for a model with a mask head, and targets with masks."""
    dense_head: Literal["none", "fcos", "atss", "tood"] = "none"
    """Dense head of the model, whose locations are assigned by `DenseAssigner`; none: the model has none."""
