"""Backbones: images to features and their position encoding (paper, section 3.2).

ResNets come from torchvision, everything else from timm ("timm:NAME"). The only feature map used is the last one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detrkit.models.position import LearnedPosition, SinePosition

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}


class Features(nn.Module):
    """Images [B, 3, H, W] to the last feature map [B, C, h, w] of `body`."""

    def __init__(
        self,
        body: nn.Module,
        num_channels: int,
        stride: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_channels, self.stride, self.mean, self.std = num_channels, stride, mean, std

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, h, w]."""
        features: Tensor = self.body(images)
        return features


class Backbone(nn.Sequential):
    """Features and the encoding of their positions; entries 0 and 1, as in the original's keys."""

    def __init__(self, features: Features, position: SinePosition | LearnedPosition) -> None:
        super().__init__(features, position)
        self.num_channels, self.stride = features.num_channels, features.stride
        self.input_mean, self.input_std = features.mean, features.std

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W], padding [B, H, W] -> features [B, C, h, w], padding [B, h, w], position [B, D, h, w]."""
        features = self[0](images)
        padding = F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()
        return features, padding, self[1](padding)


def resnet(name: str, norm: str = "frozen", dilation: bool = False) -> Features:
    """A torchvision ResNet without its classifier.

    With `norm` "frozen", the stem and layer1 stay as they are, as in the original; with "batch" and "group" all learns.
    """
    net = torchvision.models.get_model(name, weights=None, norm_layer=_NORMS[norm])
    num_channels = net.fc.in_features
    body = nn.Sequential(OrderedDict((k, m) for k, m in net.named_children() if k not in ("avgpool", "fc")))
    if dilation:
        _dilate(net.layer4)
    if norm == "frozen":
        for key, parameter in body.named_parameters():
            parameter.requires_grad_(key.startswith(("layer2.", "layer3.", "layer4.")))
    return Features(body, num_channels, stride=16 if dilation else 32)


def _dilate(stage: nn.Module) -> None:
    """Take the stride out of a stage and dilate what follows, so that each kernel sees what it saw before (DC5)."""
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            if conv.stride == (2, 2):
                conv.stride = (1, 1)
            elif conv.kernel_size == (3, 3):
                conv.dilation, conv.padding = (2, 2), (2, 2)
