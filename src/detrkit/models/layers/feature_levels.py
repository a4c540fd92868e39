"""Feature levels: the image at several strides, as maps and as one sequence of tokens.

Shapes: B batch, L levels, D channels, h x w places of one level, S places of all levels together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.structures import Locations


@dataclass(frozen=True)
class Level:
    """The image at one stride."""

    features: Tensor
    """float [B, D, h, w]."""
    padding: Tensor
    """bool [B, h, w], True = padding."""
    position: Tensor
    """float [B, D, h, w], the encoding of each place."""


@dataclass(frozen=True)
class Memory:
    """All levels as one sequence of tokens: what the encoder works on and the decoder looks at."""

    tokens: Tensor
    """float [B, S, D]."""
    position: Tensor
    """float [B, S, D]."""
    padding: Tensor
    """bool [B, S], True = padding."""
    shapes: tuple[tuple[int, int], ...]
    """(h, w) of each level, finest first."""
    valid: Tensor
    """float [B, L, 2], the share of each level's width and height that is not padding, in 0..1."""

    @property
    def locations(self) -> Locations:
        """The centres and cells of all places, relative to the image without its padding."""
        centers, cells = [], []
        for (height, width), valid in zip(self.shapes, self.valid.unbind(1), strict=True):
            y, x = torch.meshgrid(
                torch.arange(height, device=valid.device) + 0.5,
                torch.arange(width, device=valid.device) + 0.5,
                indexing="ij",
            )
            cell = 1 / torch.stack([valid[:, 0] * width, valid[:, 1] * height], 1)  # [B, 2]
            centers.append(torch.stack([x, y], dim=-1).flatten(0, 1) * cell[:, None])
            cells.append(cell[:, None].expand(-1, height * width, -1))
        sizes = tuple(height * width for height, width in self.shapes)
        return Locations(torch.cat(centers, 1), torch.cat(cells, 1), self.padding, sizes)

    def maps(self) -> list[Tensor]:
        """The tokens as one map per level, float [B, D, h, w]."""
        return self.split(self.tokens)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Anything that all places have, [B, S, C], as one map per level, [B, C, h, w]."""
        parts = torch.split(tokens, [height * width for height, width in self.shapes], dim=1)
        return [
            part.transpose(1, 2).reshape(part.shape[0], -1, *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]


def flatten(levels: Sequence[Level]) -> Memory:
    """Levels, finest first, as one sequence."""
    return Memory(
        tokens=torch.cat([level.features.flatten(2).transpose(1, 2) for level in levels], 1),
        position=torch.cat([level.position.flatten(2).transpose(1, 2) for level in levels], 1),
        padding=torch.cat([level.padding.flatten(1) for level in levels], 1),
        shapes=tuple((level.features.shape[-2], level.features.shape[-1]) for level in levels),
        valid=torch.stack([_valid_share(level.padding) for level in levels], 1),
    )


def _valid_share(padding: Tensor) -> Tensor:
    """The share of width and height that is image: padding [B, h, w] -> [B, 2]; at least one place of each."""
    inside = (~padding).float()
    width = inside[:, 0, :].sum(1).clamp(min=1) / padding.shape[2]
    height = inside[:, :, 0].sum(1).clamp(min=1) / padding.shape[1]
    return torch.stack([width, height], 1)
