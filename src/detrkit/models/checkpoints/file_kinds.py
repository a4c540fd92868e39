"""Every form in which DETR weights come, read into one: `Weights`.

run folder                  best.ckpt, else last.ckpt
checkpoint of detrkit       a dictionary with "model" and "detrkit"
checkpoint of the original  a bare state dict, {"model": ...}, or that with optimiser, scheduler and arguments; or in
                            one of PyTorch Lightning, under "state_dict" and a prefix
Hugging Face folder         config.json with model.safetensors or pytorch_model.bin
published name              detr_resnet50, ...; fetched once
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
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
from detrkit.models.checkpoints.huggingface import is_huggingface_folder, read_huggingface
from detrkit.models.checkpoints.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES, PUBLISHED, fetch, recognise
from detrkit.models.checkpoints.safe import check_content, read_checkpoint
from detrkit.structures import Categories, Preprocessing

VERSION = 1
"""Version of the "detrkit" entry of a checkpoint."""


def load_weights(
    source: str | Path, *, dilation: bool | None = None, nheads: int | None = None, headless: bool = False
) -> Weights:
    """Read weights of any known format; nothing in the file is run.

    Args:
        source: a run folder, a checkpoint of detrkit or of the original, a Hugging Face folder or a published name.
        dilation: whether the backbone is dilated (DC5), for a file that does not say.
        nheads: attention heads, likewise.
        headless: also take a file that lacks some of `HEADS`, which the caller lets start anew; see `Weights.absent`.

    Raises:
        WeightsError: nothing is there, it cannot be read, trusted or understood, it says otherwise, or it lacks a head.
    """
    weights = _read(source)
    if weights.absent and not headless:
        raise WeightsError(_why_headless(weights))
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
    notes = tuple(note for note in weights.notes if not note.endswith(tuple(f"--{name}" for name in told)))
    return replace(weights, model_args=weights.model_args | told, notes=notes)


def _why_headless(weights: Weights) -> str:
    """Why weights without some of their heads are of no use before they are trained, and what to do."""
    part = weights.absent[0]
    keys = " and ".join(f"{part}.{leaf}" for leaf in ("weight", "bias")) if part == "class_embed" else f"{part}.*"
    lacks = "so there are no classes to name" if part == "class_embed" else "so there is nothing to detect with"
    return (
        f"{weights.source} has no {HEADS[part]} ({keys}), {lacks}; training starts a new one: detrkit train --weights "
        f"{weights.source} --data DATA, or detrkit detr --resume {weights.source} --coco_path DATA"
    )


def _read(source: str | Path) -> Weights:
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors" and path.is_file():
        check_content(path)
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
        preprocessing=Preprocessing(entry.image_size),
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
    weights = read_content(content, path)
    if "detrkit" not in content and "backbone" not in weights.model_args:
        raise WeightsError(
            f"expected a backbone among the ResNets of torchvision in {path}, found other keys under backbone.0.body"
        )
    return weights


def read_content(content: Mapping[str, Any], path: Path) -> Weights:
    """What `load_weights` makes of a file, but without some of `HEADS` too, and with a backbone that nothing names.

    Args:
        content: of `read_checkpoint`.
        path: of the file.

    Raises:
        WeightsError: it holds no weights of a detector, or garbled ones.
    """
    state_dict, notes = _state_dict(content, path)
    if "detrkit" in content:
        check_tensors(state_dict, str(path))
        return _ours(_without_heads(state_dict, path, notes), content["detrkit"])
    lightning = "pytorch-lightning_version" in content
    check_keys(state_dict, f"the checkpoint of PyTorch Lightning {path}" if lightning else str(path))
    return _of_the_original(_without_heads(state_dict, path, notes), content.get("args"), path)


_PLACES = ("model", "state_dict", "model_state_dict")
"""Where checkpoints keep their state dict: the original, PyTorch Lightning, many others."""
_KNOWN_KEY = "transformer.decoder.norm.weight"
"""A key by whose end the prefix of a state dict is told."""


def _state_dict(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, without the prefixes that data-parallel training, compiling and the modules of
    others leave, and that masks bring; and what to tell of it."""
    found = next((content[name] for name in _PLACES if content.get(name)), content)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        keys = ", ".join(map(str, list(found)[:6])) if isinstance(found, Mapping) else type(found).__name__
        raise WeightsError(f'expected a state dict, bare or under "model", in {path}, found: {keys}')
    tensors = {str(key).removeprefix("module."): value for key, value in found.items()}
    whole = min((key for key in tensors if key.endswith(_KNOWN_KEY)), key=len, default=_KNOWN_KEY)
    prefix = whole.removesuffix(_KNOWN_KEY).removesuffix("detr.")
    kept = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    others = [key for key in tensors if not key.startswith(prefix)]
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    notes = [
        f"{path} holds a detector under {prefix!r}, and other things, which are left out: {', '.join(others[:3])}{more}"
    ]
    return without_prefix(kept), notes if others else []


def _without_heads(state_dict: dict[str, Tensor], path: Path, notes: Sequence[str]) -> Weights:
    """The tensors as `Weights` that know which of `HEADS` they lack, and nothing else yet.

    Where a part of one is missing, the rest of it is left out, and told of.
    """
    missing = missing_heads(state_dict)
    rests = {part: [key for key in state_dict if key.startswith(f"{part}.")] for part in missing}
    told = [
        f"{path} has {rest[0]} without {missing[part][0]}, so neither is used" for part, rest in rests.items() if rest
    ]
    return Weights(
        without_parts(state_dict, missing),
        {},
        Categories((), ()),
        Preprocessing(),
        source=str(path),
        notes=(*notes, *told),
        absent=tuple(missing),
    )


def _ours(weights: Weights, header: Any) -> Weights:
    """A checkpoint of detrkit, which says all of itself."""
    path = weights.source
    try:
        if header["version"] > VERSION:
            raise WeightsError(
                f"{path} was written by a newer detrkit (format {header['version']}, this one reads {VERSION}); upgrade"
            )
        # what the backbone once started from is no part of the model, and would be fetched again
        gone = {"backbone_weights", *(_COUNTS[part] for part in weights.absent if part in _COUNTS)}
        weights = replace(
            weights,
            model_args={name: value for name, value in dict(header["model_args"]).items() if name not in gone},
            categories=Categories.from_plain([] if "class_embed" in weights.absent else header["categories"]),
            preprocessing=Preprocessing.from_plain(header["preprocessing"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as problem:
        raise WeightsError(
            f'the entry "detrkit" of {path} lacks or garbles {problem}; save the checkpoint again'
        ) from problem
    _check_header(weights)
    return weights


_COUNTS = {"class_embed": "num_classes", "query_embed": "num_queries"}
"""The keywords of `build_model` that `HEADS` tell."""


def _check_header(weights: Weights) -> None:
    """Make sure that what a checkpoint says of itself is true of its tensors."""
    told = weights.model_args
    wrong = [f"the unknown setting {name!r}" for name in told if name not in default_model_args()]
    if not wrong:
        seen = _seen(weights)
        wrong = [
            f"{name} {told[name]!r} where the weights have {value!r}"
            for name, value in seen.items()
            if told.get(name, value) != value
        ]
        if len(weights.categories) != seen.get("num_classes", 0):
            wrong.append(f"{len(weights.categories)} categories where the weights have {seen.get('num_classes', 0)}")
    if not wrong and not is_classic(weights.state_dict):
        wrong = _other_shapes(weights)
    if wrong:
        raise WeightsError(f'the entry "detrkit" of {weights.source} holds {wrong[0]}; save the checkpoint again')


def _seen(weights: Weights) -> dict[str, Any]:
    """Settings that the tensors tell by themselves."""
    tensors, told = weights.state_dict, with_defaults(weights.model_args)
    seen = count_layers(tensors)
    if is_classic(tensors):
        inferred = infer_model_args(tensors)
        names = ["hidden_dim", "dim_feedforward"]
        if told["query_groups"] == 1 and told["num_queries_one2many"] == 0 and "num_queries" in inferred:
            names.append("num_queries")
        seen |= {name: inferred[name] for name in names}
    if not any(key.startswith("transformer.decoder.") for key in tensors):
        check_keys(tensors, weights.source)
    if "class_embed" not in weights.absent:
        head = tensors.get("class_embed.0.bias" if told["box_refine"] or told["score_refine"] else "class_embed.bias")
        if head is None:
            raise WeightsError(f"expected the weights of a DETR in {weights.source}, found no class head of its kind")
        seen["num_classes"] = len(head) - (not told["sigmoid"])
    return seen | {"masks": any(key.startswith(MASK_PARTS) for key in tensors)}


def _other_shapes(weights: Weights) -> list[str]:
    """Tensors that the settings of a checkpoint make otherwise than it has them. The model is built without memory."""
    if weights.model_args.get("backbone", "").startswith("timm:"):
        return []  # not all of timm's models can be built so; `fit_weights` will tell
    try:
        with torch.device("meta"):
            made = without_prefix(weights.build_model().state_dict())
    except (ConfigError, TypeError) as problem:
        return [f"settings that make no model ({problem})"]
    found = weights.state_dict
    return [
        f"settings by which {key} would be {list(made[key].shape)}, where the weights have {list(found[key].shape)}"
        for key in made
        if key in found and made[key].shape != found[key].shape
    ]


def _of_the_original(weights: Weights, args: Any, path: Path) -> Weights:
    """A checkpoint of the original: shapes tell most, its arguments (where it has them) some, its hash the rest."""
    state_dict, notes = weights.state_dict, [*weights.notes]
    model_args = infer_model_args(state_dict)
    if model_args["backbone_norm"] == "frozen":  # counters that some versions of torch left beside frozen statistics
        state_dict = {key: value for key, value in state_dict.items() if not key.endswith(".num_batches_tracked")}
    told: dict[str, Any] = {}
    if isinstance(args, argparse.Namespace | Mapping):
        given = args if isinstance(args, Mapping) else vars(args)
        kinds = {"dilation": bool, "nheads": int, "dropout": float | int, "aux_loss": bool}
        told = {name: given[name] for name, kind in kinds.items() if isinstance(given.get(name), kind)}
    count = model_args.get("num_classes", 0)
    coco = COCO_PANOPTIC_CATEGORIES if model_args.get("masks") and count == 250 else COCO_CATEGORIES
    known = count == len(coco)
    if "dilation" not in told and known and (entry := recognise(path)):
        told |= entry.model_args
    elif known:
        notes.append(f"the {count} classes of {path} are taken to be those of COCO{' panoptic' * (count == 250)}")
    if "dilation" not in told and "backbone" in model_args:
        notes.append(
            f"{path} does not say whether its backbone has dilation (DC5), though its name does; "
            "it is taken to have none; if that is wrong, add --dilation"
            if "dc5" in path.name.lower()
            else f"{path} does not say whether its backbone has dilation (DC5); it is taken to have none; "
            "if it has, add --dilation"
        )
    if "nheads" not in told | model_args and model_args["hidden_dim"] != 256:
        notes.append(
            f"{path} does not say its number of attention heads; it is taken to be 8; if it is not, say --nheads"
        )
    return replace(
        weights,
        state_dict=state_dict,
        model_args=model_args | told,
        categories=coco if known else Categories.unnamed(count),
        notes=tuple(notes),
    )
