"""Position encodings of the cells of feature maps (paper, section 3.2 and appendix A.4), and of boxes.

The modules go from padding [B, H, W] (bool, True = padding) to an encoding [B, D, H, W]; `sine_of_boxes` encodes the
reference boxes of queries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SinePosition(nn.Module):
    """Fixed sines and cosines of y and x, normalized to the image without padding.

    Half of the channels encode y, the other half x (Parmar et al. 2018, in two dimensions).

    Args:
        dim: D, a multiple of 4.
        temperature: ratio of the slowest and fastest wave lengths, about.
        centered: whether the position of a cell is its center (Deformable DETR), so that a point of the image has the
            same encoding on every level; False: its lower right corner, as in the classic model.
    """

    def __init__(self, dim: int, temperature: float = 10000.0, centered: bool = False) -> None:
        super().__init__()
        self.dim, self.temperature, self.centered = dim, temperature, centered

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W], float32."""
        inside = (~padding).float()
        shift = 0.5 if self.centered else 0.0
        y, x = inside.cumsum(1), inside.cumsum(2)  # [B, H, W] each, 1, 2, ... in the image
        y = (y - shift) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)  # 0..2 pi
        x = (x - shift) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
        return _waves(torch.stack([y, x], dim=-1), self.dim // 2, self.temperature).permute(0, 3, 1, 2)


class GridPosition(nn.Module):
    """Fixed sines and cosines of the row and the column, counted in cells, not normalized (encoder of RT-DETR).

    The four quarters of the channels are the sines of the row, its cosines, the sines of the column and its cosines,
    from fast to slow waves.

    Args:
        dim: D, a multiple of 4.
        temperature: ratio of the slowest and fastest wave lengths, about.
    """

    def __init__(self, dim: int, temperature: float = 10000.0) -> None:
        super().__init__()
        self.dim, self.temperature = dim, temperature

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W], float32; only the shape of the padding matters."""
        batch, height, width = padding.shape
        quarter = self.dim // 4
        speed = self.temperature ** -(torch.arange(quarter, device=padding.device) / quarter)
        y = torch.arange(height, device=padding.device)[:, None] * speed  # [H, D/4]
        x = torch.arange(width, device=padding.device)[:, None] * speed  # [W, D/4]
        rows = torch.cat([y.sin(), y.cos()], 1).T[:, :, None].expand(-1, -1, width)  # [D/2, H, W]
        columns = torch.cat([x.sin(), x.cos()], 1).T[:, None, :].expand(-1, height, -1)  # [D/2, H, W]
        return torch.cat([rows, columns])[None].expand(batch, -1, -1, -1)


def sine_of_boxes(boxes: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Encode numbers in 0..1, such as cx, cy, w, h, as sines and cosines: [..., k] -> [..., k * dim].

    Each number has `dim` channels (an even number), encoded as SinePosition does y and x, so (cy, cx) with D / 2
    channels each is comparable with the encoding of the features. The numbers keep their order (Deformable DETR,
    appendix A.4, for proposals; DAB-DETR, equation 4, for anchors). At least float32, also under autocast: the fastest
    wave is too fast for half precision.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    return _waves(boxes * (2 * math.pi), dim, temperature)


def _waves(angles: Tensor, dim: int, temperature: float) -> Tensor:
    """Angles [..., k] -> sines and cosines in turn, from fast to slow waves: [..., k * dim]."""
    exponent = torch.arange(dim // 2, dtype=angles.dtype, device=angles.device) * 2 / dim
    period = temperature**exponent  # one for each pair of a sine and a cosine
    phases = angles[..., None] / period  # [..., k, dim/2]
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-3)


class LearnedPosition(nn.Module):
    """A learned vector for each column and each row, up to 50 of them; larger maps interpolate the table.

    The reference DETR fails on feature maps larger than 50 x 50, which DC5 at 1333 pixels has.

    Args:
        dim: D, an even number.
    """

    SIZE = 50
    """Rows of each table."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(self.SIZE, dim // 2)
        self.col_embed = nn.Embedding(self.SIZE, dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding: Tensor) -> Tensor:
        """Padding [B, H, W] -> encoding [B, D, H, W]; only the shape of the padding matters."""
        batch, height, width = padding.shape
        x = _rows_for(self.col_embed.weight, width).T[:, None, :].expand(-1, height, -1)  # [D/2, H, W]
        y = _rows_for(self.row_embed.weight, height).T[:, :, None].expand(-1, -1, width)  # [D/2, H, W]
        return torch.cat([x, y])[None].expand(batch, -1, -1, -1)


def _rows_for(table: Tensor, length: int) -> Tensor:
    """The first `length` rows of a table [N, D], or the table interpolated to `length` rows where it is too short."""
    if length <= len(table):
        return table[:length]
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=True)[0].T


def build_position(position_embedding: str, dim: int, centered: bool = False) -> SinePosition | LearnedPosition:
    """Build the encoding named "sine" (see `SinePosition` for `centered`) or "learned"."""
    return SinePosition(dim, centered=centered) if position_embedding == "sine" else LearnedPosition(dim)
