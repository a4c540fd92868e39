"""The dense head: class scores and a box at every location of every level (Tian et al. 2019, "FCOS", section 3).

With one query per object, an object supervises one prediction per step. Here every location on an object is supervised
(Zong et al. 2023, "Co-DETR": such auxiliary heads improve the features of the encoder); and the best locations can also
become the queries of the decoder (Zhang et al. 2023, "DDQ").

Shapes: B batch, S locations of all levels, one per token, h x w locations of one level, D channels, C classes, K chosen
locations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import run_in_float32
from detrkit.ops.boxes import cxcywh_to_xyxy, pairwise_iou
from detrkit.structures import Output

PRIOR = -math.log((1 - 0.01) / 0.01)
"""Initial logit of a class, a probability of 1 % (Lin et al. 2017, section 4.1), so that the many locations without an
object do not dominate the loss."""


class DenseHead(nn.Module):
    """Convolutions shared by all levels, then class logits and the distances to the four sides of the box.

    With x the outputs of the box branch at a location (cx, cy) of level l, s_l a learned scale and c_l the size of a
    cell of that level, the distances are d = exp(s_l x) c_l (FCOS, section 3.2) and the corners of the box are

        (cx - d_left, cy - d_top, cx + d_right, cy + d_bottom)

    Args:
        dim: D.
        num_classes: C.
        levels: number of levels.
        convs: convolutions before the predictions, in each of the two branches.
        separable: whether these are depthwise and pointwise ones, and the predictions pointwise.
    """

    def __init__(self, dim: int, num_classes: int, levels: int, convs: int = 2, *, separable: bool = False) -> None:
        super().__init__()
        self.classes, self.sides = Tower(dim, convs, separable), Tower(dim, convs, separable)
        kernel = 1 if separable else 3
        self.class_embed = nn.Conv2d(dim, num_classes, kernel, padding=kernel // 2)
        self.bbox_embed = nn.Conv2d(dim, 4, kernel, padding=kernel // 2)
        self.scales = nn.Parameter(torch.ones(levels))
        for layer in (self.class_embed, self.bbox_embed):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.class_embed.bias, PRIOR)  # type: ignore[arg-type]  # it has a bias
        nn.init.constant_(self.bbox_embed.bias, math.log(2))  # type: ignore[arg-type]  # boxes of four cells at first

    def forward(self, memory: Memory) -> Output:
        """Predict logits [B, S, C] (independent sigmoids) and boxes [B, S, 4] for `memory`."""
        logits, distances = [], []
        inside = memory.tokens.new_ones(()) * ~memory.padding  # [B, S], 0 in the padding, as beyond the border
        for level, mask, scale in zip(memory.maps(), memory.split(inside[..., None]), self.scales, strict=True):
            logits.append(run_in_float32(self.class_embed, self.classes(level, mask)).flatten(2))  # [B, C, h * w]
            sides = run_in_float32(self.bbox_embed, self.sides(level, mask)).float()  # [B, 4, h, w]
            distances.append((scale * sides).clamp(max=6).exp().flatten(2))  # [B, 4, h * w], in cells
        locations = memory.locations
        left, top, right, bottom = torch.cat(distances, 2).unbind(1)  # [B, S] each
        extent = torch.stack([left + right, top + bottom], -1)  # [B, S, 2]
        shift = torch.stack([right - left, bottom - top], -1) / 2  # from the location to the center of the box
        boxes = torch.cat([locations.centers + shift * locations.cells, extent * locations.cells], -1)
        return Output(torch.cat(logits, 2).transpose(1, 2), boxes, sigmoid=True)


class Tower(nn.ModuleList):
    """3x3 convolutions, each with a group norm and a ReLU, in which padding has no part.

    Args:
        dim: D.
        convs: number of convolutions.
        separable: whether each is a depthwise and a pointwise one.
    """

    def __init__(self, dim: int, convs: int, separable: bool = False) -> None:
        super().__init__(TowerLayer(dim, separable) for _ in range(convs))

    def forward(self, level: Tensor, inside: Tensor) -> Tensor:
        """Map [B, D, h, w] and `inside` [B, 1, h, w], 1 in the image -> a map of the same shape, 0 in the padding."""
        level = level * inside
        for layer in self:
            level = layer(level, inside)
        return level


class TowerLayer(nn.Module):
    """One convolution of a `Tower`, with its norm and ReLU."""

    def __init__(self, dim: int, separable: bool = False) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        if separable:  # Howard et al. 2017, "MobileNets", section 3.1
            depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
            self.conv = nn.Sequential(depthwise, nn.Conv2d(dim, dim, 1, bias=False))
        self.norm = InnerGroupNorm(math.gcd(dim, 32), dim)

    def forward(self, level: Tensor, inside: Tensor) -> Tensor:
        """See `Tower.forward`."""
        return self.norm(self.conv(level), inside).relu() * inside


class InnerGroupNorm(nn.GroupNorm):
    """Group norm (Wu and He 2018) over the cells of the image alone, however much padding a batch adds."""

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:  # type: ignore[override]  # it needs the padding
        """Map [B, D, h, w] and `inside` [B, 1, h, w], 1 in the image -> a map of the same shape."""
        groups = x.float().reshape(x.shape[0], self.num_groups, -1, *x.shape[2:])  # [B, G, D / G, h, w]
        inside = inside.float()[:, None]  # [B, 1, 1, h, w]
        count = (inside.sum((2, 3, 4), keepdim=True) * groups.shape[2]).clamp(min=1)  # [B, 1, 1, 1, 1]
        mean = (groups * inside).sum((2, 3, 4), keepdim=True) / count  # [B, G, 1, 1, 1]
        centered = (groups - mean) * inside
        variance = centered.square().sum((2, 3, 4), keepdim=True) / count
        normed = (centered * (variance + self.eps).rsqrt()).flatten(1, 2)  # [B, D, h, w]
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def best_locations(scores: Tensor, boxes: Tensor, count: int, query_nms_iou: float) -> tuple[Tensor, Tensor]:
    """Choose the `count` best locations of each image, and mark those that are no duplicates.

    With `query_nms_iou`, a location whose box overlaps that of a better one by more than this IoU ranks after all that
    do not (DDQ, section 3.2; the suppression in one step is Fast NMS, Bolya et al. 2019, section 4.2).

    Args:
        scores: [B, S], by which locations are ranked.
        boxes: [B, S, 4]; cx, cy, w, h.
        count: K, at most S.
        query_nms_iou: IoU in 0..1; 0: there are no duplicates.

    Returns:
        int64 [B, K], indices of locations, and bool [B, K], False for duplicates; both best first.
    """
    if not query_nms_iou:
        indices = scores.topk(count, dim=1).indices
        return indices, torch.ones_like(indices, dtype=torch.bool)
    candidates = scores.topk(min(scores.shape[1], 4 * count), dim=1).indices  # [B, 4 * K], best first
    corners = cxcywh_to_xyxy(boxes.gather(1, candidates[..., None].expand(-1, -1, 4)).float())
    overlap = pairwise_iou(corners, corners).triu(1)  # [B, better, worse]
    single = overlap.amax(1) <= query_nms_iou
    # all ranks differ, so no stable sort is needed, which exporters lack
    ranks = torch.arange(single.shape[1], device=single.device) + single.shape[1] * (~single).float()
    order = ranks.topk(count, dim=1, largest=False).indices
    return candidates.gather(1, order), single.gather(1, order)
