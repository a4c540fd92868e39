"""The criterion: a list of weighted terms, applied alike at every decoder layer (paper, section 3.1) and in every
training-only branch. `losses/supervision.py` assigns predictions to objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.mask_losses import pair_masks
from detrkit.losses.matcher import HungarianMatcher, Pairs
from detrkit.losses.supervision import Matched, SupervisedOutput, Term, assign_targets, gather, mean_over_processes
from detrkit.models.arguments import as_targets, expect_output
from detrkit.structures import Output, Target


class WeightedTerm(NamedTuple):
    """A term of the loss with its name and weight."""

    name: str
    weight: float
    """0 for terms that are only logged."""
    term: Term
    every_layer: bool = True
    """Whether the earlier decoder layers have it too, as `name_0`, `name_1`, ..."""
    masks: bool = False
    """Whether it needs masks, which only the last decoder layer has, and no branch."""


class DetectionCriterion(nn.Module, ABC):
    """Losses of a detector by name, and their weighted sum.

    Args:
        weights: weight of each term; 0: it is only logged.
        sigmoid: kind of class scores that the class loss is for; see `Output`.
        branch_weights: weight of all losses of a branch, by its name; 1 for branches that are not in it.
    """

    def __init__(
        self, weights: Mapping[str, float], *, sigmoid: bool, branch_weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.weights, self.sigmoid, self.branch_weights = dict(weights), sigmoid, dict(branch_weights or {})

    @abstractmethod
    def forward(self, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute scalars by name: `term` at the last decoder layer, `term_0`, `term_1`, ... at earlier ones, and
        `branch/term`, `branch/term_0`, ... of a branch.

        Args:
            out: output of the model.
            targets: one per image.
        """

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """The scalar to minimize: each loss times the weight of its term and branch, over all decoder layers."""
        parts, factors = [], []
        for name, loss in losses.items():
            branch, _, term = name.rpartition("/")
            if weight := self.weights.get(_term_of(term), 0):
                parts.append(loss)
                factors.append(weight * self.branch_weights.get(branch, 1.0))
        return (torch.stack(parts) * torch.tensor(factors).to(parts[0].device, non_blocking=True)).sum()


class Criterion(DetectionCriterion):
    """The set prediction loss: outputs and targets to losses by name, in float32, also under autocast.

    Args:
        matcher: matcher of queries and objects.
        terms: loss terms, in the order of their names in the log.
        sigmoid: kind of class scores that the class loss takes; see `Output`.
        assigner: assigner of locations to objects, for branches that have `locations`.
        branch_weights: weight of all losses of a branch, by its name; 1 for branches that are not in it.
        mask_padding: whether the target of masks in the padding of an image is 0; False: padding has no mask loss.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        terms: Sequence[WeightedTerm],
        *,
        sigmoid: bool = False,
        assigner: DenseAssigner | None = None,
        branch_weights: Mapping[str, float] | None = None,
        mask_padding: bool = True,
    ) -> None:
        super().__init__({t.name: t.weight for t in terms}, sigmoid=sigmoid, branch_weights=branch_weights)
        self.matcher, self.terms, self.assigner = matcher, tuple(terms), assigner
        self.mask_padding = mask_padding

    def forward(self, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute every term at every decoder layer: the last under the plain name, earlier ones with `_0`, `_1`, ...

        Branches have the terms of weight above 0, as `branch/name`, `branch/name_0`, ..., each divided by the number of
        pairs of its branch. Processes that train together must have the same branches, if need be empty ones.

        Masks are predicted for matched queries alone, of the last layer: earlier layers have none, as in the reference
        DETR, and branches supervise boxes and classes.

        Args:
            out: output of the model.
            targets: one per image, with `labels` int64 [n] in 0..C-1, `boxes` [n, 4], cx, cy, w, h in 0..1, and with
                mask losses `masks` bool [n, h, w] at the size of the image without padding. Labels of other integer
                types, and empty tensors of any shape, are accepted; see `arguments.as_targets`.

        Returns:
            Scalars by name.

        Raises:
            ConfigError: the class loss is not for such outputs, or they cannot be paired.
            DataError: there are more or fewer targets than images; masks are missing; shapes do not fit; a box is not
                finite, in pixels or in corners; or a label is no class of the model, which is checked on the CPU only,
                where the check costs nothing.
        """
        classes = expect_output(out).logits.shape[-1] - (not out.sigmoid)
        targets = as_targets(targets, images=len(out.logits), classes=classes, device=out.logits.device)
        losses: dict[str, Tensor] = {}
        with torch.autocast(out.logits.device.type, enabled=False):
            # match: the decoder layers and each branch, with the pairs of each layer
            outputs = assign_targets(out, targets, self.matcher, self.assigner, self.sigmoid)
            for supervised, normalizers in zip(outputs, mean_over_processes(outputs), strict=True):
                matched, objects = gather(supervised, normalizers)  # predictions and targets of all pairs, side by side
                last = matched.last_layer(pairs=sum(len(queries) for queries, _ in supervised.pairs[0]))
                terms = self._terms_of(supervised)
                if any(term.masks for term in terms):
                    last = self._with_masks(last, objects, out, targets)
                values = {t.name: t.term(matched if t.every_layer else last) for t in terms}  # [L] or [1] each
                losses |= _named(supervised.prefix, values)
        return losses

    def match(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """(query indices, target indices) of each image at the last decoder layer."""
        return self.matcher(out, targets)

    def _terms_of(self, supervised: SupervisedOutput) -> list[WeightedTerm]:
        """The terms that apply: all to the decoder layers, those that train classes and boxes to a branch."""
        return [t for t in self.terms if not supervised.prefix or (t.weight and not t.masks)]

    def _with_masks(self, last: Matched, objects: Tensor, out: Output, targets: Sequence[Target]) -> Matched:
        """The pairs of the last layer with their masks, which are predicted now."""
        pairs = last.image_index, last.query_index, objects[: len(last.query_index)]
        return replace(last, masks=pair_masks(out, targets, *pairs, self.mask_padding))


def _named(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses by name, layer after layer, from one number per layer of each term."""
    per_layer = {name: value.unbind() for name, value in values.items()}
    losses: dict[str, Tensor] = {}
    for i in range(max(map(len, per_layer.values()), default=0)):
        suffix = f"_{i - 1}" if i else ""
        losses |= {prefix + name + suffix: value[i] for name, value in per_layer.items() if i < len(value)}
    return losses


def _term_of(name: str) -> str:
    """The term behind a loss: "loss_ce" for both "loss_ce" and "loss_ce_3"."""
    head, _, tail = name.rpartition("_")
    return head if tail.isdecimal() else name
