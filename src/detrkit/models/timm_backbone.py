"""Backbones from timm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.models.backbone_weights import load_body, read_state_dict
from detrkit.models.features import Features, check_strides


def timm_features(
    name: str,
    norm: str = "frozen",
    dilation: bool = False,
    weights: str | None = None,
    strides: tuple[int, ...] = (),
) -> Features:
    """Feature maps of a timm model, with the input normalisation that timm states for it.

    With `norm` "frozen", its batch norms (if it has any) become frozen ones; everything else learns, since timm's
    models agree on no name for the stem. Other arguments and errors as in `build_features`.
    """
    try:
        import timm
        from timm.layers.norm_act import freeze_batch_norm_2d
    except ImportError:
        raise MissingExtraError(f"backbone timm:{name}", "timm") from None
    if norm == "group":
        raise ConfigError(f"expected backbone_norm frozen or batch for timm:{name}, found group, which ResNets have")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean timm:{near[0]}?" if near else "`timm.list_models()` has the names"
        raise ConfigError(f"expected the name of a timm model after timm:, found {name!r}; {hint}")

    indices = _indices(name, strides) if strides else (-1,)
    body, fixed = _create_timm(name, indices, dilation, pretrained=weights == "imagenet")
    if weights is not None and weights != "imagenet":
        load_body(body, read_state_dict(weights), weights)
    if norm == "frozen":
        freeze: Callable[[Any], Any] = freeze_batch_norm_2d
        body = freeze(body)
    info, data = body.feature_info, body.pretrained_cfg
    strides = tuple(int(stride) for stride in info.reduction())
    features = Features(
        body,
        channels=tuple(int(channels) for channels in info.channels()),
        strides=strides,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        multiple=strides[-1] if fixed else 1,
        channels_last=getattr(body, "output_fmt", None) == "NHWC",
    )
    if fixed:
        _check_takes_any_size(features, name)
    return features


def _indices(name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """The last feature map of the model at each of the strides, by its place among all that timm names."""
    whole: Any = _call_timm(name, {"features_only": True, "pretrained": False})
    own = [int(stride) for stride in whole.feature_info.reduction()]
    check_strides(strides, own, f"timm:{name}")
    indices = whole.feature_info.out_indices
    return tuple(int(indices[len(own) - 1 - own[::-1].index(stride)]) for stride in strides)


def _create_timm(name: str, indices: tuple[int, ...], dilation: bool, pretrained: bool) -> tuple[Any, bool]:
    """The timm model up to the last of these feature maps, and whether it was made for pictures of one size."""
    import timm

    data = timm.get_pretrained_cfg(name)
    fixed = data is not None and data.fixed_input_size
    settings: dict[str, Any] = {"features_only": True, "out_indices": indices, "pretrained": pretrained}
    if dilation:
        settings["output_stride"] = 16
    # Models of one size have different settings, if any, that let them take others.
    for setting in ({"dynamic_img_size": True}, {"strict_img_size": False}) if fixed else ():
        with contextlib.suppress(TypeError):
            return _call_timm(name, settings | setting), fixed
    try:
        return _call_timm(name, settings), fixed
    except TypeError as problem:
        if not dilation:
            raise
        raise ConfigError(f"expected dilation=False for timm:{name}, found True, which this model has not") from problem


def _call_timm(name: str, settings: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, **settings)
    except (RuntimeError, OSError) as problem:
        if not settings["pretrained"]:
            raise ConfigError(f"expected a timm model with feature outputs, found {name}: {problem}") from problem
        data = timm.get_pretrained_cfg(name)
        place = f"https://huggingface.co/{data.hf_hub_id}" if data and data.hf_hub_id else "its page in timm"
        raise WeightsError(
            f"could not get the published weights of timm:{name} ({problem}); download them from {place} and give the "
            "file as --backbone_weights PATH, or start without: --backbone_weights none"
        ) from problem


def _check_takes_any_size(features: Features, name: str) -> None:
    side, training = features.multiple, features.training
    try:
        with torch.no_grad():
            features.eval()(torch.zeros(1, 3, 2 * side, 3 * side))
    except (AssertionError, RuntimeError) as problem:
        raise ConfigError(
            f"expected a backbone for pictures of any size, found timm:{name}, which is made for one ({problem}); "
            "choose another"
        ) from problem
    features.train(training)
