"""Backbones (DETR, section 3.2): images to feature maps (`Features`), and with position encodings (`Backbone`).

Shapes: B images, H x W pixels, h x w cells of one map, C its channels, D channels of the transformer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detrkit.errors import ConfigError
from detrkit.models.frozen import freeze
from detrkit.models.layers.feature_levels import Level
from detrkit.models.layers.position_encoding import LearnedPosition, SinePosition

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
}
NORMS = tuple(NORM_LAYERS)

STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
"""Name of the ResNet stage at each stride."""


class Features(nn.Module):
    """Images [B, 3, H, W] to the feature maps of `body`, with their channels, strides and normalization.

    Args:
        body: module that returns the maps, finest first.
        channels: number of channels of each map.
        strides: stride of each map in pixels of the image.
        mean: mean of each color channel (RGB in 0..1) by which pixels are normalized.
        std: standard deviation of each color channel, likewise.
        multiple: heights and widths of images must be multiples of this.
        channels_last: whether `body` returns maps [B, h, w, C].
        num_high_res: number of first maps that are for masks alone.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        multiple: int = 1,
        channels_last: bool = False,
        num_high_res: int = 0,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels, self.strides, self.mean, self.std = channels, strides, mean, std
        self.multiple, self.channels_last, self.num_high_res = multiple, channels_last, num_high_res

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> one map [B, C, h, w] per stride, finest first; H and W are multiples of `multiple`."""
        maps = list(self.body(images))
        return [each.permute(0, 3, 1, 2) for each in maps] if self.channels_last else maps


class Stages(nn.Sequential):
    """A sequence of modules that returns the outputs of some of them; those after the last of these are left out.

    Args:
        stages: the modules by name, in their order.
        out_indices: names of the modules whose outputs are returned.
    """

    def __init__(self, stages: OrderedDict[str, nn.Module], out_indices: Sequence[str]) -> None:
        names = list(stages)
        used = names[: 1 + max(map(names.index, out_indices))]
        super().__init__(OrderedDict((name, stages[name]) for name in used))
        self.out_indices = tuple(out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the outputs of `out_indices`, in the order of the sequence."""
        outputs = []
        for name, stage in self.named_children():
            x = stage(x)
            if name in self.out_indices:
                outputs.append(x)
        return outputs


def freeze_first(body: nn.Module) -> None:
    """Freeze the stem and layer1 of a ResNet, as the reference DETR does."""
    later = ("layer2.", "layer3.", "layer4.")
    freeze(parameter for key, parameter in body.named_parameters() if not key.startswith(later))


def check_strides(strides: tuple[int, ...], own: Sequence[int], name: str) -> None:
    """Check that a backbone has these strides.

    Raises:
        ConfigError: one is missing, or they do not increase.
    """
    missing = [stride for stride in strides if stride not in own]
    if missing:
        available = ", ".join(map(str, sorted(set(own))))
        raise ConfigError(
            f"expected feature levels at strides of {name} ({available}), found {missing[0]}; change --feature_levels"
        )
    if list(strides) != sorted(set(strides)):
        raise ConfigError(f"expected the strides of the feature levels from finest to coarsest, found {list(strides)}")


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
