"""Losses: `Output` and targets to scalars. `build_criterion` is the door."""

from __future__ import annotations

from detrkit.errors import ConfigError
from detrkit.losses.criterion import Criterion, WeightedTerm
from detrkit.losses.terms import ClassLoss, box_giou, box_l1, cardinality_error, class_error
from detrkit.matching import HungarianMatcher

__all__ = ["Criterion", "WeightedTerm", "build_criterion"]


def build_criterion(
    num_classes: int = 91,
    set_cost_class: float = 1,
    set_cost_bbox: float = 5,
    set_cost_giou: float = 2,
    bbox_loss_coef: float = 5,
    giou_loss_coef: float = 2,
    eos_coef: float = 0.1,
    mask_loss_coef: float = 1,
    dice_loss_coef: float = 1,
    masks: bool = False,
) -> Criterion:
    """The set prediction loss with the original's names and defaults.

    `num_classes` is that of the model, whose outputs have one class more, "no object". `mask_loss_coef` and
    `dice_loss_coef` belong to `masks`.

    Raises:
        ConfigError: for `masks`, until there is a segmentation head.
    """
    if masks:
        raise ConfigError("expected masks=False, found True: the segmentation head is not available yet; leave it out")
    return Criterion(
        HungarianMatcher(set_cost_class, set_cost_bbox, set_cost_giou),
        [
            WeightedTerm("loss_ce", 1, ClassLoss(num_classes, eos_coef)),
            WeightedTerm("class_error", 0, class_error, every_layer=False),
            WeightedTerm("loss_bbox", bbox_loss_coef, box_l1),
            WeightedTerm("loss_giou", giou_loss_coef, box_giou),
            WeightedTerm("cardinality_error", 0, cardinality_error),
        ],
    )
