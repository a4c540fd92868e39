"""Position encodings: where in the image each feature lies (paper, section 3.2 and appendix A.4).

The two modules go from padding [B, H, W] (bool, True = padding) to an encoding [B, D, H, W]; `sine_of_boxes` encodes
the boxes that queries stand for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SinePosition(nn.Module):
    """Fixed sines and cosines of the row and of the column, normalised to the image without its padding.

    Half of the `dim` channels tells y, the other half x (Parmar et al. 2018, in two dimensions). `dim` is a multiple
    of 4. A place is where it ends, as in the classic model, or, `centered`, where its middle is (Deformable DETR), so
    that a point of the image has the same encoding on every level.
    """

    def __init__(self, dim: int, temperature: float = 10000.0, centered: bool = False) -> None:
        super().__init__()
        self.dim, self.temperature, self.centered = dim, temperature, centered

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W], float32."""
        inside = (~padding).float()
        back = 0.5 if self.centered else 0.0
        y, x = inside.cumsum(1), inside.cumsum(2)
        y = (y - back) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
        x = (x - back) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
        return _waves(torch.stack([y, x], dim=-1), self.dim // 2, self.temperature).permute(0, 3, 1, 2)


class GridPosition(nn.Module):
    """Fixed sines and cosines of the row and of the column, counted in places and not normalised (RT-DETR's encoder).

    The first quarter of the `dim` channels (a multiple of 4) has the sines of the row, the others have its cosines, the
    sines of the column and its cosines; each of ever slower waves.
    """

    def __init__(self, dim: int, temperature: float = 10000.0) -> None:
        super().__init__()
        self.dim, self.temperature = dim, temperature

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W], float32; where the padding lies does not matter."""
        batch, height, width = padding.shape
        quarter = self.dim // 4
        speed = self.temperature ** -(torch.arange(quarter, device=padding.device) / quarter)
        y = torch.arange(height, device=padding.device)[:, None] * speed  # [H, D/4]
        x = torch.arange(width, device=padding.device)[:, None] * speed
        rows = torch.cat([y.sin(), y.cos()], 1).T[:, :, None].expand(-1, -1, width)
        columns = torch.cat([x.sin(), x.cos()], 1).T[:, None, :].expand(-1, height, -1)
        return torch.cat([rows, columns])[None].expand(batch, -1, -1, -1)


def sine_of_boxes(boxes: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Numbers in 0..1, such as cx, cy, w, h, as sines and cosines: [..., k] -> [..., k * dim].

    Each number is spread over `dim` channels (an even number) as SinePosition spreads y and x, so (cy, cx) with half of
    the channels each is comparable with the position of the features. The numbers come one after another, in the order
    given (Deformable DETR, appendix A.4, for proposals; DAB-DETR, eq. 4, for anchors). Float32 also where `boxes` are
    less exact, as under autocast: the fastest wave is too fast for half precision.
    """
    exact = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    return _waves(exact * (2 * math.pi), dim, temperature)


def _waves(angles: Tensor, dim: int, temperature: float) -> Tensor:
    """Angles [..., k] -> sines and cosines, taking turns, of ever slower waves: [..., k * dim]."""
    exponent = torch.arange(dim // 2, dtype=angles.dtype, device=angles.device) * 2 / dim
    period = temperature**exponent  # one for each pair of a sine and a cosine
    phases = angles[..., None] / period  # [..., k, dim/2]
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-3)


class LearnedPosition(nn.Module):
    """A learned vector for each column and each row, up to 50 of them; beyond, the table is interpolated.

    The original fails on features larger than 50 x 50, which DC5 at 1333 pixels has.
    """

    SIZE = 50

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(self.SIZE, dim // 2)
        self.col_embed = nn.Embedding(self.SIZE, dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W]; the padding itself does not matter."""
        batch, height, width = padding.shape
        x = _rows_for(self.col_embed.weight, width).T[:, None, :].expand(-1, height, -1)  # [D/2, H, W]
        y = _rows_for(self.row_embed.weight, height).T[:, :, None].expand(-1, -1, width)
        return torch.cat([x, y])[None].expand(batch, -1, -1, -1)


def _rows_for(table: Tensor, length: int) -> Tensor:
    """The first `length` rows of a table [N, D], or the table stretched to `length` rows where it is too short."""
    if length <= len(table):
        return table[:length]
    stretched: Tensor = F.interpolate(table.T[None], size=length, mode="linear", align_corners=True)
    return stretched[0].T


def build_position(position_embedding: str, dim: int, centered: bool = False) -> SinePosition | LearnedPosition:
    """The encoding named "sine", whose places may be `centered`, or "learned"."""
    return SinePosition(dim, centered=centered) if position_embedding == "sine" else LearnedPosition(dim)
