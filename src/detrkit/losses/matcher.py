"""Bipartite matching of predictions and ground-truth objects at the lowest total cost.

Paper, section 3.1, equation 1. With sigma the matched query of each object i of class c_i and box b_i, it minimizes

    sum_i  cost_class * C(p_sigma(i), c_i) + cost_bbox * |b_i - b_sigma(i)|_1 - cost_giou * GIoU(b_i, b_sigma(i))

C(p, c) = -p_c with a softmax; with sigmoids, the focal cost (`_focal_cost`).

Shapes: L decoder layers, B images, Q queries, C classes, n objects of one image, G of all images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detrkit.errors import ConfigError
from detrkit.models.arguments import as_targets, check_boxes, expect_output
from detrkit.ops.boxes import cxcywh_to_xyxy, giou
from detrkit.structures import Output, Target

Pairs = list[tuple[Tensor, Tensor]]
"""(query indices, object indices) of each image, int64 on the CPU; query indices ascend."""

_MAX_COST = 1e6
"""Largest cost of a pair. NaN, infinite and larger costs become this: such a query is matched last, and scipy, which
refuses NaN, never gets one."""
_FORBIDDEN = 2 * _MAX_COST
"""Cost of an ignored query. Above `_MAX_COST`, so it is chosen only where no other is left, and then the pair is
dropped."""

_MIN_COSTS_FOR_THREADS = 4000
"""Average number of costs per problem from which on threads are faster than solving one problem after the other."""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class LayerOutputs(NamedTuple):
    """Predictions of several decoder layers in one tensor each, the last layer first."""

    logits: Tensor
    """float32 [L, B, Q, C + 1], or [L, B, Q, C] where `sigmoid`."""
    boxes: Tensor
    """float32 [L, B, Q, 4]; cx, cy, w, h in 0..1."""
    sigmoid: bool

    @classmethod
    def of(cls, outputs: Sequence[Output]) -> Self:
        """Stack outputs of one kind and size, in their order."""
        logits = torch.stack([out.logits for out in outputs]).float()
        return cls(logits, torch.stack([out.boxes for out in outputs]).float(), outputs[0].sigmoid)


class MatchingProblem(NamedTuple):
    """Decoder layers whose queries are to be matched with the objects of their images, each layer independently."""

    preds: LayerOutputs
    targets: Sequence[Target]
    groups: int = 1
    """Number of equal groups of queries; each is matched with all objects (Chen et al. 2023, "Group DETR")."""
    repeat: int = 1
    """How often an object may be matched within a group (Jia et al. 2023, "H-DETR", its one-to-many branch)."""
    ignored: Tensor | None = None
    """bool [B, Q], queries that are never matched; None: none."""


class HungarianMatcher:
    """Minimum-cost matching within each image, by class scores, L1 distance and generalized IoU of the boxes.

    `costs` computes the cost of each pair on the device, `pairs_from_costs` finds the cheapest pairs on the CPU (with
    scipy). The criterion calls these two, with one transfer for all layers and branches in between; `match_all`
    and calling the matcher do both.

    Args:
        cost_class: weight of the class cost.
        cost_bbox: weight of the L1 distance.
        cost_giou: weight of the generalized IoU.
    """

    def __init__(self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    def __call__(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """Match the last decoder layer: min(Q, n) pairs for an image with n objects.

        Raises:
            DataError: the targets are not one per image of the output, or not what `Target` describes.
        """
        logits = expect_output(out).logits
        classes = logits.shape[-1] - (not out.sigmoid)
        targets = as_targets(targets, images=len(logits), classes=classes, device=logits.device)
        return self.match_all([MatchingProblem(LayerOutputs.of([out]), targets)])[0][0]

    def match_all(self, problems: Sequence[MatchingProblem]) -> list[list[Pairs]]:
        """Match each layer of each problem, with a single transfer from the device.

        An image with n objects and Q queries has groups * min(Q / groups, repeat * n) pairs, fewer if queries are
        ignored. An object is in up to groups * repeat of them, a query in one at most.

        Raises:
            ConfigError: the queries do not divide into the groups.
            DataError: a box is not finite, or not relative to its image.
        """
        costs = [self.costs(problem) for problem in problems]
        arrays = to_numpy([*costs, *(concat_boxes(problem.targets) for problem in problems)])
        for problem, boxes in zip(problems, arrays[len(costs) :], strict=True):
            check_boxes(boxes, [len(target["labels"]) for target in problem.targets])
        return [
            self.pairs_from_costs(problem, array) for problem, array in zip(problems, arrays[: len(costs)], strict=True)
        ]

    @torch.no_grad()
    def costs(self, problem: MatchingProblem) -> Tensor:
        """Compute the cost of each pair of an object and a query of its image, float32 [G, L, Q].

        Pairs across images, most pairs of a batch, are left out.

        Raises:
            ConfigError: the queries do not divide into the groups.
        """
        logits, boxes, sigmoid = problem.preds
        queries, device = logits.shape[2], logits.device
        if queries % problem.groups:
            raise ConfigError(f"expected queries that divide into {problem.groups} equal groups, found {queries}")
        sizes = torch.tensor([len(target["labels"]) for target in problem.targets])
        images = torch.arange(len(sizes)).repeat_interleave(sizes).to(device, non_blocking=True)  # [G]
        labels = torch.cat([target["labels"] for target in problem.targets])  # [G]
        class_values = logits if sigmoid else -logits.softmax(-1)  # [L, B, Q, C or C + 1]
        cost_class = class_values[:, images, :, labels]  # [G, L, Q]: only the class of each object
        if sigmoid:
            cost_class = _focal_cost(cost_class)
        pred_boxes = boxes.transpose(0, 1)[images]  # [G, L, Q, 4]
        target_boxes = concat_boxes(problem.targets)[:, None, None]  # [G, 1, 1, 4]
        distance = (pred_boxes - target_boxes).abs().sum(-1)  # [G, L, Q]
        overlap = giou(cxcywh_to_xyxy(pred_boxes), cxcywh_to_xyxy(target_boxes))  # [G, L, Q]
        total = self.cost_bbox * distance + self.cost_class * cost_class - self.cost_giou * overlap
        total = total.nan_to_num(_MAX_COST, _MAX_COST, _MAX_COST).clamp(max=_MAX_COST)
        if problem.ignored is not None:
            total = total.masked_fill(problem.ignored[images][:, None], _FORBIDDEN)
        return total

    def pairs_from_costs(self, problem: MatchingProblem, costs: Array) -> list[Pairs]:
        """Find the cheapest pairs of each image for each layer, from `costs` [G, L, Q] on the CPU; see `match_all`."""
        # one table [Q, n] per layer and image
        ends = np.cumsum([0, *(len(target["labels"]) for target in problem.targets)])
        tables = [costs[start:end, k].T for k in range(costs.shape[1]) for start, end in pairwise(ends)]

        def cheapest(table: Array) -> tuple[Tensor, Tensor]:
            return _solve_table(table, problem.groups, problem.repeat)

        # scipy releases the interpreter lock
        threaded = problem.repeat * costs.size > _MIN_COSTS_FOR_THREADS * len(tables)
        pairs = list(_threads().map(cheapest, tables) if threaded else map(cheapest, tables))
        images = len(problem.targets)
        return [pairs[first : first + images] for first in range(0, len(pairs), images)]


def concat_boxes(targets: Sequence[Target]) -> Tensor:
    """The boxes of all images, float32 [G, 4]."""
    return torch.cat([target["boxes"].float() for target in targets])


def to_numpy(tensors: Sequence[Tensor]) -> list[Array]:
    """Fetch tensors of numbers up to 2^24 as float32 arrays of the same shapes, in one transfer from their device."""
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(flat, ends), tensors, strict=True)]


@cache
def _threads() -> ThreadPoolExecutor:
    """The pool of threads, made when first needed; it ends with the process."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="matching")


def _focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2) -> Tensor:
    """Focal loss of the positive label minus that of the negative label, as in Zhu et al. 2021 ("Deformable DETR") and
    Zhang et al. 2023 ("DINO")."""
    p = logits.sigmoid()
    positive = alpha * (1 - p) ** gamma * -F.logsigmoid(logits)
    negative = (1 - alpha) * p**gamma * -F.logsigmoid(-logits)
    return positive - negative


def _solve_table(cost: Array, groups: int, repeat: int) -> tuple[Tensor, Tensor]:
    """Solve one image and layer: costs [Q, n] -> (query indices, object indices)."""
    size, objects = len(cost) // groups, cost.shape[1]
    pairs = []
    for first in range(0, len(cost), max(size, 1)):
        part = cost[first : first + size]  # [Q / groups, n]
        part = np.tile(part, (1, repeat)) if repeat > 1 else part  # each object several times
        rows, columns = linear_sum_assignment(part)
        allowed = part[rows, columns] < _FORBIDDEN
        pairs.append((rows[allowed] + first, columns[allowed] % max(objects, 1)))
    if not pairs:  # there is no query
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    rows, columns = (np.concatenate(half) for half in zip(*pairs, strict=True))
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)
