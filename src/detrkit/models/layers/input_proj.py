"""Input projections: the maps of the backbone, of different channels, to maps of D channels for the transformer.

Both are modules from a list of maps [B, C, h, w], finest first, to a list of maps [B, D, h, w].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn


class SingleLevelProj(nn.Conv2d):
    """1x1 convolution of the last map (paper, section 3.2); a Conv2d itself, for the keys of the reference DETR."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__(channels, dim, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]  # a list in, a list out
        """One map [B, C, h, w] -> one map [B, D, h, w]."""
        (last,) = maps
        return [super().forward(last)]


class ChannelMapper(nn.ModuleList):
    """A 1x1 convolution and a norm per map, and coarser maps made from the last one.

    Zhu et al. 2021, "Deformable DETR", section 4.1 and appendix A.2: the first additional map is a 3x3 convolution of
    stride 2 of the last map of the backbone, not projected; each next one that of the one before.

    Args:
        channels: number of channels of each map of the backbone, finest first.
        dim: D.
        extra: number of additional maps, each of half the resolution of the one before.
        norm: group (32 groups, or as many of these as divide `dim`; Deformable DETR) or batch (RT-DETR).
    """

    def __init__(self, channels: Sequence[int], dim: int, extra: int = 0, norm: str = "group") -> None:
        super().__init__()
        make_norm: Callable[[int], nn.Module] = (
            nn.BatchNorm2d if norm == "batch" else lambda dim: nn.GroupNorm(math.gcd(32, dim), dim)
        )
        additional = [channels[-1], *[dim] * extra][:extra]  # input channels of each
        for width, kernel, stride in [(c, 1, 1) for c in channels] + [(c, 3, 2) for c in additional]:
            conv = nn.Conv2d(width, dim, kernel, stride, padding=kernel // 2, bias=norm != "batch")
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.append(nn.Sequential(conv, make_norm(dim)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C, h, w] of the backbone -> as many maps [B, D, h, w], and the additional ones."""
        projected = [project(each) for project, each in zip(self, maps, strict=False)]
        coarsest = maps[-1]
        for downsample in list(self)[len(maps) :]:
            coarsest = downsample(coarsest)  # half the resolution
            projected.append(coarsest)
        return projected
