"""Feature levels: the image at several strides, as maps and as one sequence of tokens.

Shapes: B batch, L levels, D channels, h x w cells of one level, S tokens of all levels together, one per cell.
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
    """float [B, D, h, w], the position encoding of each cell."""


@dataclass(frozen=True)
class Memory:
    """All levels as one sequence of tokens, the input of the encoder's layers and of the decoder's cross-attention."""

    tokens: Tensor
    """float [B, S, D]."""
    position: Tensor
    """float [B, S, D], position encodings."""
    padding: Tensor
    """bool [B, S], True = padding."""
    shapes: tuple[tuple[int, int], ...]
    """(h, w) of each level, finest first."""
    valid_ratios: Tensor
    """float [B, L, 2], the share of each level's width and height that is not padding, in 0..1."""

    @property
    def locations(self) -> Locations:
        """The centers and cells of all tokens, relative to the image without padding."""
        centers, cells = [], []
        for (height, width), valid in zip(self.shapes, self.valid_ratios.unbind(1), strict=True):
            y, x = torch.meshgrid(
                torch.arange(height, device=valid.device) + 0.5,
                torch.arange(width, device=valid.device) + 0.5,
                indexing="ij",
            )
            cell = 1 / torch.stack([valid[:, 0] * width, valid[:, 1] * height], 1)  # [B, 2], its width and height
            centers.append(torch.stack([x, y], dim=-1).flatten(0, 1) * cell[:, None])  # [B, h * w, 2]
            cells.append(cell[:, None].expand(-1, height * width, -1))  # [B, h * w, 2]
        sizes = tuple(height * width for height, width in self.shapes)
        return Locations(torch.cat(centers, 1), torch.cat(cells, 1), self.padding, sizes)

    def maps(self) -> list[Tensor]:
        """The tokens as one map per level, float [B, D, h, w]."""
        return self.split(self.tokens)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Split values of all tokens, [B, S, C], into one map per level, [B, C, h, w]."""
        parts = torch.split(tokens, [height * width for height, width in self.shapes], dim=1)
        return [
            part.transpose(1, 2).reshape(part.shape[0], -1, *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]


def flatten(levels: Sequence[Level]) -> Memory:
    """Concatenate the cells of levels, finest first, to one sequence of tokens."""
    return Memory(
        tokens=torch.cat([level.features.flatten(2).transpose(1, 2) for level in levels], 1),  # [B, S, D]
        position=torch.cat([level.position.flatten(2).transpose(1, 2) for level in levels], 1),
        padding=torch.cat([level.padding.flatten(1) for level in levels], 1),  # [B, S]
        shapes=tuple((level.features.shape[-2], level.features.shape[-1]) for level in levels),
        valid_ratios=torch.stack([_valid_ratio(level.padding) for level in levels], 1),  # [B, L, 2]
    )


def _valid_ratio(padding: Tensor) -> Tensor:
    """The share of width and height that is image: padding [B, h, w] -> [B, 2]; at least one cell of each."""
    inside = (~padding).float()  # padding is at the right and bottom: the first row and column are enough
    width = inside[:, 0, :].sum(1).clamp(min=1) / padding.shape[2]
    height = inside[:, :, 0].sum(1).clamp(min=1) / padding.shape[1]
    return torch.stack([width, height], 1)
