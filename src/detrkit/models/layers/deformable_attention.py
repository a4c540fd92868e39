"""Deformable attention (Zhu et al. 2021, "Deformable DETR", section 4.1), in plain PyTorch.

A query does not look at all places: each head reads a few points of each level, found from the query itself, near
the place that the query is about. The cost grows with the number of queries, not with queries times places.

Shapes: B batch, Q queries, S places of all levels, D channels, M heads, L levels, K points, h x w one level's places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.feature_levels import Memory


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (eq. 3). `dim` is a multiple of `heads`.

    Parameters have the field's names and layouts, so published weights fit.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as in appendix A.4: every query alike, all points weighing the same, point k of a head k places away.

        Call this after whatever initialises a whole model: random offsets at the start would lose the query's place.
        """
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        compass = torch.stack([angles.cos(), angles.sin()], dim=-1)
        compass = compass / compass.abs().amax(-1, keepdim=True)  # onto a square, whose corners are whole places
        steps = torch.arange(1, self.points + 1)
        offsets = compass[:, None, None] * steps[:, None]  # [M, 1, K, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """What each query reads around its reference: [B, Q, D].

        `query` [B, Q, D], with its position added. `reference` [B, Q, 2], places x, y, or [B, Q, 4], boxes cx, cy, w,
        h, relative to the image without its padding; better float32 also under autocast. `memory` has `levels`
        levels. Padding, and what lies outside of the image, reads as 0.
        """
        locations, weights = self.sampling(query, reference, memory)
        values = self.value_proj(memory.tokens).masked_fill(memory.padding[..., None], 0.0)
        read = []
        parts = values.to(locations.dtype).split([height * width for height, width in memory.shapes], dim=1)
        for level, (part, shape) in enumerate(zip(parts, memory.shapes, strict=True)):
            maps = part.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
            grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1  # -1..1, as grid_sample has it
            sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            shares = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            read.append((sampled * shares[:, None]).sum(-1))  # [B * M, D / M, Q]: level by level saves memory
        batch, queries, dim = query.shape
        joined = torch.stack(read).sum(0).view(batch, dim, queries).transpose(1, 2)
        out: Tensor = self.output_proj(joined.to(query.dtype))
        return out

    def sampling(self, query: Tensor, reference: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Where each head looks and how much each point counts; arguments as in `forward`.

        Returns locations [B, Q, M, L, K, 2], x, y relative to the padded maps (0..1 inside), and weights
        [B, Q, M, L, K], which add up to 1 over L and K. Both are float32 also under autocast: half precision has no
        numbers between neighbouring places of a large map.
        """
        exact = torch.promote_types(query.dtype, torch.float32)
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).to(exact).unflatten(-1, (*shape, 2))
        scores = self.attention_weights(query).to(exact).unflatten(-1, (self.heads, -1))
        weights = scores.softmax(-1).unflatten(-1, shape[1:])

        valid = memory.valid.to(exact)[:, None, None, :, None]  # [B, 1, 1, L, 1, 2]
        places = reference.to(exact)[:, :, None, None, None]  # [B, Q, 1, 1, 1, 2 or 4]
        if reference.shape[-1] == 2:  # offsets count places
            sides = [side for height, width in memory.shapes for side in (width, height)]
            sizes = torch.cat([offsets.new_full((1,), side) for side in sides])  # new_tensor would fix them in exports
            return places * valid + offsets / sizes.view(-1, 1, 2), weights
        reach = places[..., 2:] * valid * (0.5 / self.points)  # at the start the outermost points are on the box
        return places[..., :2] * valid + offsets * reach, weights
