"""The backbones by name: a family is one file and one row of `FAMILIES`; timm's models come with the prefix "timm:"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from detrkit.config.fields import check_named
from detrkit.errors import ConfigError, WeightsError
from detrkit.models.backbones.base import Features
from detrkit.models.backbones.pretrained import load_body, published_resnet, read_state_dict
from detrkit.models.backbones.resnet import RESNETS, resnet
from detrkit.models.backbones.resnet_d import RESNETS_VD, resnet_vd
from detrkit.models.backbones.timm import timm_features


@dataclass(frozen=True)
class BackboneFamily:
    """Backbones that one function builds."""

    names: tuple[str, ...]
    """Values of `backbone`."""
    build: Callable[..., Features]
    """`build(name, norm, strides=..., high_res_strides=...)`, with random weights; arguments as of `build_features`."""
    dilated: Callable[..., Features] | None = None
    """The same with the last stage dilated (DC5); None: there is none."""
    published: Callable[[str], Mapping[str, Tensor]] | None = None
    """State dict of the weights for ImageNet, by name; None: none are published."""


FAMILIES: tuple[BackboneFamily, ...] = (
    BackboneFamily(RESNETS, resnet, partial(resnet, dilation=True), published_resnet),
    BackboneFamily(RESNETS_VD, resnet_vd),
)
"""All families but timm's."""


def build_features(
    name: str,
    norm: str = "frozen",
    dilation: bool = False,
    weights: str | None = None,
    strides: tuple[int, ...] = (),
    high_res_strides: tuple[int, ...] = (),
) -> Features:
    """Build the backbone of a name: one of a row of `FAMILIES`, or "timm:NAME".

    Args:
        name: name of the architecture.
        norm: one of `NORMS`.
        dilation: the last map at 1/16 instead of 1/32 of the image (DC5); only with that map alone.
        weights: None or "none" for random ones, "imagenet" for the published ones (downloaded once), or the path of a
            file.
        strides: strides of the feature maps, in ascending order, among the backbone's own (4, 8, 16 and 32 of a
            ResNet); empty for the last map alone.
        high_res_strides: strides of further maps before these, for masks.

    Raises:
        ConfigError: there is no such architecture, or it cannot have that norm, dilation or stride.
        WeightsError: the weights cannot be loaded or do not fit.
        MissingExtraError: timm is not installed.
    """
    weights = None if weights == "none" else weights
    if dilation and strides and (strides != (16,) or name.startswith("timm:")):
        raise ConfigError(
            f"expected dilation=False with feature levels, found True with {','.join(map(str, strides))}; leave out "
            "--dilation or --feature_levels"
        )
    if name.startswith("timm:"):
        return timm_features(name.removeprefix("timm:"), norm, dilation, weights, strides, high_res_strides)
    family = _family_of(name)
    build = family.dilated if dilation else family.build
    if build is None:
        raise ConfigError(f"expected dilation=False for {name}, found True, which only resnet18 to resnet152 have")
    if weights == "imagenet" and family.published is None:
        raise WeightsError(
            f"expected a file of weights for {name}, found imagenet, but none are published under that name; give "
            "a file as --backbone_weights PATH, or start without: --backbone_weights none"
        )
    features = build(name, norm, strides=strides, high_res_strides=high_res_strides)
    if weights == "imagenet" and family.published:
        load_body(features.body, family.published(name), f"the published weights of {name}")
    elif weights is not None:
        load_body(features.body, read_state_dict(weights), weights)
    return features


def _family_of(name: str) -> BackboneFamily:
    """The row of a name.

    Raises:
        ConfigError: there is none.
    """
    families = {each: family for family in FAMILIES for each in family.names}
    check_named("--backbone", name, [*families, "timm:NAME"])
    return families[name]
