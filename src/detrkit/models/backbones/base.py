"""Features: images to the maps of a backbone at some of its strides; what all backbones have in common."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detrkit.errors import ConfigError
from detrkit.models.frozen import freeze

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
}
NORMS = tuple(NORM_LAYERS)

STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
"""Stride of each stage of a ResNet."""


class Features(nn.Module):
    """Images [B, 3, H, W] to the feature maps of `body`, with what has to be known of them."""

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
        """The channels and the stride of each map, finest first; what `body` gives must be in that order.

        `mean` and `std` are those of its images (RGB in 0..1), `multiple` what heights and widths must be a multiple
        of; `channels_last` says that `body` gives maps [B, h, w, C]; the first `num_high_res` maps are
        for masks alone.
        """
        super().__init__()
        self.body = body
        self.channels, self.strides, self.mean, self.std = channels, strides, mean, std
        self.multiple, self.channels_last, self.num_high_res = multiple, channels_last, num_high_res

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> a map [B, C, h, w] for each stride, finest first; H and W are multiples of `multiple`."""
        maps: list[Tensor] = list(self.body(images))
        return [each.permute(0, 3, 1, 2) for each in maps] if self.channels_last else maps


class Stages(nn.Sequential):
    """Modules in a row that gives what comes out of some of them. What lies behind the last of these is left out."""

    def __init__(self, stages: OrderedDict[str, nn.Module], out_indices: Sequence[str]) -> None:
        names = list(stages)
        used = names[: 1 + max(map(names.index, out_indices))]
        super().__init__(OrderedDict((name, stages[name]) for name in used))
        self.out_indices = tuple(out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> what comes out of each of `out_indices`, in the order of the row."""
        outputs = []
        for name, stage in self.named_children():
            x = stage(x)
            if name in self.out_indices:
                outputs.append(x)
        return outputs


def freeze_first(body: nn.Module) -> None:
    """Keep the stem and layer1 of a ResNet as they are, as the original does."""
    later = ("layer2.", "layer3.", "layer4.")
    freeze(parameter for key, parameter in body.named_parameters() if not key.startswith(later))


def check_strides(strides: tuple[int, ...], own: Sequence[int], name: str) -> None:
    """Make sure that a backbone has these strides.

    Raises:
        ConfigError: it lacks one, or they do not grow.
    """
    lacking = [stride for stride in strides if stride not in own]
    if lacking:
        had = ", ".join(map(str, sorted(set(own))))
        raise ConfigError(
            f"expected feature levels at strides of {name} ({had}), found {lacking[0]}, which it has not; change "
            "--feature_levels"
        )
    if list(strides) != sorted(set(strides)):
        raise ConfigError(f"expected the strides of the feature levels from finest to coarsest, found {list(strides)}")
