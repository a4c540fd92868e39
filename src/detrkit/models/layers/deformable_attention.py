"""Deformable attention (Zhu et al. 2021, "Deformable DETR", section 4.1), in plain PyTorch.

A query does not attend to all tokens: each head samples a few points of each level, predicted from the query, around
its reference point or box. The cost grows with the number of queries, not with queries times tokens.

Shapes: B batch, Q queries, S tokens of all levels, D channels, M heads, L levels, K points per head and level, h x w
tokens of one level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.feature_levels import Memory


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, equation 3). For a query z at the reference point p,

        sum_m W_m sum_l sum_k A_mlk W'_m x_l(phi_l(p) + Delta p_mlk)

    Names: the sampling offsets Delta p_mlk are `sampling_offsets`(z), the attention weights A_mlk, which sum to 1 over
    l and k, softmax(`attention_weights`(z)), W'_m `value_proj` and W_m `output_proj`; x_l is level l of the memory,
    sampled bilinearly, and phi_l scales p to that level. Parameters have the names and layouts of the published models.

    Args:
        dim: D, a multiple of `heads`.
        heads: M.
        levels: L.
        points: K.
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
        """Initialize as in appendix A.4: all queries alike, equal weights, point k of a head k cells away.

        Each head has a direction of its own. Call this after any initialization of a whole model: with random offsets,
        queries would start without any relation to their references.
        """
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # [M, 2]
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto a square, whose corners are cells
        steps = torch.arange(1, self.points + 1)
        offsets = directions[:, None, None] * steps[:, None]  # [M, 1, K, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """Sample `memory` around the references. Padding, and points outside of the image, read as 0.

        Args:
            query: [B, Q, D], with its position embedding added.
            reference: points x, y, [B, Q, 2], or boxes cx, cy, w, h, [B, Q, 4], relative to the image without padding;
                better float32 also under autocast.
            memory: tokens of L levels.

        Returns:
            [B, Q, D].
        """
        locations, weights = self.sampling(query, reference, memory)  # [B, Q, M, L, K, 2] and [B, Q, M, L, K]
        values = self.value_proj(memory.tokens).masked_fill(memory.padding[..., None], 0.0)  # [B, S, D]
        per_level = []
        parts = values.to(locations.dtype).split([height * width for height, width in memory.shapes], dim=1)
        for level, (part, shape) in enumerate(zip(parts, memory.shapes, strict=True)):
            # [B, h * w, D] -> [B * M, D / M, h, w]: heads are part of the batch
            maps = part.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
            # [B * M, Q, K, 2] in -1..1, as grid_sample expects
            grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1
            sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B * M, Q, K]
            # sum over the points level by level, which saves memory: [B * M, D / M, Q, K] -> [B * M, D / M, Q]
            per_level.append((sampled * level_weights[:, None]).sum(-1))
        batch, queries, dim = query.shape
        mixed = torch.stack(per_level).sum(0).view(batch, dim, queries).transpose(1, 2)  # [B, Q, D]
        return self.output_proj(mixed.to(query.dtype))

    def sampling(self, query: Tensor, reference: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Compute the sampling locations and attention weights; arguments as in `forward`.

        Returns:
            Locations [B, Q, M, L, K, 2], x, y relative to the padded maps (0..1 inside), and weights [B, Q, M, L, K],
            which sum to 1 over L and K. Both are float32 also under autocast: half precision cannot tell neighboring
            cells of a large map apart.
        """
        dtype = torch.promote_types(query.dtype, torch.float32)
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).to(dtype).unflatten(-1, (*shape, 2))  # [B, Q, M, L, K, 2]
        logits = self.attention_weights(query).to(dtype).unflatten(-1, (self.heads, -1))  # [B, Q, M, L * K]
        weights = logits.softmax(-1).unflatten(-1, shape[1:])  # [B, Q, M, L, K]

        valid = memory.valid_ratios.to(dtype)[:, None, None, :, None]  # [B, 1, 1, L, 1, 2]
        reference = reference.to(dtype)[:, :, None, None, None]  # [B, Q, 1, 1, 1, 2 or 4]
        if reference.shape[-1] == 2:  # a point: offsets are in cells of the level
            sides = [side for height, width in memory.shapes for side in (width, height)]
            sizes = torch.cat([offsets.new_full((1,), side) for side in sides])  # new_tensor would fix them in exports
            return reference * valid + offsets / sizes.view(-1, 1, 2), weights
        # a box: offsets are in shares of its sides; at first the outermost points are on its border
        scale = reference[..., 2:] * valid * (0.5 / self.points)
        return reference[..., :2] * valid + offsets * scale, weights
