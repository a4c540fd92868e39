"""Channel mappers: the backbone's maps, of different widths, to maps of the transformer's width.

Both are modules from a list of maps [B, C, h, w], finest first, to a list of maps [B, D, h, w].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn


class SingleLevelProj(nn.Conv2d):
    """The classic projection of the last map (paper, section 3.2). A convolution itself, for the original's keys."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__(channels, dim, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]  # a list in, a list out
        """One map [B, C, h, w] -> one map [B, D, h, w]."""
        (last,) = maps
        return [super().forward(last)]


class ChannelMapper(nn.ModuleList):
    """A projection and a norm for each map, and coarser maps made from the last one.

    Zhu et al. 2021, "Deformable DETR", section 4.1 and appendix A.2: the first further map comes from the backbone's
    last one, unprojected, by a 3x3 convolution of stride 2, each next from the one before.
    """

    def __init__(self, channels: Sequence[int], dim: int, extra: int = 0, norm: str = "group") -> None:
        """Mapper of maps with `channels` to `dim` channels.

        Args:
            channels: of each of the backbone's maps, finest first.
            dim: D.
            extra: how many maps to add, each of half the resolution of the one before.
            norm: group (32 groups, or as many of these as divide `dim`; Deformable DETR) or batch (RT-DETR).
        """
        super().__init__()
        make_norm: Callable[[int], nn.Module] = (
            nn.BatchNorm2d if norm == "batch" else lambda dim: nn.GroupNorm(math.gcd(32, dim), dim)
        )
        further = [channels[-1], *[dim] * extra][:extra]
        for width, kernel, stride in [(c, 1, 1) for c in channels] + [(c, 3, 2) for c in further]:
            conv = nn.Conv2d(width, dim, kernel, stride, padding=kernel // 2, bias=norm != "batch")
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.append(nn.Sequential(conv, make_norm(dim)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C, h, w] of the backbone -> as many maps [B, D, h, w], and the further ones."""
        projected = [project(each) for project, each in zip(self, maps, strict=False)]
        coarsest = maps[-1]
        for shrink in list(self)[len(maps) :]:
            coarsest = shrink(coarsest)
            projected.append(coarsest)
        return projected
