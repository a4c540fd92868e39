"""The dense head: a class and a box at every place of every level (Tian et al. 2019, "FCOS", section 3).

With one query per object, an object supervises once per step. Here every location on an object learns (Zong et al.
2023, "Co-DETR": such heads beside the decoder make the encoder's features better); and since the head then knows early
where things are, the best places can also seed the decoder's queries (Zhang et al. 2023, "DDQ").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import run_in_float32
from detrkit.structures import Output

PRIOR = -math.log((1 - 0.01) / 0.01)
"""The logit that a class starts at: a chance of 1 % (Lin et al. 2017, section 4.1), so that the many places where
nothing is do not drown the few that matter."""


class DenseHead(nn.Module):
    """Convolutions shared by all levels, then class logits and the distances to the four sides of the box.

    Distances are in cells of their level, `exp(scale * x)` with a learned scale a level (FCOS, section 3.2).
    """

    def __init__(self, dim: int, num_classes: int, levels: int, convs: int = 2) -> None:
        super().__init__()
        self.classes, self.sides = Tower(dim, convs), Tower(dim, convs)
        self.class_embed = nn.Conv2d(dim, num_classes, 3, padding=1)
        self.bbox_embed = nn.Conv2d(dim, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for layer in (self.class_embed, self.bbox_embed):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.class_embed.bias, PRIOR)  # type: ignore[arg-type]  # it has a bias
        nn.init.constant_(self.bbox_embed.bias, math.log(2))  # type: ignore[arg-type]  # boxes of four cells at first

    def forward(self, memory: Memory) -> Output:
        """Memory -> logits [B, S, C] and boxes [B, S, 4]; sigmoid."""
        logits, distances = [], []
        inside = memory.tokens.new_ones(()) * ~memory.padding  # convolutions shall see zeros beyond the image
        for level, keep, scale in zip(memory.maps(), memory.split(inside[..., None]), self.scales, strict=True):
            logits.append(run_in_float32(self.class_embed, self.classes(level, keep)).flatten(2))
            sides = run_in_float32(self.bbox_embed, self.sides(level, keep)).float()
            distances.append((scale * sides).clamp(max=6).exp().flatten(2))
        located = memory.locations
        left, top, right, bottom = torch.cat(distances, 2).unbind(1)  # [B, S] each, in cells
        extent = torch.stack([left + right, top + bottom], -1)
        shift = torch.stack([right - left, bottom - top], -1) / 2
        boxes = torch.cat([located.centers + shift * located.cells, extent * located.cells], -1)
        return Output(torch.cat(logits, 2).transpose(1, 2), boxes, sigmoid=True)


class Tower(nn.ModuleList):
    """Convolutions of 3x3, each with a group norm and a ReLU, for which there is nothing but the image."""

    def __init__(self, dim: int, convs: int) -> None:
        super().__init__(TowerLayer(dim) for _ in range(convs))

    def forward(self, level: Tensor, inside: Tensor) -> Tensor:
        """Map [B, D, h, w] and 1 where the image is [B, 1, h, w] -> a map of the same shape, 0 beyond the image."""
        level = level * inside
        for layer in self:
            level = layer(level, inside)
        return level


class TowerLayer(nn.Module):
    """One of its layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm = InnerGroupNorm(math.gcd(dim, 32), dim)

    def forward(self, level: Tensor, inside: Tensor) -> Tensor:
        """As `Tower.forward`."""
        normed: Tensor = self.norm(self.conv(level), inside)
        return normed.relu() * inside


class InnerGroupNorm(nn.GroupNorm):
    """Group norm (Wu and He 2018) over the places of the image, however much padding a batch gives it."""

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:  # type: ignore[override]  # it must know what is padding
        """Map [B, D, h, w] and 1 where the image is [B, 1, h, w] -> a map of the same shape."""
        groups = x.float().reshape(x.shape[0], self.num_groups, -1, *x.shape[2:])
        inside = inside.float()[:, None]
        count = (inside.sum((2, 3, 4), keepdim=True) * groups.shape[2]).clamp(min=1)
        mean = (groups * inside).sum((2, 3, 4), keepdim=True) / count
        centered = (groups - mean) * inside
        variance = centered.square().sum((2, 3, 4), keepdim=True) / count
        normed = (centered * (variance + self.eps).rsqrt()).flatten(1, 2)
        scaled: Tensor = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(x.dtype)


def best_locations(scores: Tensor, boxes: Tensor, count: int, query_nms_iou: float) -> tuple[Tensor, Tensor]:
    """The `count` best places of each image, and which of them are no duplicate.

    With `query_nms_iou`, a place whose box overlaps that of a better one by more than this IoU comes after all that do
    not (DDQ, section 3.2; the suppression in one step is Fast NMS, Bolya et al. 2019, section 4.2).

    Args:
        scores: [B, S], anything to be ranked by.
        boxes: [B, S, 4].
        count: how many; at most S.
        query_nms_iou: IoU in 0..1; 0: every place counts.

    Returns:
        int64 [B, count] places and bool [B, count], both best first.
    """
    if not query_nms_iou:
        places = scores.topk(count, dim=1).indices
        return places, torch.ones_like(places, dtype=torch.bool)
    from detrkit.ops.boxes import cxcywh_to_xyxy, pairwise_iou

    candidates = scores.topk(min(scores.shape[1], 4 * count), dim=1).indices
    corners = cxcywh_to_xyxy(boxes.gather(1, candidates[..., None].expand(-1, -1, 4)).float())
    overlap = pairwise_iou(corners, corners).triu(1)  # [B, better, worse]
    single = overlap.amax(1) <= query_nms_iou
    # no two ranks are alike, so they need no stable sort, which exporters do not know
    ranks = torch.arange(single.shape[1], device=single.device) + single.shape[1] * (~single).float()
    order = ranks.topk(count, dim=1, largest=False).indices
    return candidates.gather(1, order), single.gather(1, order)
