"""Backbones: images to features and their position encoding (paper, section 3.2).

ResNets come from torchvision, everything else from timm ("timm:NAME"). The only feature map used is the last one.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.models.position import LearnedPosition, SinePosition

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}
NORMS = tuple(_NORMS)


class Features(nn.Module):
    """Images [B, 3, H, W] to the last feature map [B, C, h, w] of `body`, with what has to be known of it."""

    def __init__(
        self,
        body: nn.Module,
        num_channels: int,
        stride: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        multiple: int = 1,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_channels, self.stride, self.mean, self.std = num_channels, stride, mean, std
        self.multiple, self.channels_last = multiple, channels_last

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, h, w]; H and W are multiples of `multiple`."""
        maps = self.body(images)
        last: Tensor = maps if isinstance(maps, Tensor) else maps[-1]  # timm's list of feature maps
        return last.permute(0, 3, 1, 2) if self.channels_last else last


class Backbone(nn.Module):
    """Features and the encoding of their positions, under the original's keys "0" and "1"."""

    def __init__(self, features: Features, position: SinePosition | LearnedPosition) -> None:
        super().__init__()
        self.add_module("0", features)
        self.add_module("1", position)
        self.num_channels, self.stride, self.multiple = features.num_channels, features.stride, features.multiple
        self.input_mean, self.input_std = features.mean, features.std

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W], padding [B, H, W] -> features [B, C, h, w], padding [B, h, w], position [B, D, h, w]."""
        features, position = self.children()
        if self.multiple > 1:  # a backbone made of patches or windows takes no other sizes
            missing = (0, -images.shape[-1] % self.multiple, 0, -images.shape[-2] % self.multiple)
            images, padding_mask = F.pad(images, missing), F.pad(padding_mask, missing, value=True)
        maps = features(images)
        padding = F.interpolate(padding_mask[:, None].float(), size=maps.shape[-2:])[:, 0].bool()
        return maps, padding, position(padding)


def build_features(name: str, norm: str = "frozen", dilation: bool = False, weights: str | None = None) -> Features:
    """The backbone of a name: one of `RESNETS`, or "timm:NAME".

    Args:
        name: of the architecture.
        norm: one of `NORMS`.
        dilation: features at 1/16 instead of 1/32 of the picture (DC5).
        weights: None or "none" for random ones, "imagenet" for the published ones (downloaded once), or the path of a
            file.

    Raises:
        ConfigError: there is no such architecture, or it cannot have that norm or dilation.
        WeightsError: the weights cannot be had or do not fit.
        MissingExtraError: timm is not installed.
    """
    weights = None if weights == "none" else weights
    if name.startswith("timm:"):
        return timm_features(name.removeprefix("timm:"), norm, dilation, weights)
    if name not in RESNETS:
        near = get_close_matches(name, RESNETS, n=1)
        hint = f"did you mean {near[0]}?" if near else "use one of those, or timm:NAME for a model of timm"
        raise ConfigError(f"expected a backbone {', '.join(RESNETS)} or timm:NAME, found {name!r}; {hint}")
    features = resnet(name, norm, dilation)
    if weights == "imagenet":
        _load_body(features.body, _published(name), f"the published weights of {name}")
    elif weights is not None:
        _load_body(features.body, _read(weights), weights)
    return features


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


def timm_features(name: str, norm: str = "frozen", dilation: bool = False, weights: str | None = None) -> Features:
    """The last feature map of a timm model, with the input normalisation that timm states for it.

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

    body, fixed = _create_timm(name, dilation, pretrained=weights == "imagenet")
    if weights is not None and weights != "imagenet":
        _load_body(body, _read(weights), weights)
    if norm == "frozen":
        freeze: Callable[[Any], Any] = freeze_batch_norm_2d
        body = freeze(body)
    info, data = body.feature_info, body.pretrained_cfg
    stride = int(info.reduction()[-1])
    features = Features(
        body,
        num_channels=int(info.channels()[-1]),
        stride=stride,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        multiple=stride if fixed else 1,
        channels_last=getattr(body, "output_fmt", None) == "NHWC",
    )
    if fixed:
        _check_takes_any_size(features, name)
    return features


def _create_timm(name: str, dilation: bool, pretrained: bool) -> tuple[Any, bool]:
    """The timm model up to its last feature map, and whether it was made for pictures of one size."""
    import timm

    data = timm.get_pretrained_cfg(name)
    fixed = data is not None and data.fixed_input_size
    settings: dict[str, Any] = {"features_only": True, "out_indices": (-1,), "pretrained": pretrained}
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


def _published(name: str) -> dict[str, Tensor]:
    """The weights that the original starts from: torchvision's first ones for ImageNet."""
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as problem:  # no network, or a file whose hash is wrong
        cache = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        raise WeightsError(
            f"could not get the published weights of {name} ({problem}); download {url} to {cache} or give the file as "
            "--backbone_weights PATH, or start without: --backbone_weights none"
        ) from problem
    return state


def _read(path: str) -> Mapping[str, Any]:
    """The state dict in a file: bare, or under "model" or "state_dict"; .pth or .safetensors."""
    if path.endswith(".safetensors") and Path(path).is_file():
        from safetensors.torch import load_file

        return load_file(path)
    from detrkit.models.weights.safe import read_checkpoint  # that package builds models, so not at the top

    state = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return state


def _load_body(body: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load every entry of `body` from a classifier's or a DETR's weights; what else these hold is left."""
    found = {_plain(key): value for key, value in state.items() if isinstance(value, Tensor)}
    wanted = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if _plain(key) not in found]
    if missing:
        raise WeightsError(
            f"expected weights for the backbone in {source}, found none for {len(missing)} of {len(wanted)} entries, "
            f"the first {missing[0]}; check that --backbone names the architecture of the file"
        )
    for key, value in wanted.items():
        if found[_plain(key)].shape != value.shape:
            raise WeightsError(
                f"expected {key} of shape {list(value.shape)} in {source}, found {list(found[_plain(key)].shape)}; "
                "check that --backbone names the architecture of the file"
            )
    if any(isinstance(m, nn.GroupNorm) for m in body.modules()) and any(k.endswith("running.mean") for k in found):
        raise WeightsError(
            f"expected weights that were trained with group norm, found batch-norm statistics in {source}; "
            "use --backbone_norm frozen or batch with them"
        )
    body.load_state_dict(body.state_dict() | {key: found[_plain(key)] for key in wanted})


def _plain(key: str) -> str:
    """A key without the wrappers it may have been saved in; timm's extractors also write _ for some dots."""
    for wrapper in ("module.", "backbone.0.body.", "model."):
        key = key.removeprefix(wrapper)
    return key.replace("_", ".")
