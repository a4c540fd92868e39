"""The efficient hybrid encoder (Zhao et al. 2024, "DETRs Beat YOLOs on Real-time Object Detection", section 4.2 and
figure 4): attention on the coarsest level, which has few tokens, convolutions on the finer ones, which have many.

Padding is not attended to, and is 0 in the input of each 3x3 convolution, as beyond the border of an image. So an image
in a padded batch gives the same features as alone.

Shapes: B batch, L levels, D channels, h x w cells of one level (level 1 the finest), S tokens of all levels.
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
    """Intra-scale attention and cross-scale fusion of feature levels (Zhao et al. 2024, section 4.2, equation 1).

    With S_l the input at level l, level L the coarsest, the fusion is that of PANet (Liu et al. 2018):

        F_L = self-attention(S_L)                                 AIFI, equation 1
        P_l = fuse(upsample(lateral(P_{l+1})), S_l), P_L = F_L    top-down path, as in a feature pyramid network
        N_l = fuse(downsample(N_{l-1}), lateral(P_l)), N_1 = P_1  bottom-up path

    and the output is a 1x1 convolution of each N_l. `layers` is AIFI; `lateral_convs` and `fpn_blocks` are lateral and
    fuse of the top-down path, `downsample_convs` and `pan_blocks` downsample and fuse of the bottom-up path (together
    CCFF), `out_projs` the convolutions of the output.

    Args:
        dim: D, a multiple of 4 and of `heads`.
        heads: number of heads of the self-attention.
        levels: L, at least 1.
        dim_feedforward: width of the feed-forward network after the self-attention.
        dropout: probability in the self-attention, 0..1.
        activation: activation of that feed-forward network; the convolutions have SiLU.
        enc_layers: layers of self-attention; 0 for convolutions alone.
        expansion: width of the fusion blocks, relative to `dim`.
        blocks: convolutions per fusion block.
        separable: whether the strided convolutions are depthwise and pointwise ones.
    """

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
        separable: bool = False,
    ) -> None:
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
        self.downsample_convs = nn.ModuleList(_downsample(dim, separable) for _ in steps)
        self.pan_blocks = nn.ModuleList(CSPBlock(dim, expansion, blocks) for _ in steps)
        # finest first; the published model counts these among the parameters of the decoder
        self.out_projs = nn.ModuleList(ConvNorm(dim, dim, 1) for _ in range(levels))

    def forward(self, levels: Sequence[Level]) -> Memory:
        """Encode levels, finest first, each about half as wide and high as the one before."""
        *finer, coarsest = levels
        maps = [level.features for level in (*finer, self._self_attention(coarsest))]  # [B, D, h, w] each

        # top-down: P_L, ..., P_1; each but the last is replaced by its lateral
        down = [maps[-1]]
        for level, features, lateral, fuse in zip(
            reversed(finer), reversed(maps[:-1]), self.lateral_convs, self.fpn_blocks, strict=True
        ):
            down[-1] = lateral(down[-1])
            upsampled = F.interpolate(down[-1], size=features.shape[-2:])
            down.append(fuse(torch.cat([upsampled, features], 1), level.padding))  # [B, 2 * D, h, w] -> [B, D, h, w]

        # bottom-up: N_1, ..., N_L
        finest, *coarser = reversed(down)
        up = [finest]
        for level, features, downsample, fuse in zip(
            levels[1:], coarser, self.downsample_convs, self.pan_blocks, strict=True
        ):
            smaller = F.interpolate(downsample(up[-1]), size=features.shape[-2:])  # by one cell, if sizes round down
            up.append(fuse(torch.cat([smaller, features], 1), level.padding))
        out = [project(features) for project, features in zip(self.out_projs, up, strict=True)]
        return flatten([replace(level, features=features) for level, features in zip(levels, out, strict=True)])

    def _self_attention(self, level: Level) -> Level:
        """Self-attention of the tokens of one level, with the position encoding of this encoder."""
        memory = flatten([replace(level, position=self.position(level.padding))])  # tokens [B, h * w, D]
        for layer in self.layers:
            memory = replace(memory, tokens=self.layers.run(layer, memory))
        return replace(level, features=memory.maps()[0])


def _downsample(dim: int, separable: bool) -> nn.Module:
    if separable:  # Howard et al. 2017, "MobileNets", section 3.1
        return nn.Sequential(ConvNorm(dim, dim, 3, stride=2, groups=dim), ConvNorm(dim, dim, 1, act=True))
    return ConvNorm(dim, dim, 3, stride=2, act=True)


class ConvNorm(nn.Module):
    """Convolution and batch norm, with SiLU if `act`."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, act: bool = False, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, out, h / stride, w / stride], rounded up."""
        x = self.norm(self.conv(x))
        return F.silu(x) if self.act else x


class RepVGGBlock(nn.Module):
    """The sum of a 3x3 and a 1x1 convolution, which trains better than the equivalent single one.

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
    """The fusion block (Zhao et al. 2024, figure 5): x -> conv3(RepVGG^n(conv1(x)) + conv2(x)), 2 D channels to D.

    Args:
        dim: D.
        expansion: width inside, relative to D.
        blocks: n.
    """

    def __init__(self, dim: int, expansion: float, blocks: int) -> None:
        super().__init__()
        width = int(dim * expansion)
        self.conv1 = ConvNorm(2 * dim, width, 1, act=True)
        self.conv2 = ConvNorm(2 * dim, width, 1, act=True)
        self.bottlenecks = nn.ModuleList(RepVGGBlock(width) for _ in range(blocks))
        self.conv3 = nn.Identity() if width == dim else ConvNorm(width, dim, 1, act=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """[B, 2 * D, h, w] and padding bool [B, h, w] -> [B, D, h, w], 0 in the padding."""
        padding = padding[:, None]
        deep = self.conv1(x)  # [B, expansion * D, h, w]
        for block in self.bottlenecks:
            deep = block(deep.masked_fill(padding, 0))
        return self.conv3(deep + self.conv2(x)).masked_fill(padding, 0)
