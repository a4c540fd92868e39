"""What the keys and shapes of a state dict say of the model it belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.build import build_model, default_model_args
from detrkit.models.detr import DETR
from detrkit.structures import Categories, Preprocessing


@dataclass(frozen=True)
class Weights:
    """A checkpoint of any format, read: `weights.build_model().load_state_dict(weights.state_dict)` gives its model."""

    state_dict: dict[str, Tensor]
    """On the CPU, under the keys of the original's detector; those of masks are `mask_head.` and `bbox_attention.`. A
    model with masks, whose own keys have the original's prefix `detr.`, takes them without."""
    model_args: dict[str, Any]
    """Keywords of `build_model`. What the file does not tell (`dilation`, `nheads`) is absent, see `notes`."""
    categories: Categories
    """Its classes."""
    preprocessing: Preprocessing
    """How its images are prepared."""
    source: str
    """Where it came from, for messages."""
    notes: tuple[str, ...] = ()
    """Sentences on what had to be assumed, for the user."""
    absent: tuple[str, ...] = ()
    """Parts of `HEADS` that the file lacks, in whole or in part, so that they can only start anew. Without a class head
    there is no `num_classes` in `model_args`, without queries no `num_queries`."""

    def build_model(self) -> DETR:
        """The model of this architecture and normalization, with random weights.

        Raises:
            ConfigError: the settings make no model.
            MissingExtraError: a timm backbone without timm.
        """
        images = self.preprocessing
        return build_model(image_mean=images.mean, image_std=images.std, **self.model_args)


# Blocks of the four stages, and whether a block is a bottleneck (He et al. 2016, table 1).
RESNET_BLOCKS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}

MASK_PARTS = ("mask_head.", "bbox_attention.")
"""What the keys of a mask head begin with."""

HEADS = {
    "class_embed": "class head",
    "bbox_embed": "box head",
    "query_embed": "queries",
}
"""Parts that people delete from a file so that they start anew on other data, and what they are called."""

_BODY = "backbone.0.body."
_HEAD_KEYS = {
    "class_embed": ("class_embed.weight", "class_embed.bias"),
    "bbox_embed": tuple(f"bbox_embed.layers.{k}.{leaf}" for k in range(3) for leaf in ("weight", "bias")),
    "query_embed": ("query_embed.weight",),
}
"""The keys of these parts in the classic model."""
_ESSENTIAL = {
    "class_embed.weight": 2, "bbox_embed.layers.0.weight": 2, "query_embed.weight": 2, "input_proj.weight": 4,
    "transformer.decoder.layers.0.linear2.weight": 2, "transformer.decoder.norm.weight": 1, "class_embed.bias": 1,
    "transformer.decoder.layers.0.linear1.bias": 1, "transformer.decoder.layers.0.linear2.bias": 1,
}  # fmt: skip
"""Key -> number of dimensions."""


def with_defaults(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `build_model` with its defaults for those that are absent."""
    return default_model_args() | dict(model_args)


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the `detr.` that all but the mask head has in a model with masks."""
    return {key.removeprefix("detr."): value for key, value in state_dict.items()}


def with_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, for a file of the original; the same where there is no mask head."""
    if not any(key.startswith(MASK_PARTS) for key in state_dict):
        return dict(state_dict)
    return {key if key.startswith(MASK_PARTS) else f"detr.{key}": value for key, value in state_dict.items()}


def is_classic(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of the classic model, whose architecture they tell, with all `HEADS` or without."""
    heads = {part: {key for key in state_dict if key.startswith(f"{part}.")} for part in _HEAD_KEYS}
    return not _missing(state_dict) and all(keys <= {*_HEAD_KEYS[part]} for part, keys in heads.items())


def _missing(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Keys that the classic model cannot do without, its `HEADS` apart."""
    return [key for key in _ESSENTIAL if key not in state_dict and key.partition(".")[0] not in HEADS]


def missing_heads(state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Which of `HEADS` a state dict lacks, in whole or in part, each with the keys that are missing.

    Of models other than the classic one only the class head is told, where all of it is missing.
    """
    if not is_classic(state_dict):
        has_classes = any(key.startswith("class_embed.") for key in state_dict)
        return {} if has_classes else {"class_embed": [*_HEAD_KEYS["class_embed"]]}
    missing = {part: [key for key in keys if key not in state_dict] for part, keys in _HEAD_KEYS.items()}
    return {part: keys for part, keys in missing.items() if keys}


def without_parts(state_dict: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """A state dict without what is left of some of `HEADS`."""
    return {key: value for key, value in state_dict.items() if key.partition(".")[0] not in parts}


def check_keys(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Make sure that these are the weights of a classic DETR, with masks or without.

    Raises:
        WeightsError: they are something else; the sentence says what, where that can be told.
    """
    if is_classic(state_dict):
        check_tensors(state_dict, source)
        return
    missing = _missing(state_dict) or ["query_embed.weight"]
    if "transformer.decoder.layers.0.linear2.weight" in state_dict:
        raise WeightsError(
            f"{source} holds the bare weights of a DETR with other parts than the original's, which do not tell its "
            "settings; expected a checkpoint of detrkit, which has both, or a Hugging Face folder"
        )
    if "conv1.weight" in state_dict and "layer1.0.conv1.weight" in state_dict:
        raise WeightsError(f"{source} holds a backbone alone; train from it with --backbone_weights {source}")
    if any(key.endswith("class_labels_classifier.weight") for key in state_dict):
        raise WeightsError(
            f"{source} holds a DETR of transformers, whose settings lie in config.json; expected its folder, as "
            "model.save_pretrained(FOLDER) writes it"
        )
    found = ", ".join([*list(state_dict)[:3], *["..."] * (len(state_dict) > 3)]) or "nothing"
    raise WeightsError(
        f"expected the weights of a DETR in {source}, found no {missing[0]} but {found}; "
        "variants of DETR with other parts cannot be loaded"
    )


def check_tensors(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Make sure that all are plain tensors with numbers in them and, for `infer_model_args`, of known dimensions."""
    for key, tensor in state_dict.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "a tensor without numbers" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            raise WeightsError(f"expected plain tensors in {source}, found {key}: {kind}; save its state dict again")
        if tensor.ndim != _ESSENTIAL.get(key, tensor.ndim):
            raise WeightsError(
                f"expected {key} with {_ESSENTIAL[key]} dimensions in {source}, found shape {list(tensor.shape)}; "
                "this is not the state dict of a DETR"
            )
    if not is_classic(state_dict):
        return
    width = len(state_dict["transformer.decoder.layers.0.linear2.bias"])
    for key, what in (("query_embed.weight", "queries"), ("class_embed.weight", "a class head")):
        if key in state_dict and state_dict[key].shape[1] != width:
            raise WeightsError(
                f"expected as many channels everywhere in {source}, found {what} of {state_dict[key].shape[1]} and a "
                f"transformer of {width}; this is not the state dict of a DETR"
            )
    rows = {leaf: len(state_dict.get(f"class_embed.{leaf}", ())) for leaf in ("weight", "bias")}
    if rows["weight"] != rows["bias"] and all(rows.values()):
        raise WeightsError(
            f"expected as many rows in class_embed.weight as in class_embed.bias in {source}, found {rows['weight']} "
            f"and {rows['bias']}; delete both of them, and a new class head starts"
        )


def infer_model_args(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of `build_model` that keys and shapes tell: all but dilation, dropout, aux_loss and, without masks,
    nheads.

    `backbone` is absent where the body is no ResNet of torchvision, `num_classes` and `num_queries` where their part of
    `HEADS` is. The state dict has passed `check_keys`.
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
    first = state_dict.get("mask_head.lay1.weight")  # which takes the image beside a map a head
    if first is not None and first.ndim == 4:
        args |= {"masks": True, "nheads": first.shape[1] - dim}
    if name := resnet_of(state_dict):
        args["backbone"] = name
    return args


def count_layers(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    """The keywords of `build_model` for the number of layers."""
    return {f"{name}_layers": _count(state_dict, f"transformer.{name}oder.layers.") for name in ("enc", "dec")}


def resnet_of(state_dict: Mapping[str, Tensor]) -> str | None:
    """Which of torchvision's ResNets the backbone is, or None."""
    shape = tuple(_count(state_dict, f"{_BODY}layer{stage}.") for stage in (1, 2, 3, 4))
    bottleneck = f"{_BODY}layer1.0.conv3.weight" in state_dict
    return next((name for name, blocks in RESNET_BLOCKS.items() if blocks == (shape, bottleneck)), None)


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are under `prefix`."""
    numbers = {match[1] for key in state_dict if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))}
    return len(numbers)


def _norm(state_dict: Mapping[str, Tensor]) -> str:
    """Normalisation of the backbone: counters belong to a learning batch norm, no statistics to a group norm."""
    means = sum(key.endswith(".running_mean") for key in state_dict)
    counters = sum(key.startswith(_BODY) and key.endswith(".num_batches_tracked") for key in state_dict)
    if not means:
        return "group"
    return "batch" if counters == means else "frozen"
