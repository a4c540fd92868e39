"""The classification losses: what each query, or place, should say of the classes.

`SoftmaxLoss` is the original's, with a class "no object". The others have an independent sigmoid per class, so that
nothing has to be said where nothing is; they differ in what a matched query is asked for:

    FocalLoss          1                              (Lin et al. 2017, equation 5)
    VarifocalLoss      the IoU q of its box           (Zhang et al. 2021, equation 2)
    MatchabilityLoss   q^1.5, at full weight          (Huang et al. 2025, "DEIM", section 3.3)

p is the predicted probability. Queries that are `ignored` have no part in any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.errors import ConfigError
from detrkit.losses.box_losses import Matched
from detrkit.ops.boxes import cxcywh_to_xyxy, iou

_NOT_ASKED = -100  # the class of ignored queries, to cross-entropy


@dataclass(frozen=True)
class SoftmaxLoss:
    """Cross-entropy over all queries; the unmatched ones should say "no object", at weight `eos_coef`."""

    num_classes: int = 91
    eos_coef: float = 0.1

    def __call__(self, matched: Matched) -> Tensor:
        """The mean over the queries of a layer in all processes, weighted by their class; [L].

        The original divides by the weights of its own process, so that a query's share depends on what it is
        processed beside; for one process the two are the same.

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.output.logits
        no_object = logits.shape[-1] - 1
        _expect(self.num_classes, no_object, matched)
        wanted = logits.new_full(logits.shape[:3], no_object, dtype=torch.int64)
        wanted[matched.layers, matched.images, matched.queries] = matched.labels
        if matched.ignored is not None:
            wanted = wanted.masked_fill(matched.ignored, _NOT_ASKED)
        weight = logits.new_ones(no_object + 1)
        weight[-1:].fill_(self.eos_coef)
        loss = F.cross_entropy(
            logits.flatten(0, 2), wanted.flatten(), weight, reduction="none", ignore_index=_NOT_ASKED
        )
        weights = matched.num_matched + self.eos_coef * (matched.num_queries - matched.num_matched)
        # a branch may have no query, or none that weighs anything
        return loss.view(*logits.shape[:3]).flatten(1).sum(1) / weights.clamp(min=1e-6)


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
        logits = matched.output.logits
        _expect(self.num_classes, logits.shape[-1], matched)
        wanted = torch.zeros_like(logits).index_put(matched.places, torch.ones_like(matched.boxes[:, 0]))
        loss = _cross_entropy(logits, wanted)
        wrong = -torch.expm1(-loss)  # 1 - the probability of what is wanted
        alpha = torch.where(wanted > 0, self.alpha, 1 - self.alpha)
        return _sum_per_pair(alpha * wrong**self.gamma * loss, matched)


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
        logits = matched.output.logits
        _expect(self.num_classes, logits.shape[-1], matched)
        places, quality = matched.places, _quality(matched)
        weight = (self.alpha * logits.detach().sigmoid() ** self.gamma).index_put(places, quality)
        wanted = torch.zeros_like(logits).index_put(places, quality)
        return _sum_per_pair(weight * _cross_entropy(logits, wanted), matched)


@dataclass(frozen=True)
class MatchabilityLoss:
    """-q^gamma log p - (1 - q^gamma) log(1 - p) for the class of a matched query, -p^gamma log(1 - p) for all others.

    Unlike in the varifocal loss, a match of low IoU weighs as much as any: it is what there is to learn from early on.
    As DEIM trains with it: p^gamma is a weight, without a gradient of its own.
    """

    num_classes: int = 91
    gamma: float = 1.5

    def __call__(self, matched: Matched) -> Tensor:
        """Sum over all queries and classes of a layer, per pair; [L].

        Raises:
            ConfigError: the model has another number of classes.
        """
        logits = matched.output.logits
        _expect(self.num_classes, logits.shape[-1], matched)
        places, wanted_there = matched.places, _quality(matched) ** self.gamma
        weight = (logits.detach().sigmoid() ** self.gamma).index_put(places, torch.ones_like(wanted_there))
        wanted = torch.zeros_like(logits).index_put(places, wanted_there)
        return _sum_per_pair(weight * _cross_entropy(logits, wanted), matched)


def _expect(num_classes: int, found: int, matched: Matched) -> None:
    """Make sure that the model has as many classes as the criterion; class-agnostic outputs may have any number."""
    if found != num_classes and not matched.class_agnostic:
        raise ConfigError(
            f"expected a model of num_classes={num_classes}, as the criterion has, found one of {found}; "
            "build both with the same number"
        )


def _quality(matched: Matched) -> Tensor:
    """IoU of each matched box with that of its object, [M], without gradient."""
    return iou(cxcywh_to_xyxy(matched.found.detach()), cxcywh_to_xyxy(matched.boxes))


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _sum_per_pair(loss: Tensor, matched: Matched) -> Tensor:
    """[L, B, Q, C] -> [L]."""
    if matched.ignored is not None:
        loss = loss.masked_fill(matched.ignored[..., None], 0)
    return loss.flatten(1).sum(1) / matched.num_boxes
