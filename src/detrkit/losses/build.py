"""The criterion from its settings, with the names and defaults of the reference DETR."""

from __future__ import annotations

from typing import Any

from detrkit.config.loss import LossConfig
from detrkit.config.options import config_from_options
from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.box_losses import BOX_TERMS, cardinality_error, class_error
from detrkit.losses.class_losses import CLASS_LOSSES
from detrkit.losses.criterion import Criterion, WeightedTerm
from detrkit.losses.mask_losses import mask_dice, mask_focal
from detrkit.losses.matcher import HungarianMatcher


def build_criterion(num_classes: int = 91, **settings: Any) -> Criterion:
    """The set prediction loss. By default it is the reference DETR's, under its names and values.

        criterion = build_criterion(num_classes=91, set_cost_class=1, bbox_loss_coef=5, giou_loss_coef=2)

    Args:
        num_classes: C, that of the model. With `class_loss="softmax"` its outputs have one class more, "no object".
        settings: fields of `LossConfig`, which lists them with their ranges.

    Raises:
        ConfigError: a setting does not exist or is out of its range, or all losses have weight 0.
    """
    config = config_from_options(LossConfig, num_classes=num_classes, **settings)
    return Criterion(
        HungarianMatcher(config.set_cost_class, config.set_cost_bbox, config.set_cost_giou),
        [
            WeightedTerm("loss_ce", config.cls_loss_coef, CLASS_LOSSES[config.class_loss](config)),
            WeightedTerm("class_error", 0, class_error, every_layer=False),
            *(WeightedTerm(name, getattr(config, weight), term) for name, weight, term in BOX_TERMS),
            WeightedTerm("cardinality_error", 0, cardinality_error),
            *(_mask_terms(config) if config.masks else ()),
        ],
        sigmoid=config.class_loss != "softmax",
        assigner=None if config.dense_head == "none" else DenseAssigner(config.dense_head),
        branch_weights={"dense": config.dense_loss_coef, "dn": config.dn_loss_coef},
        mask_padding=not config.ignore_mask_padding,
    )


def _mask_terms(config: LossConfig) -> list[WeightedTerm]:
    return [
        WeightedTerm("loss_mask", config.mask_loss_coef, mask_focal, every_layer=False, masks=True),
        WeightedTerm("loss_dice", config.dice_loss_coef, mask_dice, every_layer=False, masks=True),
    ]
