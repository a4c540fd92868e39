"""Bilinear sampling of maps by lookups and weights, for runtimes without a correct operator for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_by_gather(maps: Tensor, grid: Tensor) -> Tensor:
    """Sample maps bilinearly at points, with 0 outside: a second formulation of `grid_sample` with
    `align_corners=False`.

    Each point reads the four cells around it and weighs them by its distance from their centers. Half precision is
    computed in float32.

    Args:
        maps: [N, C, h, w].
        grid: points x, y, -1..1 from border to border, [N, Q, K, 2].

    Returns:
        [N, C, Q, K].
    """
    count, channels, height, width = maps.shape
    dtype = torch.promote_types(grid.dtype, torch.float32)
    # in cells, where the center of the first is 0; further outside than this, all four cells are 0 anyway
    x = (((grid[..., 0].to(dtype) + 1) * width - 1) / 2).clamp(-2, width + 1)  # [N, Q, K]
    y = (((grid[..., 1].to(dtype) + 1) * height - 1) / 2).clamp(-2, height + 1)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    columns, rows = left.to(torch.int64), top.to(torch.int64)

    cells = maps.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)  # [N * h * w, C]
    first = torch.arange(count, device=maps.device)[:, None, None] * (height * width)  # of each map among the cells
    sampled = torch.zeros((), dtype=dtype, device=maps.device)
    for column, x_share in ((columns, 1 - right_share), (columns + 1, right_share)):
        for row, y_share in ((rows, 1 - bottom_share), (rows + 1, bottom_share)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = first + torch.where(inside, row * width + column, 0)  # [N, Q, K]
            share = torch.where(inside, x_share * y_share, 0.0)
            sampled = sampled + cells[index] * share[..., None]  # [N, Q, K, C]
    return sampled.permute(0, 3, 1, 2).to(maps.dtype)
