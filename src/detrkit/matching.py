"""Bipartite matching of predictions with objects: each object gets the one query that suits it best together.

Paper, section 3.1, equation 1; the cost is that of its appendix A.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, pairwise_giou
from detrkit.structures import Output, Target

Pairs = list[tuple[Tensor, Tensor]]
"""One (query indices, target indices) an image, int64 in main memory; query indices ascend."""

_WORST = 1e6
"""The most a pair may cost. What is NaN, infinite or larger costs this: such a query is matched last, and scipy, which
refuses NaN, never sees one."""


class HungarianMatcher:
    """Minimum-cost matching within each image, by class probability, L1 distance and generalised IoU of the boxes."""

    def __init__(self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    def __call__(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """The pairs of each image at the last decoder layer; min(Q, n) pairs for n objects."""
        return self.match_layers([out], targets)[0]

    @torch.no_grad()
    def match_layers(self, layers: Sequence[Output], targets: Sequence[Target]) -> list[Pairs]:
        """The pairs of each image for each of several decoder layers, with a single transfer from the device."""
        logits = torch.stack([layer.logits for layer in layers])
        boxes = torch.stack([layer.boxes for layer in layers])
        costs = [self.cost(logits[:, i], boxes[:, i], target) for i, target in enumerate(targets)]  # [layers, Q, n]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        ends = np.cumsum([cost.numel() for cost in costs])[:-1]
        parts = [part.reshape(cost.shape) for part, cost in zip(np.split(flat, ends), costs, strict=True)]
        return [[_assign(part[layer]) for part in parts] for layer in range(len(layers))]

    def cost(self, logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        """What each pair costs: logits [..., Q, C + 1] and boxes [..., Q, 4] of one image, n objects -> [..., Q, n]."""
        probability = logits.float().softmax(-1)[..., target["labels"]]
        boxes, wanted = boxes.float(), target["boxes"].float()
        distance = torch.cdist(boxes, wanted.expand(*boxes.shape[:-2], -1, -1), p=1)
        overlap = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        total = self.cost_bbox * distance - self.cost_class * probability - self.cost_giou * overlap
        return total.nan_to_num(_WORST, _WORST, _WORST).clamp(max=_WORST)


def _assign(cost: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[Tensor, Tensor]:
    queries, objects = linear_sum_assignment(cost)
    return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(objects, dtype=torch.int64)
