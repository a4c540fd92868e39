"""Read DETR weights of any known format into `Weights`.

run folder                 best.ckpt, else last.ckpt
checkpoint of detrkit      a dictionary with "model" and "detrkit"
checkpoint of the          a bare state dict, {"model": ...}, or a training checkpoint with optimizer, scheduler and
reference DETR             arguments; or a checkpoint of PyTorch Lightning, under "state_dict" and a prefix
Hugging Face folder        config.json with model.safetensors or pytorch_model.bin
                           of DETR, Deformable DETR and RT-DETR; others by transformers, see `models.hf`
published name             detr_resnet50, ...; downloaded once
model of the hub           a short name such as dfine_n, or an id OWNER/NAME; downloaded once into the hub's cache
file of weights            .safetensors with metadata of detrkit; those of detrkit_n are part of the package
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, DataError, WeightsError
from detrkit.models.build import default_model_args
from detrkit.models.checkpoints.architecture import (
    HEADS,
    MASK_PARTS,
    Weights,
    check_keys,
    check_tensors,
    count_layers,
    infer_model_args,
    is_classic,
    missing_heads,
    with_defaults,
    without_parts,
    without_prefix,
)
from detrkit.models.checkpoints.hf_checks import check_folder, content_of
from detrkit.models.checkpoints.hub import fetch_from_hub, hub_id_of, unknown_weights
from detrkit.models.checkpoints.huggingface import is_huggingface_folder, read_huggingface
from detrkit.models.checkpoints.published import (
    COCO_CATEGORIES,
    COCO_PANOPTIC_CATEGORIES,
    PUBLISHED,
    Published,
    fetch,
    recognize,
)
from detrkit.models.checkpoints.safe import read_checkpoint
from detrkit.models.checkpoints.weights_file import PACKAGED, read_weights_file
from detrkit.ops.text import first_names
from detrkit.structures import Categories, Preprocessing

VERSION = 1
"""Format version of the metadata entry "detrkit" of a checkpoint."""


def load_weights(
    source: str | Path, *, dilation: bool | None = None, nheads: int | None = None, headless: bool = False
) -> Weights:
    """Read weights of any known format, without running code of the file.

    Args:
        source: a run folder, a checkpoint of detrkit or of the reference DETR, a Hugging Face folder, or the name or
            hub id of published weights (see `hub_id_of`).
        dilation: whether the backbone is dilated (DC5), for a file that does not state it.
        nheads: number of attention heads, for a file that does not state it.
        headless: also accept a file that lacks some of `HEADS`, which the caller initializes anew; see
            `Weights.absent`.

    Raises:
        WeightsError: there is no such file, it is no checkpoint of a DETR or not safe to read, it contradicts
            `dilation` or `nheads`, or it lacks a head.
    """
    weights = _read(source)
    if weights.absent and not headless:
        raise WeightsError(_headless_message(weights))
    settings = {name: value for name, value in (("dilation", dilation), ("nheads", nheads)) if value is not None}
    if settings and weights.of_transformers:
        raise WeightsError(
            f"expected no --{' nor --'.join(settings)} with {weights.source}, a model of transformers that brings all "
            "of its settings; leave that out"
        )
    for name, value in settings.items():
        stored = weights.model_args.get(name, value)
        if stored != value:
            raise WeightsError(
                f"{weights.source} was trained with {name} {str(stored).lower()}, found --{name} {str(value).lower()}; "
                "leave that out or choose other weights"
            )
    width = weights.model_args.get("hidden_dim", 256)
    if nheads is not None and width % nheads:
        raise WeightsError(
            f"{weights.source} has hidden_dim {width}, which {nheads} heads do not divide; look at --nheads"
        )
    assumed = {name: sentence for name, sentence in weights.assumed.items() if name not in settings}
    return replace(weights, model_args=weights.model_args | settings, assumed=assumed)


def _headless_message(weights: Weights) -> str:
    """The error message for weights that lack one of their heads."""
    part = weights.absent[0]
    keys = " and ".join(f"{part}.{leaf}" for leaf in ("weight", "bias")) if part == "class_embed" else f"{part}.*"
    effect = "so it cannot classify objects" if part == "class_embed" else "so it cannot detect objects"
    return (
        f"{weights.source} has no {HEADS[part]} ({keys}), {effect}; train a new one: detrkit train --weights "
        f"{weights.source} --data DATA, or detrkit detr --resume {weights.source} --coco_path DATA"
    )


def _read(source: str | Path) -> Weights:
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors" and path.is_file():
        content = read_weights_file(path)
        return read_content(content, path) if content else _read_folder(path.parent)
    if path.is_file():
        return _read_file(path)
    name = str(source)
    if name in PACKAGED:
        return replace(load_weights(PACKAGED[name]), source=name)
    if name in PUBLISHED:
        return _read_published(PUBLISHED[name])
    hub_id = hub_id_of(name)
    if not hub_id:
        raise WeightsError(unknown_weights(name))
    folder = fetch_from_hub(hub_id, name if name != hub_id else "")
    weights = _read_folder(folder, hub_id)
    return replace(weights, source=name, notes=tuple(note.replace(str(folder), name) for note in weights.notes))


def _read_published(entry: Published) -> Weights:
    weights = _read_file(fetch(entry))
    return replace(
        weights,
        model_args=weights.model_args | entry.model_args,
        categories=entry.categories,
        preprocessing=Preprocessing(entry.image_size),
        source=entry.name,
        notes=(),
        assumed={},
    )


def _read_folder(folder: Path, hub_id: str = "") -> Weights:
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return _read_file(folder / name)
    if is_huggingface_folder(folder):
        check_folder(folder, hub_id)
        return read_huggingface(folder)
    raise WeightsError(
        f"expected a run folder (best.ckpt or last.ckpt) or a Hugging Face folder (config.json) at {folder}, found "
        f"{content_of(folder)}; name the folder that has them"
    )


def _read_file(path: Path) -> Weights:
    content = read_checkpoint(path)
    weights = read_content(content, path)
    if "detrkit" not in content and "backbone" not in weights.model_args:
        raise WeightsError(
            f"expected a backbone among the ResNets of torchvision in {path}, found other keys under backbone.0.body"
        )
    return weights


def read_content(content: Mapping[str, Any], path: Path) -> Weights:
    """Convert the content of a checkpoint file to `Weights`; some of `HEADS` and the backbone's name may be absent.

    Args:
        content: result of `read_checkpoint`.
        path: path of the file.

    Raises:
        WeightsError: the file holds no weights of a detector, or its metadata is damaged.
    """
    state_dict, notes = _state_dict(content, path)
    if "detrkit" in content:
        check_tensors(state_dict, str(path))
        whole = any(key.startswith("network.") for key in state_dict)  # of transformers, whose heads have other names
        weights = _whole(state_dict, path, notes) if whole else _without_heads(state_dict, path, notes)
        return _from_detrkit(weights, content["detrkit"])
    lightning = "pytorch-lightning_version" in content
    check_keys(state_dict, f"the checkpoint of PyTorch Lightning {path}" if lightning else str(path))
    return _from_reference(_without_heads(state_dict, path, notes), content.get("args"), path)


_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
"""Entries in which checkpoints keep their state dict: the reference DETR, PyTorch Lightning, other code."""
_KNOWN_KEY = "transformer.decoder.norm.weight"
"""A key of every DETR, from which the prefix of a state dict is determined."""


def _state_dict(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint under keys without prefixes, and notes for the user.

    Data-parallel training, compilation, modules around the detector and mask heads add prefixes to keys.
    """
    entry = next((content[name] for name in _STATE_DICT_KEYS if content.get(name)), content)
    if not isinstance(entry, Mapping) or not all(isinstance(value, Tensor) for value in entry.values()):
        keys = first_names(entry, 6) if isinstance(entry, Mapping) else type(entry).__name__
        raise WeightsError(
            f'expected a state dict, bare or under "model", in {path}, found: {keys}; save model.state_dict()'
        )
    tensors = {str(key).removeprefix("module."): value for key, value in entry.items()}
    whole = min((key for key in tensors if key.endswith(_KNOWN_KEY)), key=len, default=_KNOWN_KEY)
    prefix = whole.removesuffix(_KNOWN_KEY).removesuffix("detr.")
    kept = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    others = [key for key in tensors if not key.startswith(prefix)]
    notes = [
        f"{path} holds a detector under {prefix!r} and other tensors, which are left out: {first_names(others, 3)}"
    ]
    return without_prefix(kept), notes if others else []


def _whole(state_dict: dict[str, Tensor], path: Path, notes: Sequence[str]) -> Weights:
    """`Weights` of the tensors only, of a model of transformers."""
    return Weights(state_dict, {}, Categories((), ()), Preprocessing(), source=str(path), notes=tuple(notes))


def _without_heads(state_dict: dict[str, Tensor], path: Path, notes: Sequence[str]) -> Weights:
    """`Weights` of the tensors and the absent parts of `HEADS` only.

    If some keys of a part are missing, the others are left out too, with a note.
    """
    missing = missing_heads(state_dict)
    incomplete = {part: [key for key in state_dict if key.startswith(f"{part}.")] for part in missing}
    left_out = [
        f"{path} has {keys[0]} without {missing[part][0]}, so neither is used"
        for part, keys in incomplete.items()
        if keys
    ]
    return Weights(
        without_parts(state_dict, missing),
        {},
        Categories((), ()),
        Preprocessing(),
        source=str(path),
        notes=(*notes, *left_out),
        absent=tuple(missing),
    )


def _from_detrkit(weights: Weights, header: Any) -> Weights:
    """Complete `Weights` by the metadata of a detrkit checkpoint, checked against the tensors."""
    path = weights.source
    try:
        if header["version"] > VERSION:
            raise WeightsError(
                f"{path} was written by a newer detrkit (format {header['version']}, this one reads {VERSION}); upgrade"
            )
        # the initial weights of the backbone are no part of the model, and building would download them again
        left_out = {"backbone_weights", *(_COUNTS[part] for part in weights.absent if part in _COUNTS)}
        weights = replace(
            weights,
            model_args={name: value for name, value in dict(header["model_args"]).items() if name not in left_out},
            categories=Categories.from_plain([] if "class_embed" in weights.absent else header["categories"]),
            preprocessing=Preprocessing.from_plain(header["preprocessing"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as problem:
        raise WeightsError(
            f'the entry "detrkit" of {path} is incomplete or damaged ({problem}); save the checkpoint again'
        ) from problem
    _check_header(weights)
    return weights


_COUNTS = {"class_embed": "num_classes", "query_embed": "num_queries"}
"""Part of `HEADS` -> the keyword of `build_model` that its shape implies."""


def _check_header(weights: Weights) -> None:
    """Check that the metadata of a checkpoint agrees with its tensors.

    Raises:
        WeightsError: a setting is unknown, or a setting, the number of classes or a shape contradicts the tensors.
    """
    stated = weights.model_args
    if weights.of_transformers:  # the tensors are compared when they are loaded
        if len(weights.categories) != stated.get("num_classes"):
            raise WeightsError(
                f'the entry "detrkit" of {weights.source} holds {len(weights.categories)} categories where the model '
                f"has {stated.get('num_classes')} classes; save the checkpoint again"
            )
        return
    errors = [f"the unknown setting {name!r}" for name in stated if name not in default_model_args()]
    if not errors:
        implied = _implied_settings(weights)
        errors = [
            f"{name} {stated[name]!r} where the weights have {value!r}"
            for name, value in implied.items()
            if stated.get(name, value) != value
        ]
        if len(weights.categories) != implied.get("num_classes", 0):
            errors.append(
                f"{len(weights.categories)} categories where the weights have {implied.get('num_classes', 0)}"
            )
    if not errors and not is_classic(weights.state_dict):
        errors = _shape_errors(weights)
    if errors:
        raise WeightsError(f'the entry "detrkit" of {weights.source} holds {errors[0]}; save the checkpoint again')


def _implied_settings(weights: Weights) -> dict[str, Any]:
    """The settings that the keys and shapes of the tensors imply."""
    tensors, stated = weights.state_dict, with_defaults(weights.model_args)
    implied = count_layers(tensors)
    if is_classic(tensors):
        inferred = infer_model_args(tensors)
        names = ["hidden_dim", "dim_feedforward"]
        if stated["query_groups"] == 1 and stated["num_queries_one2many"] == 0 and "num_queries" in inferred:
            names.append("num_queries")
        implied |= {name: inferred[name] for name in names}
    if not any(key.startswith("transformer.decoder.") for key in tensors):
        check_keys(tensors, weights.source)
    if "class_embed" not in weights.absent:
        per_layer = stated["box_refine"] or stated["score_refine"]
        head = tensors.get("class_embed.0.bias" if per_layer else "class_embed.bias")
        if head is None:
            raise WeightsError(f"expected the weights of a DETR in {weights.source}, found no class head of its kind")
        implied["num_classes"] = len(head) - (not stated["sigmoid"])
    return implied | {"masks": any(key.startswith(MASK_PARTS) for key in tensors)}


def _shape_errors(weights: Weights) -> list[str]:
    """The tensors whose shapes differ from those of the model that the metadata describes."""
    if weights.model_args.get("backbone", "").startswith("timm:"):
        return []  # not all timm models can be built on the meta device; `fit_weights` checks their shapes
    try:
        with torch.device("meta"):  # shapes without memory
            model = without_prefix(weights.build_model().state_dict())
    except (ConfigError, TypeError) as problem:
        return [f"settings that make no model ({problem})"]
    tensors = weights.state_dict
    return [
        f"settings by which {key} would be {list(model[key].shape)}, where the weights have {list(tensors[key].shape)}"
        for key in model
        if key in tensors and model[key].shape != tensors[key].shape
    ]


def _from_reference(weights: Weights, args: Any, path: Path) -> Weights:
    """Complete `Weights` of the reference DETR by its shapes, its arguments (if stored) and its published hash."""
    state_dict, assumed = weights.state_dict, dict(weights.assumed)
    model_args = infer_model_args(state_dict)
    if model_args["backbone_norm"] == "frozen":  # some versions of torch stored counters beside frozen statistics
        state_dict = {key: value for key, value in state_dict.items() if not key.endswith(".num_batches_tracked")}
    stored: dict[str, Any] = {}
    if isinstance(args, argparse.Namespace | Mapping):
        arguments = args if isinstance(args, Mapping) else vars(args)
        types = {"dilation": bool, "nheads": int, "dropout": float | int, "aux_loss": bool}
        stored = {name: arguments[name] for name, kind in types.items() if isinstance(arguments.get(name), kind)}
    count = model_args.get("num_classes", 0)
    coco = COCO_PANOPTIC_CATEGORIES if model_args.get("masks") and count == 250 else COCO_CATEGORIES
    known = count == len(coco)
    if "dilation" not in stored and known and (entry := recognize(path)):
        stored |= entry.model_args
    elif known:
        assumed["categories"] = (
            f"the {count} classes of {path} are assumed to be those of COCO{' panoptic' * (count == 250)}"
        )
    if "dilation" not in stored and "backbone" in model_args:
        assumed["dilation"] = (
            f"{path} does not say whether its backbone has dilation (DC5), though its name does; "
            "none is assumed; if that is wrong, add --dilation"
            if "dc5" in path.name.lower()
            else f"{path} does not say whether its backbone has dilation (DC5); none is assumed; "
            "if it has, add --dilation"
        )
    if "nheads" not in stored | model_args and model_args["hidden_dim"] != 256:
        assumed["nheads"] = (
            f"{path} does not say its number of attention heads; 8 is assumed; if that is wrong, state it by --nheads"
        )
    return replace(
        weights,
        state_dict=state_dict,
        model_args=model_args | stored,
        categories=coco if known else Categories.unnamed(count),
        assumed=assumed,
    )
