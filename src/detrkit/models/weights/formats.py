"""Every form in which DETR weights come, read into one: `Weights`.

run folder                  best.ckpt, else last.ckpt
checkpoint of detrkit       a dictionary with "model" and "detrkit"
checkpoint of the original  a bare state dict, {"model": ...}, or that with optimiser, scheduler and arguments
Hugging Face folder         config.json with model.safetensors or pytorch_model.bin
published name              detr_resnet50, ...; fetched once
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, DataError, WeightsError
from detrkit.models.build import build_model
from detrkit.models.weights.architecture import (
    MASK_PARTS,
    Weights,
    check_keys,
    check_tensors,
    count_layers,
    infer_model_args,
    is_classic,
    with_defaults,
    without_prefix,
)
from detrkit.models.weights.huggingface import is_huggingface_folder, read_huggingface
from detrkit.models.weights.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES, PUBLISHED, fetch, recognise
from detrkit.models.weights.safe import read_checkpoint
from detrkit.structures import Categories
from detrkit.value_range import ValueRange

VERSION = 1
"""Version of the "detrkit" entry of a checkpoint."""


def load_weights(source: str | Path, *, dilation: bool | None = None, nheads: int | None = None) -> Weights:
    """Read weights of any known format; nothing in the file is run.

    Args:
        source: a run folder, a checkpoint of detrkit or of the original, a Hugging Face folder or a published name.
        dilation: whether the backbone is dilated (DC5), for a file that does not say.
        nheads: attention heads, likewise.

    Raises:
        WeightsError: nothing is there, it cannot be read, trusted or understood, or it says otherwise.
    """
    weights = _read(source)
    told = {name: value for name, value in (("dilation", dilation), ("nheads", nheads)) if value is not None}
    for name, value in told.items():
        known = weights.model_args.get(name, value)
        if known != value:
            raise WeightsError(
                f"{weights.source} was trained with {name} {str(known).lower()}, found --{name} {str(value).lower()}; "
                "leave that out or choose other weights"
            )
    width = weights.model_args.get("hidden_dim", 256)
    if nheads is not None and width % nheads:
        raise WeightsError(
            f"{weights.source} has hidden_dim {width}, which {nheads} heads do not divide; look at --nheads"
        )
    notes = tuple(note for note in weights.notes if not any(name in note for name in told))
    return replace(weights, model_args=weights.model_args | told, notes=notes)


def _read(source: str | Path) -> Weights:
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_folder(path.parent)
    if path.is_file():
        return _read_file(path)
    entry = PUBLISHED.get(str(source))
    if entry is None:
        close = get_close_matches(str(source), PUBLISHED, n=1)
        raise WeightsError(
            f"expected weights at {source}, found no such file or folder, and it is no published name"
            + (f"; did you mean {close[0]}?" if close else f" ({', '.join(PUBLISHED)})")
        )
    weights = _read_file(fetch(entry))
    return replace(
        weights,
        model_args=weights.model_args | entry.model_args,
        categories=entry.categories,
        image_size=entry.image_size,
        source=entry.name,
        notes=(),
    )


def _read_folder(folder: Path) -> Weights:
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return _read_file(folder / name)
    if is_huggingface_folder(folder):
        return read_huggingface(folder)
    raise WeightsError(
        f"expected a run folder (best.ckpt or last.ckpt) or a Hugging Face folder (config.json) at {folder}, "
        "found neither"
    )


def _read_file(path: Path) -> Weights:
    content = read_checkpoint(path)
    state_dict = _state_dict(content.get("model", content), path)
    if "detrkit" in content:
        check_tensors(state_dict, str(path))
        return _ours(state_dict, content["detrkit"], path)
    check_keys(state_dict, str(path))
    return _of_the_original(state_dict, content.get("args"), path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefixes that data-parallel training leaves and masks bring."""
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        keys = ", ".join(map(str, list(found)[:6])) if isinstance(found, Mapping) else type(found).__name__
        raise WeightsError(f'expected a state dict, bare or under "model", in {path}, found: {keys}')
    return without_prefix({str(key).removeprefix("module."): value for key, value in found.items()})


def _ours(state_dict: dict[str, Tensor], header: Any, path: Path) -> Weights:
    """A checkpoint of detrkit, which says all of itself."""
    try:
        if header["version"] > VERSION:
            raise WeightsError(
                f"{path} was written by a newer detrkit (format {header['version']}, this one reads {VERSION}); upgrade"
            )
        weights = Weights(
            state_dict,
            # what the backbone once started from is no part of the model, and would be fetched again
            {name: value for name, value in dict(header["model_args"]).items() if name != "backbone_weights"},
            Categories.from_plain(header["categories"]),
            int(header["image_size"]),
            str(path),
            value_range=ValueRange.from_plain(header.get("value_range")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as problem:
        raise WeightsError(
            f'the entry "detrkit" of {path} lacks or garbles {problem}; save the checkpoint again'
        ) from problem
    _check_header(weights)
    return weights


def _check_header(weights: Weights) -> None:
    """Make sure that what a checkpoint says of itself is true of its tensors."""
    told = weights.model_args
    wrong = [f"the unknown setting {name!r}" for name in told if name not in signature(build_model).parameters]
    if not wrong:
        seen = _seen(weights)
        wrong = [
            f"{name} {told[name]!r} where the weights have {value!r}"
            for name, value in seen.items()
            if told.get(name, value) != value
        ]
        if len(weights.categories) != seen["num_classes"]:
            wrong.append(f"{len(weights.categories)} categories where the weights have {seen['num_classes']}")
    if weights.image_size < 1:
        wrong.append(f"an image_size of {weights.image_size}")
    if not wrong and not is_classic(weights.state_dict):
        wrong = _other_shapes(weights)
    if wrong:
        raise WeightsError(f'the entry "detrkit" of {weights.source} holds {wrong[0]}; save the checkpoint again')


def _seen(weights: Weights) -> dict[str, Any]:
    """Settings that the tensors tell by themselves."""
    tensors, told = weights.state_dict, with_defaults(weights.model_args)
    head = tensors.get("class_embed.0.bias" if told["box_refine"] or told["score_refine"] else "class_embed.bias")
    if head is None:
        check_keys(tensors, weights.source)
        raise WeightsError(f"expected the weights of a DETR in {weights.source}, found no class head of its settings")
    seen = count_layers(tensors)
    if is_classic(tensors):
        inferred = infer_model_args(tensors)
        names = ["hidden_dim", "dim_feedforward"]
        if told["query_groups"] == 1 and told["hybrid_queries"] == 0:
            names.append("num_queries")
        seen |= {name: inferred[name] for name in names}
    masks = any(key.startswith(MASK_PARTS) for key in tensors)
    return seen | {"num_classes": len(head) - (not told["sigmoid"]), "masks": masks}


def _other_shapes(weights: Weights) -> list[str]:
    """Tensors that the settings of a checkpoint make otherwise than it has them. The model is built without memory."""
    if weights.model_args.get("backbone", "").startswith("timm:"):
        return []  # not all of timm's models can be built so; `fit_weights` will tell
    try:
        with torch.device("meta"):
            made = without_prefix(build_model(**weights.model_args).state_dict())
    except (ConfigError, TypeError) as problem:
        return [f"settings that make no model ({problem})"]
    found = weights.state_dict
    return [
        f"settings by which {key} would be {list(made[key].shape)}, where the weights have {list(found[key].shape)}"
        for key in made
        if key in found and made[key].shape != found[key].shape
    ]


def _of_the_original(state_dict: dict[str, Tensor], args: Any, path: Path) -> Weights:
    """A checkpoint of the original: shapes tell most, its arguments (where it has them) some, its hash the rest."""
    model_args = infer_model_args(state_dict)
    if "backbone" not in model_args:
        raise WeightsError(
            f"expected a backbone among the ResNets of torchvision in {path}, found other keys under backbone.0.body"
        )
    if model_args["backbone_norm"] == "frozen":  # counters that some versions of torch left beside frozen statistics
        state_dict = {key: value for key, value in state_dict.items() if not key.endswith(".num_batches_tracked")}
    told: dict[str, Any] = {}
    if isinstance(args, argparse.Namespace | Mapping):
        given = args if isinstance(args, Mapping) else vars(args)
        kinds = {"dilation": bool, "nheads": int, "dropout": float | int, "aux_loss": bool}
        told = {name: given[name] for name, kind in kinds.items() if isinstance(given.get(name), kind)}
    count = model_args["num_classes"]
    coco = COCO_PANOPTIC_CATEGORIES if model_args.get("masks") and count == 250 else COCO_CATEGORIES
    known = count == len(coco)
    notes = []
    if "dilation" not in told and known and (entry := recognise(path)):
        told |= entry.model_args
    elif known:
        notes.append(f"the {count} classes of {path} are taken to be those of COCO{' panoptic' * (count == 250)}")
    if "dilation" not in told:
        notes.append(
            f"{path} does not say whether its backbone has dilation (DC5); it is taken to have none; "
            "if it has, say so: --dilation true"
        )
    if "nheads" not in told | model_args and model_args["hidden_dim"] != 256:
        notes.append(f"{path} does not say its number of attention heads; it is taken to be 8, else say --nheads")
    return Weights(
        state_dict,
        model_args | told,
        coco if known else Categories.unnamed(count),
        800,
        str(path),
        tuple(notes),
    )
