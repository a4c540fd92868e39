"""The efficient hybrid encoder (Zhao et al. 2024, "DETRs Beat YOLOs on Real-time Object Detection", section 4.2 and
figure 4): attention where places are few, convolutions where they are many.

Self-attention works on the coarsest level alone (eq. 1). Then convolutions carry what was found there down to the finer
levels, and what these see back up, as in PANet (Liu et al. 2018).

Padding is not attended to, and padded places are set to 0 wherever a 3x3 convolution looks, as what lies beyond the
border of an image is. So an image in a padded batch gives what it gives alone.

Shapes: B batch, D channels, h x w places of one level, S places of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.encoder import EncoderLayer
from detrkit.models.layers.attention import MultiheadAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten
from detrkit.models.layers.feed_forward import LayerList
from detrkit.models.layers.position_encoding import GridPosition


class HybridEncoder(nn.Module):
    """Feature levels of D channels -> Memory of as many levels, each of which knows of the others."""

    def __init__(
        self,
        dim: int,
        heads: int,
        levels: int,
        dim_feedforward: int,
        dropout: float,
        activation: str = "gelu",
        enc_layers: int = 1,
        expansion: float = 1.0,
        blocks: int = 3,
    ) -> None:
        """Prepare.

        Args:
            dim: D, a multiple of 4 and of `heads`.
            heads: of the self-attention.
            levels: how many, at least 1.
            dim_feedforward: width of the feed-forward block of the self-attention.
            dropout: in the self-attention, in 0..1.
            activation: of that feed-forward block; the convolutions have SiLU.
            enc_layers: layers of self-attention; 0 for convolutions alone.
            expansion: width of the blocks of the fusion, relative to `dim`.
            blocks: convolutions of each block of the fusion.
        """
        super().__init__()
        self.position = GridPosition(dim)
        self.layers = LayerList(
            EncoderLayer(MultiheadAttention(dim, heads, dropout), dim, dim_feedforward, dropout, activation, False)
            for _ in range(enc_layers)
        )
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        steps = range(levels - 1)
        # top-down, coarsest first
        self.lateral_convs = nn.ModuleList(ConvNorm(dim, dim, 1, act=True) for _ in steps)
        self.fpn_blocks = nn.ModuleList(CSPBlock(dim, expansion, blocks) for _ in steps)
        # bottom-up, finest first
        self.downsample_convs = nn.ModuleList(ConvNorm(dim, dim, 3, stride=2, act=True) for _ in steps)
        self.pan_blocks = nn.ModuleList(CSPBlock(dim, expansion, blocks) for _ in steps)
        # what the published model counts as the decoder's, finest first
        self.out_projs = nn.ModuleList(ConvNorm(dim, dim, 1) for _ in range(levels))

    def forward(self, levels: Sequence[Level]) -> Memory:
        """Levels, finest first, each about half as wide and high as the one before -> Memory."""
        *finer, coarsest = levels
        maps = [level.features for level in (*finer, self._attend(coarsest))]

        down = [maps[-1]]  # coarsest first
        for level, features, lateral, fuse in zip(
            reversed(finer), reversed(maps[:-1]), self.lateral_convs, self.fpn_blocks, strict=True
        ):
            down[-1] = lateral(down[-1])
            wide = F.interpolate(down[-1], size=features.shape[-2:])
            down.append(fuse(torch.cat([wide, features], 1), level.padding))

        finest, *coarser = reversed(down)
        up = [finest]
        for level, features, shrink, fuse in zip(
            levels[1:], coarser, self.downsample_convs, self.pan_blocks, strict=True
        ):
            narrow = F.interpolate(shrink(up[-1]), size=features.shape[-2:])  # smaller by one, if sizes round down
            up.append(fuse(torch.cat([narrow, features], 1), level.padding))
        out = [project(features) for project, features in zip(self.out_projs, up, strict=True)]
        return flatten([replace(level, features=features) for level, features in zip(levels, out, strict=True)])

    def _attend(self, level: Level) -> Level:
        """Self-attention of the places of one level, with the encoder's own position encoding."""
        memory = flatten([replace(level, position=self.position(level.padding))])
        for layer in self.layers:
            memory = replace(memory, tokens=self.layers.run(layer, memory))
        return replace(level, features=memory.maps()[0])


class ConvNorm(nn.Module):
    """Convolution and batch norm, then SiLU if asked for."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, out, h / stride, w / stride], rounded up."""
        x = self.norm(self.conv(x))
        return F.silu(x) if self.act else x


class RepVGGBlock(nn.Module):
    """The sum of a 3x3 and a 1x1 convolution, which train better than the one that could do the same.

    Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", section 3.2; here without the identity branch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2 = ConvNorm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return F.silu(self.conv1(x) + self.conv2(x))


class CSPBlock(nn.Module):
    """Two maps of D channels become one: a part goes through convolutions and is added to a part that does not.

    The fusion block, figure 5 of Zhao et al. 2024.
    """

    def __init__(self, dim: int, expansion: float, blocks: int) -> None:
        super().__init__()
        width = int(dim * expansion)
        self.conv1 = ConvNorm(2 * dim, width, 1, act=True)
        self.conv2 = ConvNorm(2 * dim, width, 1, act=True)
        self.bottlenecks = nn.ModuleList(RepVGGBlock(width) for _ in range(blocks))
        self.conv3 = nn.Identity() if width == dim else ConvNorm(width, dim, 1, act=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """[B, 2 * D, h, w] and padding bool [B, h, w] -> [B, D, h, w], 0 where padded."""
        padding = padding[:, None]
        deep = self.conv1(x)
        for block in self.bottlenecks:
            deep = block(deep.masked_fill(padding, 0))
        out: Tensor = self.conv3(deep + self.conv2(x))
        return out.masked_fill(padding, 0)
