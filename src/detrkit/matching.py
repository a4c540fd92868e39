"""Bipartite matching of predictions with objects: each object gets the one query that suits it best together.

Paper, section 3.1, equation 1; the cost is that of its appendix A.2, or the focal one where classes are sigmoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detrkit.boxes import cxcywh_to_xyxy, pairwise_giou
from detrkit.errors import ConfigError
from detrkit.structures import Output, Target

Pairs = list[tuple[Tensor, Tensor]]
"""One (query indices, target indices) an image, int64 in main memory; query indices ascend."""

_WORST = 1e6
"""The most a pair may cost. What is NaN, infinite or larger costs this: such a query is matched last, and scipy, which
refuses NaN, never sees one."""
_NEVER = 2 * _WORST
"""Cost of a query that shall not be matched. Above `_WORST`, so one is chosen only where nothing else is left, and then
the pair is dropped."""

Costs = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Problem(NamedTuple):
    """Layers whose queries are to be matched with the objects of their pictures, each layer for itself."""

    layers: Sequence[Output]
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
        """The pairs of each image at the last decoder layer; min(Q, n) pairs for n objects."""
        return self.match_layers([out], targets)[0]

    def match_layers(self, layers: Sequence[Output], targets: Sequence[Target]) -> list[Pairs]:
        """The pairs of each image for each of several decoder layers."""
        return self.solve([Problem(layers, targets)])[0]

    @torch.no_grad()
    def solve(self, problems: Sequence[Problem]) -> list[list[Pairs]]:
        """The pairs of each image, for each layer of each problem, with a single transfer from the device.

        A picture with n objects and Q queries has groups * min(Q / groups, repeat * n) pairs. An object is in up to
        groups * repeat of them, a query in one at most.

        Raises:
            ConfigError: the queries do not divide into the groups.
        """
        costs = [self._costs(problem) for problem in problems]  # for each problem and image [layers, Q, n]
        every = [cost for one in costs for cost in one]
        flat = torch.cat([cost.flatten() for cost in every]).cpu().numpy()
        ends = np.cumsum([cost.numel() for cost in every])[:-1]
        parts = iter([part.reshape(cost.shape) for part, cost in zip(np.split(flat, ends), every, strict=True)])
        solved = []
        for problem in problems:
            images = [next(parts) for _ in problem.targets]
            solved.append(
                [
                    [_assign(part[k], problem.groups, problem.repeat) for part in images]
                    for k, _ in enumerate(problem.layers)
                ]
            )
        return solved

    def _costs(self, problem: Problem) -> list[Tensor]:
        queries = problem.layers[0].logits.shape[1]
        if queries % problem.groups:
            raise ConfigError(f"expected queries that divide into {problem.groups} equal groups, found {queries}")
        logits = torch.stack([layer.logits for layer in problem.layers])
        boxes = torch.stack([layer.boxes for layer in problem.layers])
        sigmoid = problem.layers[0].sigmoid
        costs = [self.cost(logits[:, i], boxes[:, i], t, sigmoid=sigmoid) for i, t in enumerate(problem.targets)]
        if problem.ignored is not None:
            costs = [cost.masked_fill(problem.ignored[i][:, None], _NEVER) for i, cost in enumerate(costs)]
        return costs

    def cost(self, logits: Tensor, boxes: Tensor, target: Target, *, sigmoid: bool = False) -> Tensor:
        """What each pair costs: logits and boxes [..., Q, 4] of one image, n objects -> [..., Q, n].

        Logits are [..., Q, C + 1], or with `sigmoid` [..., Q, C].
        """
        if sigmoid:
            cost_class = _focal_cost(logits.float()[..., target["labels"]])
        else:
            cost_class = -logits.float().softmax(-1)[..., target["labels"]]
        boxes, wanted = boxes.float(), target["boxes"].float()
        distance = torch.cdist(boxes, wanted.expand(*boxes.shape[:-2], -1, -1), p=1)
        overlap = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        total = self.cost_bbox * distance + self.cost_class * cost_class - self.cost_giou * overlap
        return total.nan_to_num(_WORST, _WORST, _WORST).clamp(max=_WORST)


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
        part = np.tile(cost[first : first + size], (1, repeat))
        rows, columns = linear_sum_assignment(part)
        meant = part[rows, columns] < _NEVER
        pairs.append((rows[meant] + first, columns[meant] % max(objects, 1)))
    if not pairs:  # no query
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    rows, columns = (np.concatenate(half) for half in zip(*pairs, strict=True))
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)
