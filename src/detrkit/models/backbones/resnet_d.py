"""ResNet-D: ResNets whose first layers and shortcuts lose less of the image (He et al. 2019, "Bag of Tricks for Image
Classification with Convolutional Neural Networks", section 4.2 and figure 2), the backbones of RT-DETR.

Three 3x3 convolutions replace the 7x7 one of the stem (figure 2b), and a shortcut that changes the resolution averages
2x2 cells before its 1x1 convolution instead of dropping three of four (figure 2c). Keys are those of resnet18d,
resnet50d, ... in timm, except that here the first block of each stage always has a convolution in its shortcut, also
where none is needed (layer1 of resnet18vd and resnet34vd), as in RT-DETR.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from detrkit.models.backbones.base import NORM_LAYERS, STAGES, Features, Stages, check_strides, freeze_first


class Design(NamedTuple):
    """Block type, depths and stem of a ResNet-D."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, ...]
    """Blocks of each stage."""
    width: int
    """Channels of the stem."""
    lean_stem: bool = False
    """The stem is two strided convolutions, without pooling: a third of the arithmetic, and of the memory traffic of
    training, which is largest at the resolution of the stem."""


DESIGNS = {
    "micro": Design(BasicBlock, (1, 1, 1, 1), 32, lean_stem=True),
    "nano": Design(BasicBlock, (1, 1, 1, 1), 32),
    "resnet18vd": Design(BasicBlock, (2, 2, 2, 2), 64),
    "resnet34vd": Design(BasicBlock, (3, 4, 6, 3), 64),
    "resnet50vd": Design(Bottleneck, (3, 4, 6, 3), 64),
    "resnet101vd": Design(Bottleneck, (3, 4, 23, 3), 64),
}
"""By name; nano and micro are for CPUs and small images."""
RESNETS_VD = tuple(DESIGNS)


def resnet_vd(
    name: str, norm: str = "frozen", strides: tuple[int, ...] = (), high_res_strides: tuple[int, ...] = ()
) -> Features:
    """Build one of `RESNETS_VD`, without a classifier and with random weights.

    With `norm` "frozen", the stem and layer1 are frozen, as in the other ResNets; with "batch" and "group" nothing is.
    `strides` and `high_res_strides` as in `build_features`.

    Raises:
        ConfigError: the backbone has no map of such a stride.
    """
    check_strides(strides, list(STAGES), name)
    strides = high_res_strides + (strides or (32,))
    block, depths, width, lean_stem = DESIGNS[name]
    make_norm = NORM_LAYERS[norm]
    stages = _stem(width, make_norm, lean=lean_stem)
    channels = width
    for stage, depth in enumerate(depths):
        planes = width * 2**stage
        blocks = []
        for number in range(depth):
            first = number == 0
            stride = 2 if first and stage > 0 else 1
            out = planes * block.expansion
            # also where shapes do not change, as in RT-DETR
            shortcut = _shortcut(channels, out, stride, make_norm) if first else None
            blocks.append(block(channels, planes, stride, shortcut, norm_layer=make_norm))
            channels = out
        stages[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    body = Stages(stages, [STAGES[stride] for stride in strides])
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if norm == "frozen":
        freeze_first(body)
    return Features(
        body, tuple(channels * stride // 32 for stride in strides), strides, num_high_res=len(high_res_strides)
    )


class Halve(nn.Module):
    """Average of 2x2 cells; of fewer in a last row or column without a partner.

    Equal to `AvgPool2d` with `ceil_mode`, whose sizes `torch.export` cannot derive for images of any size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h / 2, w / 2], rounded up."""
        x = torch.cat([x, x[:, :, -1:]], 2)  # repeats the last row, which only counts where it has no partner
        return F.avg_pool2d(torch.cat([x, x[..., -1:]], 3), 2)


def _stem(width: int, make_norm: Callable[[int], nn.Module], *, lean: bool) -> OrderedDict[str, nn.Module]:
    """Images to `width` channels at stride 4: the deep stem, or the lean one of `Design`."""
    half = width // 2
    middle = [] if lean else [_conv(half, half, 3), make_norm(half), nn.ReLU(inplace=True)]
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    stages["conv1"] = nn.Sequential(
        _conv(3, half, 3, stride=2),
        make_norm(half),
        nn.ReLU(inplace=True),
        *middle,
        _conv(half, width, 3, stride=2 if lean else 1),
    )
    stages |= {"bn1": make_norm(width), "act1": nn.ReLU(inplace=True)}
    return stages if lean else stages | {"maxpool": nn.MaxPool2d(3, 2, padding=1)}


def _shortcut(channels: int, out: int, stride: int, make_norm: Callable[[int], nn.Module]) -> nn.Sequential:
    pool = Halve() if stride == 2 else nn.Identity()
    return nn.Sequential(pool, _conv(channels, out, 1), make_norm(out))


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
