"""Classification losses of all queries, or locations of a dense head.

`SoftmaxLoss` is that of the reference DETR, with a class "no object". The others have an independent sigmoid per class,
whose target is 0 except for the class of a matched query; for that it is

    FocalLoss          1                              (Lin et al. 2017, equation 5)
    VarifocalLoss      the IoU q of its box           (Zhang et al. 2021, equation 2)
    MatchabilityLoss   q^1.5, at full weight          (Huang et al. 2025, "DEIM", section 3.3)

p is the predicted probability. `ignored` queries count in none of them.

Shapes: L layers, B images, Q queries, C classes, M matched pairs of all layers and images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.config.loss import LossConfig
from detrkit.errors import ConfigError
from detrkit.losses.supervision import Matched, Term
from detrkit.ops.boxes import cxcywh_to_xyxy, iou

_IGNORE_INDEX = -100  # target class of ignored queries


@dataclass(frozen=True)
class SoftmaxLoss:
    """Cross-entropy over all queries; the class of unmatched ones is "no object", at weight `eos_coef`."""

    num_classes: int = 91
    eos_coef: float = 0.1

    def __call__(self, matched: Matched) -> Tensor:
        """Mean over the queries of a layer in all processes, weighted by class; [L].

        The reference DETR divides by the weights of each process alone, so that the weight of a query depends on the
        other queries of its process; for one process the two are the same.

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.preds.logits  # [L, B, Q, C + 1]
        no_object = logits.shape[-1] - 1
        _check_classes(self.num_classes, no_object, matched)
        targets = logits.new_full(logits.shape[:3], no_object, dtype=torch.int64)  # [L, B, Q]
        targets[matched.layer_index, matched.image_index, matched.query_index] = matched.target_labels
        if matched.ignored is not None:
            targets = targets.masked_fill(matched.ignored, _IGNORE_INDEX)
        weight = logits.new_ones(no_object + 1)  # per class
        weight[-1:].fill_(self.eos_coef)
        loss = F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), weight, reduction="none", ignore_index=_IGNORE_INDEX
        )
        total_weight = matched.num_matched + self.eos_coef * (matched.num_queries - matched.num_matched)
        # a branch may have no query, or only queries of weight 0
        return loss.view(*logits.shape[:3]).flatten(1).sum(1) / total_weight.clamp(min=1e-6)


@dataclass(frozen=True)
class FocalLoss:
    """-alpha (1 - p)^gamma log p for the class of a matched query, -(1 - alpha) p^gamma log(1 - p) for all others."""

    num_classes: int = 91
    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, matched: Matched) -> Tensor:
        """Sum over all queries and classes of a layer, per pair; [L].

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.preds.logits  # [L, B, Q, C]
        _check_classes(self.num_classes, logits.shape[-1], matched)
        ones = torch.ones_like(matched.target_boxes[:, 0])  # [M]
        targets = torch.zeros_like(logits).index_put(matched.class_indices, ones)
        loss = _cross_entropy(logits, targets)
        error = -torch.expm1(-loss)  # 1 - p_t, p_t the probability of the target
        alpha = torch.where(targets > 0, self.alpha, 1 - self.alpha)
        return _sum_per_pair(alpha * error**self.gamma * loss, matched)


@dataclass(frozen=True)
class VarifocalLoss:
    """-q (q log p + (1 - q) log(1 - p)) for the class of a matched query, -alpha p^gamma log(1 - p) for all others.

    As RT-DETR trains with it: p^gamma is a weight, without a gradient of its own.
    """

    num_classes: int = 91
    alpha: float = 0.75
    gamma: float = 2.0

    def __call__(self, matched: Matched) -> Tensor:
        """Sum over all queries and classes of a layer, per pair; [L].

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.preds.logits  # [L, B, Q, C]
        _check_classes(self.num_classes, logits.shape[-1], matched)
        quality = _quality(matched)  # q, [M]
        weight = (self.alpha * logits.detach().sigmoid() ** self.gamma).index_put(matched.class_indices, quality)
        targets = torch.zeros_like(logits).index_put(matched.class_indices, quality)
        return _sum_per_pair(weight * _cross_entropy(logits, targets), matched)


@dataclass(frozen=True)
class MatchabilityLoss:
    """-q^gamma log p - (1 - q^gamma) log(1 - p) for the class of a matched query, -p^gamma log(1 - p) for all others.

    Unlike in the varifocal loss, a match of low IoU weighs as much as any: early in training there are no others.
    As DEIM trains with it: p^gamma is a weight, without a gradient of its own.
    """

    num_classes: int = 91
    gamma: float = 1.5

    def __call__(self, matched: Matched) -> Tensor:
        """Sum over all queries and classes of a layer, per pair; [L].

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.preds.logits  # [L, B, Q, C]
        _check_classes(self.num_classes, logits.shape[-1], matched)
        quality = _quality(matched) ** self.gamma  # q^gamma, [M]
        weight = logits.detach().sigmoid() ** self.gamma
        weight = weight.index_put(matched.class_indices, torch.ones_like(quality))
        targets = torch.zeros_like(logits).index_put(matched.class_indices, quality)
        return _sum_per_pair(weight * _cross_entropy(logits, targets), matched)


def _check_classes(num_classes: int, found: int, matched: Matched) -> None:
    """Check that the model has as many classes as the criterion; class-agnostic outputs may have any number."""
    if found != num_classes and not matched.class_agnostic:
        raise ConfigError(
            f"expected a model of num_classes={num_classes}, as the criterion has, found one of {found}; "
            "build both with the same number"
        )


def _quality(matched: Matched) -> Tensor:
    """IoU of each matched box with that of its object, [M], without gradient."""
    return iou(cxcywh_to_xyxy(matched.pred_boxes.detach()), cxcywh_to_xyxy(matched.target_boxes))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each logit, [L, B, Q, C]."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _sum_per_pair(loss: Tensor, matched: Matched) -> Tensor:
    """Sum over the queries that are not ignored, divided by `num_boxes`: [L, B, Q, C] -> [L]."""
    if matched.ignored is not None:
        loss = loss.masked_fill(matched.ignored[..., None], 0)
    return loss.flatten(1).sum(1) / matched.num_boxes


CLASS_LOSSES: dict[str, Callable[[LossConfig], Term]] = {
    "softmax": lambda config: SoftmaxLoss(config.num_classes, config.eos_coef),
    "focal": lambda config: FocalLoss(config.num_classes),
    "varifocal": lambda config: VarifocalLoss(config.num_classes),
    "matchability": lambda config: MatchabilityLoss(config.num_classes),
}
"""The classification losses by the values of `class_loss`."""
