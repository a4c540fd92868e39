"""Attention as maps, where it covers all tokens, or as points, where it samples a few locations.

Shapes: Q queries (in the encoder, tokens), S tokens of all feature levels, h x w tokens of one level, P points of all
heads and levels together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.attention import MultiheadAttention
from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Memory


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights over a grid of tokens, mean over the heads."""

    weights: Tensor
    """float32 [..., h, w]; sums to 1 over the tokens."""
    covered: tuple[float, float]
    """Height and width that the grid covers, relative to the image: 1 or, since the last tokens reach over the border,
    a little more."""

    def __getitem__(self, index: int | tuple[int, int]) -> AttentionMap:
        """The map of one query, or of the token in one row and column."""
        return AttentionMap(self.weights[index], self.covered)


@dataclass(frozen=True)
class SampledPoints:
    """Locations that deformable attention samples, over all heads and levels, with their weights."""

    locations: Tensor
    """float32 [..., P, 2]; x, y relative to the image without padding, 0..1 inside."""
    weights: Tensor
    """float32 [..., P]; sums to 1 over the points."""

    def __getitem__(self, index: int | tuple[int, int]) -> SampledPoints:
        """The points of one query, or of the token in one row and column."""
        return SampledPoints(self.locations[index], self.weights[index])


@contextlib.contextmanager
def record_attention(attention: nn.Module | None) -> Iterator[list[Tensor | SampledPoints]]:
    """Record the attention of a module while a model runs in this block, one image at a time; of None, nothing.

    Each call of the module adds one entry, on the CPU: `SampledPoints` [Q, P] of deformable attention, else weights
    [Q, S], float32, mean over the heads.
    """
    recorded: list[Tensor | SampledPoints] = []

    @torch.no_grad()
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, DeformableAttention):
            recorded.append(sampled_points(module, *args, **kwargs))
        elif isinstance(module, ConditionalAttention):
            recorded.append(_mean_over_heads(module.weights(*args, **kwargs)))
        elif isinstance(module, MultiheadAttention):
            query, key, _, *keep = args
            recorded.append(_mean_over_heads(module.weights(query, key, *keep, **kwargs)))

    hook = attention.register_forward_pre_hook(record, with_kwargs=True) if attention else None
    try:
        yield recorded
    finally:
        if hook:
            hook.remove()


def sampled_points(attention: DeformableAttention, query: Tensor, reference: Tensor, memory: Memory) -> SampledPoints:
    """The points [Q, P] that deformable attention samples in the first image of a batch, on the CPU.

    Arguments as in `DeformableAttention.forward`. Like the model, it takes a feature map without its padding to be the
    image, also where the last tokens reach a little over the border.
    """
    locations, weights = attention.sampling(query, reference, memory)
    points = locations[0].float() / memory.valid_ratios[0, :, None].float()  # [Q, M, L, K, 2]
    return SampledPoints(points.flatten(1, 3).cpu(), weights[0].float().flatten(1).cpu() / attention.heads)


def to_finest_level(weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Turn weights [Q, S] of the tokens of levels (h, w), finest first, into a map of the finest level, [Q, h, w].

    The weight of a coarser token is spread over the finest tokens that it covers, so the sum stays.
    """
    parts = torch.split(weights, [h * w for h, w in shapes], dim=1)
    total = parts[0].reshape(-1, *shapes[0])
    for part, shape in zip(parts[1:], shapes[1:], strict=True):
        wide = F.interpolate(part.reshape(1, -1, *shape), size=shapes[0], mode="bilinear", align_corners=False)[0]
        share = part.sum(1) / wide.sum((1, 2)).clamp(min=1e-12)
        total = total + wide * share[:, None, None]
    return total


def _mean_over_heads(weights: Tensor) -> Tensor:
    """[1, heads, Q, S] -> float32 [Q, S] on the CPU."""
    return weights[0].float().mean(0).cpu()
