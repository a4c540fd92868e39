"""ResNets of torchvision as backbones (He et al. 2016), also dilated (DC5)."""

from __future__ import annotations

from collections import OrderedDict

import torchvision
from torch import nn

from detrkit.models.backbones.base import NORM_LAYERS, STAGES, Features, Stages, check_strides, freeze_first

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def resnet(
    name: str,
    norm: str = "frozen",
    dilation: bool = False,
    strides: tuple[int, ...] = (),
    high_res_strides: tuple[int, ...] = (),
) -> Features:
    """Build a torchvision ResNet without its classifier.

    With `norm` "frozen", the stem and layer1 are frozen, as in the reference DETR; with "batch" and "group" nothing is.
    `strides` and `high_res_strides` as in `build_features`.
    """
    check_strides(strides, list(STAGES), name)
    strides = high_res_strides + ((32,) if dilation or not strides else strides)
    net = torchvision.models.get_model(name, weights=None, norm_layer=NORM_LAYERS[norm])
    deepest = net.fc.in_features
    stages = OrderedDict((k, m) for k, m in net.named_children() if k not in ("avgpool", "fc"))
    body = Stages(stages, [STAGES[stride] for stride in strides])
    channels = tuple(deepest * stride // 32 for stride in strides)  # each stage has twice as many as the one before
    if dilation:
        _dilate(net.layer4)
        strides = (*high_res_strides, 16)
    if norm == "frozen":
        freeze_first(body)
    return Features(body, channels, strides, num_high_res=len(high_res_strides))


def _dilate(stage: nn.Module) -> None:
    """Remove the stride of a stage and dilate its other convolutions, which keeps their receptive fields (DC5)."""
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            if conv.stride == (2, 2):
                conv.stride = (1, 1)
            elif conv.kernel_size == (3, 3):
                conv.dilation, conv.padding = (2, 2), (2, 2)
