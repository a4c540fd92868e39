"""Backbones: images to feature maps and their position encodings (paper, section 3.2).

ResNets come from torchvision, ResNet-Ds from `resnet_d`, all others from timm ("timm:NAME"). The classic model uses the
last map alone.

Shapes: B images, H x W pixels, h x w cells of one map, C its channels, D channels of the transformer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.backbones.base import NORM_LAYERS, STAGES, Features, Stages, check_strides, freeze_first
from detrkit.models.layers.feature_levels import Level
from detrkit.models.layers.position_encoding import LearnedPosition, SinePosition

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Backbone(nn.Module):
    """Feature maps and their position encodings, under the keys "0" and "1" of the reference DETR.

    Args:
        features: images to maps.
        position: padding to position encodings.
    """

    def __init__(self, features: Features, position: SinePosition | LearnedPosition) -> None:
        super().__init__()
        self.add_module("0", features)
        self.add_module("1", position)
        self.channels, self.strides, self.multiple = features.channels, features.strides, features.multiple
        self.mean, self.std, self.num_high_res = features.mean, features.std, features.num_high_res

    @property
    def stride(self) -> int:
        """Stride of the coarsest map in pixels."""
        return self.strides[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> one map [B, C, h, w] for each of `strides`, finest first."""
        features, _ = self.children()
        return features(self._pad_to_multiple(images))

    def normalise(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """Normalise pixels uint8 [B, 3, H, W] (RGB) by `mean` and `std` -> float32, 0 in the padding.

        Float images are taken to be normalised already, and are returned as they are.
        """
        if images.dtype != torch.uint8:
            return images
        mean, std = (
            torch.tensor(values).mul_(255).view(3, 1, 1).to(images.device, non_blocking=True)
            for values in (self.mean, self.std)
        )  # [3, 1, 1] each, in 0..255
        return ((images.float() - mean) / std).masked_fill(padding_mask[:, None], 0.0)

    def to_levels(self, maps: Sequence[Tensor], padding_mask: Tensor) -> list[Level]:
        """Add padding and position encodings to maps [B, D, h, w], from the padding of the images [B, H, W].

        The maps are those of `forward`, projected, and possibly coarser ones made from these.
        """
        _, position = self.children()
        paddings = self.paddings(maps, padding_mask)  # bool [B, h, w] each
        return [Level(each, padding, position(padding)) for each, padding in zip(maps, paddings, strict=True)]

    def paddings(self, maps: Sequence[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """The padding of the images [B, H, W] at the size of each map, bool [B, h, w]."""
        mask = self._pad_to_multiple(padding_mask, value=True)[:, None].float()  # [B, 1, H, W]
        return [F.interpolate(mask, size=each.shape[-2:])[:, 0].bool() for each in maps]

    def _pad_to_multiple(self, images: Tensor, value: float = 0.0) -> Tensor:
        """Pad height and width to multiples of `multiple`, which backbones of patches or windows need."""
        if self.multiple == 1:
            return images
        missing = (0, -images.shape[-1] % self.multiple, 0, -images.shape[-2] % self.multiple)
        return F.pad(images, missing, value=value)


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
