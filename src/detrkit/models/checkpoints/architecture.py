"""Weights with their metadata, and the architecture that the keys and shapes of a state dict imply."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.build import build_model, default_model_args
from detrkit.models.detection_model import DetectionModel
from detrkit.ops.text import first_names
from detrkit.structures import Categories, Preprocessing


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint of any format, with the metadata needed to build its model.

    `weights.build_model().load_state_dict(weights.state_dict)` gives the model.
    """

    state_dict: dict[str, Tensor]
    """Tensors on the CPU, under the keys of the reference DETR's detector; keys of the mask head begin with
    `mask_head.` and `bbox_attention.`. The prefix `detr.`, which the reference adds to all other keys of a model with
    masks, is removed; our models load the keys with and without it."""
    model_args: dict[str, Any]
    """Keywords of `build_model`, or of `models.hf.network.build_transformers`. Settings that the file does not state
    (`dilation`, `nheads`) are absent; `assumed` names them."""
    categories: Categories
    """The classes of the detector."""
    preprocessing: Preprocessing
    """Size, normalization and value range of the images."""
    source: str
    """Path or name of the checkpoint, for messages."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on parts that are not used."""
    assumed: Mapping[str, str] = field(default_factory=dict)
    """Setting that the file does not state, or `categories` -> sentence for the user on its assumed value."""
    absent: tuple[str, ...] = ()
    """Parts of `HEADS` that the file lacks, in whole or in part, and that must be initialized anew. Without a class
    head there is no `num_classes` in `model_args`, without queries no `num_queries`."""

    @property
    def messages(self) -> tuple[str, ...]:
        """All sentences for the user."""
        return (*self.notes, *self.assumed.values())

    @property
    def of_transformers(self) -> bool:
        """Whether the model is one of transformers, behind `models.hf.TransformersDETR`."""
        return "hf_config" in self.model_args

    def build_model(self) -> DetectionModel:
        """Build the model of this architecture and normalization, with random weights.

        Raises:
            ConfigError: the settings contradict each other.
            MissingExtraError: timm or transformers is needed and not installed.
        """
        images = self.preprocessing
        if self.of_transformers:
            from detrkit.models.hf.network import build_transformers

            return build_transformers(self.model_args, mean=images.mean, std=images.std, source=self.source)
        return build_model(image_mean=images.mean, image_std=images.std, **self.model_args)


# Number of blocks per stage, and whether the blocks are bottlenecks (He et al. 2016, table 1).
RESNET_BLOCKS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}

MASK_PARTS = ("mask_head.", "bbox_attention.")
"""Prefixes of the keys of a mask head."""

HEADS = {
    "class_embed": "class head",
    "bbox_embed": "box head",
    "query_embed": "queries",
}
"""Part -> its name in messages. Users delete these parts from a file to train them anew on other data."""

_BODY = "backbone.0.body."
_HEAD_KEYS = {
    "class_embed": ("class_embed.weight", "class_embed.bias"),
    "bbox_embed": tuple(f"bbox_embed.layers.{k}.{leaf}" for k in range(3) for leaf in ("weight", "bias")),
    "query_embed": ("query_embed.weight",),
}
"""Part of `HEADS` -> its keys in the classic model."""
_ESSENTIAL = {
    "class_embed.weight": 2, "bbox_embed.layers.0.weight": 2, "query_embed.weight": 2, "input_proj.weight": 4,
    "transformer.decoder.layers.0.linear2.weight": 2, "transformer.decoder.norm.weight": 1, "class_embed.bias": 1,
    "transformer.decoder.layers.0.linear1.bias": 1, "transformer.decoder.layers.0.linear2.bias": 1,
}  # fmt: skip
"""Key that every classic model has -> its number of dimensions."""


def with_defaults(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Complete keywords of `build_model` by its defaults."""
    return default_model_args() | dict(model_args)


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix `detr.`, which the keys outside the mask head have in a model with masks."""
    return {key.removeprefix("detr."): value for key, value in state_dict.items()}


def with_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the prefix `detr.` as the reference DETR does, to the keys of a model with masks outside its mask head."""
    if not any(key.startswith(MASK_PARTS) for key in state_dict):
        return dict(state_dict)
    return {key if key.startswith(MASK_PARTS) else f"detr.{key}": value for key, value in state_dict.items()}


def is_classic(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a classic DETR, whose keys and shapes imply its architecture.

    Any of `HEADS` may be absent.
    """
    heads = {part: {key for key in state_dict if key.startswith(f"{part}.")} for part in _HEAD_KEYS}
    return not _missing(state_dict) and all(keys <= {*_HEAD_KEYS[part]} for part, keys in heads.items())


def _missing(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Required keys of the classic model that a state dict lacks, except those of `HEADS`."""
    return [key for key in _ESSENTIAL if key not in state_dict and key.partition(".")[0] not in HEADS]


def missing_heads(state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The parts of `HEADS` that a state dict lacks in whole or in part, each with the missing keys.

    For models other than the classic one, only a class head that is missing as a whole is reported.
    """
    if not is_classic(state_dict):
        has_classes = any(key.startswith("class_embed.") for key in state_dict)
        return {} if has_classes else {"class_embed": [*_HEAD_KEYS["class_embed"]]}
    missing = {part: [key for key in keys if key not in state_dict] for part, keys in _HEAD_KEYS.items()}
    return {part: keys for part, keys in missing.items() if keys}


def without_parts(state_dict: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """Remove the remaining keys of some parts of `HEADS` from a state dict."""
    return {key: value for key, value in state_dict.items() if key.partition(".")[0] not in parts}


def check_keys(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Check that a state dict is that of a classic DETR, with or without masks.

    Raises:
        WeightsError: the state dict is another one; the message says which, if it is known.
    """
    if is_classic(state_dict):
        check_tensors(state_dict, source)
        return
    missing = _missing(state_dict) or ["query_embed.weight"]
    if "transformer.decoder.layers.0.linear2.weight" in state_dict:
        raise WeightsError(
            f"{source} holds the bare weights of a DETR variant, found no settings of its architecture; expected a "
            "checkpoint of detrkit, which has both, or a Hugging Face folder"
        )
    if "conv1.weight" in state_dict and "layer1.0.conv1.weight" in state_dict:
        raise WeightsError(f"{source} holds a backbone alone; train from it with --backbone_weights {source}")
    if any(key.endswith("class_labels_classifier.weight") for key in state_dict):
        raise WeightsError(
            f"{source} holds a DETR of transformers, whose settings lie in config.json; expected its folder, as "
            "model.save_pretrained(FOLDER) writes it"
        )
    keys = first_names(state_dict, 3) or "nothing"
    raise WeightsError(
        f"expected the weights of a DETR in {source}, found no {missing[0]} but {keys}; "
        "variants of DETR with other parts cannot be loaded"
    )


def check_tensors(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Check that all tensors are dense and not on the meta device, and that `infer_model_args` can use their shapes.

    Raises:
        WeightsError: a tensor is sparse or without values, or shapes contradict each other.
    """
    for key, tensor in state_dict.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "a tensor without values" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            raise WeightsError(f"expected plain tensors in {source}, found {key}: {kind}; save its state dict again")
        if tensor.ndim != _ESSENTIAL.get(key, tensor.ndim):
            raise WeightsError(
                f"expected {key} with {_ESSENTIAL[key]} dimensions in {source}, found shape {list(tensor.shape)}; "
                "this is not the state dict of a DETR"
            )
    if not is_classic(state_dict):
        return
    width = len(state_dict["transformer.decoder.layers.0.linear2.bias"])
    for key, part in (("query_embed.weight", "queries"), ("class_embed.weight", "a class head")):
        if key in state_dict and state_dict[key].shape[1] != width:
            raise WeightsError(
                f"expected one number of channels in {source}, found {part} of {state_dict[key].shape[1]} channels and "
                f"a transformer of {width}; this is not the state dict of a DETR"
            )
    rows = {leaf: len(state_dict.get(f"class_embed.{leaf}", ())) for leaf in ("weight", "bias")}
    if rows["weight"] != rows["bias"] and all(rows.values()):
        raise WeightsError(
            f"expected as many rows in class_embed.weight as in class_embed.bias in {source}, found {rows['weight']} "
            f"and {rows['bias']}; delete both of them to train a new class head"
        )


def infer_model_args(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the keywords of `build_model` from the keys and shapes of a classic state dict.

    Not in them are dilation, dropout, aux_loss and, without masks, nheads. `backbone` is absent if the body is no
    ResNet of torchvision; `num_classes` and `num_queries` are absent if their part of `HEADS` is.

    Args:
        state_dict: tensors by key; `check_keys` has accepted them.
    """
    wide, dim = (
        state_dict[f"transformer.decoder.layers.0.{linear}.bias"].shape[0] for linear in ("linear1", "linear2")
    )
    width = state_dict["transformer.decoder.layers.0.linear2.weight"].shape[1]
    args: dict[str, Any] = {
        "position_embedding": "learned" if "backbone.1.row_embed.weight" in state_dict else "sine",
        "hidden_dim": dim,
        **count_layers(state_dict),
        "dim_feedforward": width,
        "pre_norm": "transformer.encoder.norm.weight" in state_dict,
        "backbone_norm": _norm(state_dict),
    }
    if "class_embed.bias" in state_dict:
        args["num_classes"] = len(state_dict["class_embed.bias"]) - 1
    if "query_embed.weight" in state_dict:
        args["num_queries"] = len(state_dict["query_embed.weight"])
    if wide == 2 * width:
        args["activation"] = "glu"
    # the first layer of the mask head takes hidden_dim channels and one attention map per head
    first = state_dict.get("mask_head.lay1.weight")
    if first is not None and first.ndim == 4:
        args |= {"masks": True, "nheads": first.shape[1] - dim}
    if name := resnet_of(state_dict):
        args["backbone"] = name
    return args


def count_layers(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    """The keywords of `build_model` for the numbers of encoder and decoder layers."""
    return {f"{name}_layers": _count(state_dict, f"transformer.{name}oder.layers.") for name in ("enc", "dec")}


def resnet_of(state_dict: Mapping[str, Tensor]) -> str | None:
    """The name of the torchvision ResNet that the backbone is, or None."""
    shape = tuple(_count(state_dict, f"{_BODY}layer{stage}.") for stage in (1, 2, 3, 4))
    bottleneck = f"{_BODY}layer1.0.conv3.weight" in state_dict
    return next((name for name, blocks in RESNET_BLOCKS.items() if blocks == (shape, bottleneck)), None)


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """The number of numbered modules under `prefix`."""
    numbers = {match[1] for key in state_dict if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))}
    return len(numbers)


def _norm(state_dict: Mapping[str, Tensor]) -> str:
    """The norm of the backbone: a trained batch norm has counters, a group norm has no statistics."""
    means = sum(key.endswith(".running_mean") for key in state_dict)
    counters = sum(key.startswith(_BODY) and key.endswith(".num_batches_tracked") for key in state_dict)
    if not means:
        return "group"
    return "batch" if counters == means else "frozen"
