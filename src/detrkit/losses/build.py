"""The criterion from its settings, with the names and defaults of the reference DETR."""

from __future__ import annotations

from typing import Literal

from detrkit.errors import ConfigError
from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.box_losses import box_giou, box_l1, cardinality_error, class_error
from detrkit.losses.class_losses import FocalLoss, MatchabilityLoss, SoftmaxLoss, VarifocalLoss
from detrkit.losses.criterion import Criterion, WeightedTerm
from detrkit.losses.mask_losses import mask_dice, mask_focal
from detrkit.losses.matcher import HungarianMatcher
from detrkit.losses.supervision import Term
from detrkit.models.arguments import weight_number, whole_number


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
    class_loss: Literal["softmax", "focal", "varifocal", "matchability"] = "softmax",
    cls_loss_coef: float = 1,
    dense_loss_coef: float = 1,
    dn_loss_coef: float = 1,
    dense_head: Literal["none", "fcos", "atss", "tood"] = "tood",
    mask_padding: bool = True,
) -> Criterion:
    """Build the set prediction loss. Names and defaults are those of the reference DETR; with the defaults, the loss
    is too.

    Args:
        num_classes: C, that of the model. With `class_loss="softmax"` its outputs have one class more, "no object".
        set_cost_class, set_cost_bbox, set_cost_giou: weights of the matching cost.
        bbox_loss_coef, giou_loss_coef, cls_loss_coef: weights of the losses, at every layer and in every branch.
        eos_coef: weight of "no object" in the softmax loss.
        mask_loss_coef, dice_loss_coef: weights of the mask losses, at the last layer.
        masks: whether to add the mask losses; for a model with a mask head, and targets with masks.
        class_loss: see `losses.class_losses`. All but softmax are for a model with an independent sigmoid per class.
        dense_loss_coef: further weight of the branch "dense".
        dn_loss_coef: further weight of the branch "dn".
        dense_head: how locations are assigned in branches that have them; see `DenseAssigner`.
        mask_padding: whether the target of masks is 0 in the padding of an image, as in the reference DETR; False
            leaves the padding out of the mask losses, so that they do not depend on the other images of the batch.

    Raises:
        ConfigError: class_loss or dense_head is unknown, a weight is not a number of at least 0, or all losses have
            weight 0.
    """
    num_classes = whole_number(num_classes, "num_classes", 1)
    for name, weight in {
        "set_cost_class": set_cost_class, "set_cost_bbox": set_cost_bbox, "set_cost_giou": set_cost_giou,
        "bbox_loss_coef": bbox_loss_coef, "giou_loss_coef": giou_loss_coef, "eos_coef": eos_coef,
        "mask_loss_coef": mask_loss_coef, "dice_loss_coef": dice_loss_coef, "cls_loss_coef": cls_loss_coef,
        "dense_loss_coef": dense_loss_coef, "dn_loss_coef": dn_loss_coef,
    }.items():  # fmt: skip
        weight_number(weight, name)
    if not (cls_loss_coef or bbox_loss_coef or giou_loss_coef):
        raise ConfigError("one of cls_loss_coef, bbox_loss_coef, giou_loss_coef must be above 0, found none")
    mask_terms = [
        WeightedTerm("loss_mask", mask_loss_coef, mask_focal, every_layer=False, masks=True),
        WeightedTerm("loss_dice", dice_loss_coef, mask_dice, every_layer=False, masks=True),
    ]
    return Criterion(
        HungarianMatcher(set_cost_class, set_cost_bbox, set_cost_giou),
        [
            WeightedTerm("loss_ce", cls_loss_coef, _class_loss(class_loss, num_classes, eos_coef)),
            WeightedTerm("class_error", 0, class_error, every_layer=False),
            WeightedTerm("loss_bbox", bbox_loss_coef, box_l1),
            WeightedTerm("loss_giou", giou_loss_coef, box_giou),
            WeightedTerm("cardinality_error", 0, cardinality_error),
            *(mask_terms if masks else ()),
        ],
        sigmoid=class_loss != "softmax",
        assigner=None if dense_head == "none" else DenseAssigner(dense_head),
        branch_weights={"dense": dense_loss_coef, "dn": dn_loss_coef},
        mask_padding=mask_padding,
    )


def _class_loss(kind: str, num_classes: int, eos_coef: float) -> Term:
    match kind:
        case "softmax":
            return SoftmaxLoss(num_classes, eos_coef)
        case "focal":
            return FocalLoss(num_classes)
        case "varifocal":
            return VarifocalLoss(num_classes)
        case "matchability":
            return MatchabilityLoss(num_classes)
    raise ConfigError(f'expected class_loss to be "softmax", "focal", "varifocal" or "matchability", found {kind!r}')
