"""Bipartite matching of predictions with objects: each object gets the one query that suits it best together.

Paper, section 3.1, equation 1; the cost is that of its appendix A.2, or the focal one where classes are sigmoids.
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
"""One (query indices, target indices) an image, int64 in main memory; query indices ascend."""

_WORST = 1e6
"""The most a pair may cost. What is NaN, infinite or larger costs this: such a query is matched last, and scipy, which
refuses NaN, never sees one."""
_NEVER = 2 * _WORST
"""Cost of a query that shall not be matched. Above `_WORST`, so one is chosen only where nothing else is left, and then
the pair is dropped."""

_WORTH_THREADS = 4000
"""Costs of a problem, on average, from which on threads solve them sooner than one after the other would."""

Costs = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class LayerOutputs(NamedTuple):
    """What decoder layers say of a batch, L layers in one tensor, the last one first."""

    logits: Tensor
    """float32 [L, B, Q, C + 1], or [L, B, Q, C] where `sigmoid`."""
    boxes: Tensor
    """float32 [L, B, Q, 4]; cx, cy, w, h in 0..1."""
    sigmoid: bool

    @classmethod
    def of(cls, outputs: Sequence[Output]) -> Self:
        """Outputs of one kind and size, in their order."""
        logits = torch.stack([out.logits for out in outputs]).float()
        return cls(logits, torch.stack([out.boxes for out in outputs]).float(), outputs[0].sigmoid)


class MatchingProblem(NamedTuple):
    """Layers whose queries are to be matched with the objects of their images, each layer for itself."""

    layers: LayerOutputs
    targets: Sequence[Target]
    groups: int = 1
    """So many equal runs of queries are matched with all objects, each for itself (Chen et al. 2023, "Group DETR")."""
    repeat: int = 1
    """So often an object may be matched within a group (Jia et al. 2023, "H-DETR", its hybrid branch)."""
    ignored: Tensor | None = None
    """bool [B, Q], queries that are never matched."""


class HungarianMatcher:
    """Minimum-cost matching within each image, by class probability, L1 distance and generalised IoU of the boxes."""

    def __init__(self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    def __call__(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """The pairs of each image at the last decoder layer; min(Q, n) pairs for n objects.

        Raises:
            DataError: the targets are not one per image of the output, or not what `Target` describes.
        """
        return self.match_layers([out], targets)[0]

    def match_layers(self, layers: Sequence[Output], targets: Sequence[Target]) -> list[Pairs]:
        """The pairs of each image for each of several decoder layers; see `__call__`."""
        logits = expect_output(layers[0]).logits
        classes = logits.shape[-1] - (not layers[0].sigmoid)
        targets = as_targets(targets, images=len(logits), classes=classes, device=logits.device)
        return self.solve([MatchingProblem(LayerOutputs.of(layers), targets)])[0]

    def solve(self, problems: Sequence[MatchingProblem]) -> list[list[Pairs]]:
        """The pairs of each image, for each layer of each problem, with a single transfer from the device.

        An image with n objects and Q queries has groups * min(Q / groups, repeat * n) pairs. An object is in up to
        groups * repeat of them, a query in one at most.

        Raises:
            ConfigError: the queries do not divide into the groups.
            DataError: a box is not finite, or not relative to its image.
        """
        costs = [self.costs(problem) for problem in problems]
        given = [boxes_of(problem.targets) for problem in problems]
        told = in_main_memory([*costs, *given])
        for problem, boxes in zip(problems, told[len(costs) :], strict=True):
            check_boxes(boxes, [len(target["labels"]) for target in problem.targets])
        return [self.assign(problem, cost) for problem, cost in zip(problems, told[: len(costs)], strict=True)]

    @torch.no_grad()
    def costs(self, problem: MatchingProblem) -> Tensor:
        """What each pair of a query and an object of its image costs, float32 [M, L, Q], M objects of all images.

        No query is held against the objects of other images, which would be most of a batch's pairs.

        Raises:
            ConfigError: the queries do not divide into the groups.
        """
        logits, boxes, sigmoid = problem.layers
        queries, device = logits.shape[2], logits.device
        if queries % problem.groups:
            raise ConfigError(f"expected queries that divide into {problem.groups} equal groups, found {queries}")
        sizes = torch.tensor([len(target["labels"]) for target in problem.targets])
        images = torch.arange(len(sizes)).repeat_interleave(sizes).to(device, non_blocking=True)
        labels = torch.cat([target["labels"] for target in problem.targets])
        wanted = boxes_of(problem.targets)[:, None, None]  # [M, 1, 1, 4]
        said = logits if sigmoid else -logits.softmax(-1)
        cost_class = said[:, images, :, labels]  # [M, L, Q]
        if sigmoid:
            cost_class = _focal_cost(cost_class)
        found = boxes.transpose(0, 1)[images]  # [M, L, Q, 4]
        distance = (found - wanted).abs().sum(-1)
        overlap = giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))
        total = self.cost_bbox * distance + self.cost_class * cost_class - self.cost_giou * overlap
        total = total.nan_to_num(_WORST, _WORST, _WORST).clamp(max=_WORST)
        if problem.ignored is not None:
            total = total.masked_fill(problem.ignored[images][:, None], _NEVER)
        return total

    def assign(self, problem: MatchingProblem, costs: Costs) -> list[Pairs]:
        """The cheapest pairs of each image, for each layer: `costs` in main memory -> as `solve`."""
        ends = np.cumsum([0, *(len(target["labels"]) for target in problem.targets)])
        tables = [costs[start:end, k].T for k in range(costs.shape[1]) for start, end in pairwise(ends)]

        def solve(table: Costs) -> tuple[Tensor, Tensor]:
            return _assign(table, problem.groups, problem.repeat)

        # scipy lets other threads run meanwhile
        worthwhile = problem.repeat * costs.size > _WORTH_THREADS * len(tables)
        pairs = list(_threads().map(solve, tables) if worthwhile else map(solve, tables))
        images = len(problem.targets)
        return [pairs[first : first + images] for first in range(0, len(pairs), images)]


def boxes_of(targets: Sequence[Target]) -> Tensor:
    """The boxes of all images, float32 [M, 4]."""
    return torch.cat([target["boxes"].float() for target in targets])


def in_main_memory(tensors: Sequence[Tensor]) -> list[Costs]:
    """Tensors of numbers up to 2^24 as float32 arrays of the same shapes, in one transfer from their device."""
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(flat, ends), tensors, strict=True)]


@cache
def _threads() -> ThreadPoolExecutor:
    """Made when first needed; they wait for work and end with the process."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="matching")


def _focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2) -> Tensor:
    """What the focal loss would be for saying yes, less what it would be for no, as in Zhu et al. 2021 ("Deformable
    DETR") and Zhang et al. 2023 ("DINO")."""
    probability = logits.sigmoid()
    yes = alpha * (1 - probability) ** gamma * -F.logsigmoid(logits)
    no = (1 - alpha) * probability**gamma * -F.logsigmoid(-logits)
    return yes - no


def _assign(cost: Costs, groups: int, repeat: int) -> tuple[Tensor, Tensor]:
    """Costs [Q, n] -> (query indices, object indices)."""
    size, objects = len(cost) // groups, cost.shape[1]
    pairs = []
    for first in range(0, len(cost), max(size, 1)):
        part = cost[first : first + size]
        part = np.tile(part, (1, repeat)) if repeat > 1 else part
        rows, columns = linear_sum_assignment(part)
        meant = part[rows, columns] < _NEVER
        pairs.append((rows[meant] + first, columns[meant] % max(objects, 1)))
    if not pairs:  # no query
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    rows, columns = (np.concatenate(half) for half in zip(*pairs, strict=True))
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)
