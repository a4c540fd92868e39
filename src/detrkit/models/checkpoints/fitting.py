"""Load weights into a model that may have other classes, queries or training branches, for fine-tuning."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit.config.fields import StoredAs, fields_stored_as
from detrkit.config.model import SELECTED, ModelConfig
from detrkit.errors import WeightsError
from detrkit.models.checkpoints.architecture import (
    HEADS,
    MASK_PARTS,
    RESNET_BLOCKS,
    Weights,
    infer_model_args,
    is_classic,
    with_defaults,
    without_prefix,
)
from detrkit.models.detection_model import DetectionModel
from detrkit.models.detr import DETR
from detrkit.models.two_stage import SelectedQueries
from detrkit.ops.text import one_line
from detrkit.structures import Categories

if TYPE_CHECKING:
    from rich.table import Table

_CLASS_ROWS = re.compile(
    r"(class_embed(\.\d+)?|query_embed\.enc_class|dense_head\.class_embed|denoising\.label_embed)\.(weight|bias)"
)
"""Tensors with one row per class; softmax heads have one more row, for "no object"."""
_WITHOUT_NO_OBJECT = ("dense_head.", "denoising.")
"""Prefixes of tensors that never have a row for "no object"."""
_QUERY_ROWS = re.compile(r"query_embed\.((query|contents|anchors)\.)?weight")
"""Tensors with one row per query: first the queries of inference, then those of training."""


@dataclass(frozen=True)
class FitRow:
    """The origin of one class of the model after `fit_weights`."""

    name: str
    """Name of the class."""
    kept_from: str | None
    """Class of the checkpoint from which the row of the class head was copied; None: the row is initialized anew."""


@torch.no_grad()
def fit_weights(model: DetectionModel, weights: Weights, categories: Categories) -> list[FitRow]:
    """Load weights into a model in place, matching the rows of its class heads by class name.

    Class rows: names match exactly or, failing that, regardless of case. If the checkpoint has no class names, its rows
    are category ids, as in the reference DETR (facebookresearch/detr), provided that there is a row for every id; else,
    if the number of classes is the same, rows are in the order of the ids. The row of "no object" is kept if both have
    one. Rows without a match keep their initialization. The class loss may be of another kind.

    Learned queries: if the model has fewer, it takes the first of the checkpoint; if it has more, the last keep their
    initialization.

    Parts that one side may lack: those of `Weights.absent`, the mask head, learned positions, and parts for training
    only (denoising, a dense head that selects no queries, further groups of queries). If the checkpoint lacks them,
    they keep their initialization; if the model lacks them, they are left out. All other tensors must fit.

    `fit_notes` and `mask_head_note` give the messages for the user.

    Args:
        model: model of `build_model`, for `len(categories)` classes.
        weights: weights as `load_weights` returns them.
        categories: the classes of the model.

    Returns:
        One row per class, in the order of `categories`; none if the checkpoint has no class head.

    Raises:
        WeightsError: keys, shapes or settings differ; the message names the first keys and the likely setting.
    """
    if model.num_classes != len(categories):
        raise ValueError(f"expected a model for {len(categories)} classes, found {model.num_classes}")
    if not isinstance(model, DETR):
        return _fit_transformers(model, weights, categories)
    if weights.of_transformers:
        raise WeightsError(
            f"expected weights of detrkit's own architectures, found a model of transformers in {weights.source}; "
            f"detrkit train --weights {weights.source} trains it"
        )
    own, loaded = without_prefix(model.state_dict()), dict(weights.state_dict)
    sources = _match(weights.categories, categories)
    for key in own.keys() & loaded.keys():
        if _CLASS_ROWS.fullmatch(key):
            loaded[key] = _class_rows(key, own[key], model, weights, sources)
        elif _QUERY_ROWS.fullmatch(key):
            loaded[key] = _query_rows(own[key], loaded[key], model.num_queries, _num_queries(weights))
    loaded = _without_training_parts(own, loaded, weights)
    own, loaded = _without_new_parts(model, own, weights), _without_new_parts(model, loaded, weights)
    _check_fit(model, own, loaded, weights)
    # the keys still missing are batch-norm counters and parts for training only, see _check_fit
    model.load_state_dict({key: value for key, value in loaded.items() if key in own}, strict=False)
    return [] if "class_embed" in weights.absent else _fit_rows(weights, categories, sources)


def _fit_rows(weights: Weights, categories: Categories, sources: Sequence[int | None]) -> list[FitRow]:
    return [
        FitRow(name, None if source is None else weights.categories.names[source])
        for name, source in zip(categories.names, sources, strict=True)
    ]


def _fit_transformers(model: DetectionModel, weights: Weights, categories: Categories) -> list[FitRow]:
    """See `fit_weights`, for a model of transformers."""
    from detrkit.models.hf.adapter import TransformersDETR
    from detrkit.models.hf.fit_classes import fit_transformers

    assert isinstance(model, TransformersDETR)
    sources = _match(weights.categories, categories)
    fit_transformers(model, weights, sources)
    return _fit_rows(weights, categories, sources)


def fit_notes(model: DetectionModel, weights: Weights) -> list[str]:
    """Sentences for the user on the parts that `fit_weights` initializes anew or leaves out.

    Classes are in the rows that `fit_weights` returns, mask heads in `mask_head_note`.
    """
    if not isinstance(model, DETR):
        return []
    source, notes = weights.source, []
    if "class_embed" in weights.absent:
        notes.append(f"{source} has no class head; a new one is trained, with {model.num_classes} classes")
    if "bbox_embed" in weights.absent:
        notes.append(f"{source} has no box head; a new one is trained")
    stored, needed = _num_queries(weights), model.num_queries
    if "query_embed" in weights.absent:
        notes.append(f"{source} has no queries; {needed} new ones are trained")
    elif stored != needed and any(_QUERY_ROWS.fullmatch(key) for key in weights.state_dict):
        change = (
            f"the first {needed} are used" if needed < stored else f"all are kept, and {needed - stored} new ones added"
        )
        notes.append(
            f"{source} has {stored} queries, the model {needed}: {change}; --num_queries {stored} keeps those of the "
            "file"
        )
    if _has_new_position(model, weights):
        notes.append(
            f"{source} was trained with sine positions; learned positions start from random numbers, so the "
            "transformer must learn much of its knowledge again; leave out --position_embedding learned to keep the "
            "sine positions"
        )
    return notes


def with_new_heads(weights: Weights, categories: Categories) -> Weights:
    """Complete weights that lack some of `HEADS`, to run them untrained, with a note that results mean nothing.

    Args:
        weights: weights with `absent` parts, which `fit_weights` leaves at their initialization.
        categories: classes of a new class head; not used if the weights have a class head.
    """
    if "class_embed" not in weights.absent:
        categories = weights.categories
    names = " and ".join(HEADS[part] for part in weights.absent)
    note = f"{weights.source} has no {names}; with random ones, results mean nothing before training"
    return replace(
        weights,
        model_args=weights.model_args | {"num_classes": len(categories)},
        categories=categories,
        notes=(*weights.notes, note),
    )


def mask_head_note(model: DetectionModel, weights: Weights) -> str:
    """A sentence for the user if only one of model and weights has a mask head, else empty."""
    needed, stored = model.makes_masks, any(key.startswith(MASK_PARTS) for key in weights.state_dict)
    if needed and not stored:
        return f"{weights.source} is a detector without masks; a new mask head is trained"
    if stored and not needed:
        return f"{weights.source} has a mask head, which is left out"
    return ""


def fit_table(rows: Sequence[FitRow], source: str, limit: int = 20, *, no_object: bool = True) -> Table:
    """Format the origin of the class rows as a rich table.

    Args:
        rows: rows that `fit_weights` returned.
        source: path or name of the checkpoint.
        limit: largest number of classes to list; the others are counted.
        no_object: whether the class head has a row for "no object", which is always kept.
    """
    from rich.table import Table

    kept = sum(row.kept_from is not None for row in rows)
    table = Table(title=f"classes from {source}: {kept} of {len(rows)} kept", title_justify="left")
    table.add_column("class", overflow="fold")
    table.add_column("row of the class head", overflow="fold")
    for row in rows[:limit]:
        kept_from = "new" if row.kept_from is None else f"kept from {one_line(row.kept_from)}"
        table.add_row(one_line(row.name), kept_from)
    if len(rows) > limit:
        table.add_row(f"... and {len(rows) - limit} more", f"{sum(r.kept_from is not None for r in rows[limit:])} kept")
    if no_object:
        table.add_row("(no object)", "kept")
    return table


_POSITION = "backbone.1."
"""Prefix of the keys of learned positions; sine positions have no parameters."""


def _has_new_position(model: DETR, weights: Weights) -> bool:
    """Whether the model has learned positions and the checkpoint has none."""
    needed, stored = (
        any(key.startswith(_POSITION) for key in without_prefix(keys))
        for keys in (model.state_dict(), weights.state_dict)
    )
    return needed and not stored


def _without_new_parts(model: DETR, state_dict: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Remove the parts that only one of model and checkpoint has, except those for training only, from a state dict."""
    prefixes = [f"{part}." for part in weights.absent]
    if mask_head_note(model, weights):
        prefixes += MASK_PARTS
    if _has_new_position(model, weights):
        prefixes.append(_POSITION)
    no_rows = "class_embed" in weights.absent
    return {
        key: value
        for key, value in state_dict.items()
        if not key.startswith(tuple(prefixes)) and not (no_rows and _CLASS_ROWS.fullmatch(key))
    }


def _match(theirs: Categories, ours: Categories) -> list[int | None]:
    """For each class of the model the index of the matching class of the checkpoint, used at most once, or None."""
    if theirs == Categories.unnamed(len(theirs)):
        return rows_without_names(len(theirs), ours.ids)
    if theirs.names == ours.names:
        return list(range(len(ours)))
    sources: list[int | None] = [None] * len(ours)
    for normalize in (str, str.casefold):
        unused = {normalize(name): k for k, name in reversed(list(enumerate(theirs.names))) if k not in sources}
        for k, name in enumerate(ours.names):
            if sources[k] is None:
                sources[k] = unused.pop(normalize(name), None)
    return sources


def rows_without_names(count: int, ids: Sequence[int]) -> list[int | None]:
    """For each category id its row in a class head without class names, or None.

    If there is a row for every id, rows are ids, as in the reference DETR. Otherwise, if there are as many rows as ids,
    rows are in the order of the ids: a head of the reference would have needed more rows.

    Args:
        count: number of classes of the head.
        ids: unique category ids, in any order.
    """
    if all(0 <= i < count for i in ids):
        return [*ids]
    return [sorted(ids).index(i) for i in ids] if count == len(ids) else [None] * len(ids)


def _class_rows(key: str, own: Tensor, model: DETR, weights: Weights, sources: Sequence[int | None]) -> Tensor:
    """The rows of a class tensor of the model, copied from the checkpoint where a class matches.

    A softmax with "no object" and independent sigmoids are converted into each other by logit differences: the sigmoid
    logit of a class is its softmax logit minus that of "no object". This keeps the probability of a class against "no
    object" alone.
    """
    loaded = weights.state_dict[key]
    needs_no_object, has_no_object = not model.sigmoid, not weights.model_args.get("sigmoid", False)
    if key.startswith(_WITHOUT_NO_OBJECT):
        needs_no_object = has_no_object = False
    if own.shape[1:] != loaded.shape[1:] or len(loaded) != len(weights.categories) + has_no_object:
        return loaded  # _check_fit reports the shape
    if has_no_object and not needs_no_object:
        loaded = loaded[:-1] - loaded[-1:]
    if needs_no_object and not has_no_object:
        loaded = torch.cat([loaded, torch.zeros_like(loaded[:1])])
    if key.startswith("query_embed."):
        sources = _encoder_sources(model, weights, sources)
    rows = own.clone()
    for row, source in enumerate(sources):
        if source is not None:
            rows[row] = loaded[source]
    if needs_no_object:
        rows[-1] = loaded[-1]
    return rows


def _encoder_sources(model: DETR, weights: Weights, sources: Sequence[int | None]) -> Sequence[int | None]:
    """The source row per class in the encoder's class head. A class-agnostic head scores tokens by its first row."""
    assert isinstance(model.query_embed, SelectedQueries)
    class_agnostic = model.query_embed.class_agnostic
    if not weights.model_args.get("class_agnostic", False):
        return [None] * len(sources) if class_agnostic else sources
    if class_agnostic and len(weights.categories) == len(sources):
        return range(len(sources))
    return [0] * len(sources)


def _num_queries(weights: Weights) -> int:
    """The number of queries of a checkpoint in inference."""
    return int(with_defaults(weights.model_args)["num_queries"])


def _query_rows(own: Tensor, loaded: Tensor, num_queries: int, num_loaded: int) -> Tensor:
    """The rows of a query tensor [N, C], copied from the checkpoint as far as both have queries of inference.

    Training queries behind them are copied only if both sides have the same numbers of queries.
    """
    if own.shape[1:] != loaded.shape[1:] or (own.shape == loaded.shape and num_queries == num_loaded):
        return loaded
    kept = min(num_queries, num_loaded)
    return torch.cat([loaded[:kept], own[kept:]])


def _without_training_parts(
    own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], weights: Weights
) -> dict[str, Tensor]:
    """Remove the tensors for training only that do not fit the model from a checkpoint's tensors."""
    return {
        key: value
        for key, value in loaded.items()
        if not _is_training_only(key, weights) or (key in own and own[key].shape == value.shape)
    }


def _is_training_only(key: str, owner: DETR | Weights) -> bool:
    """Whether a tensor of a model or of a checkpoint is not used in inference."""
    if isinstance(owner, DETR):
        dense_selects = owner.dense_selects_queries
    else:
        args = owner.model_args
        dense_selects = args.get("two_stage_head") == "dense" and args.get("query_init") in SELECTED
    return key.startswith("denoising.") or (key.startswith("dense_head.") and not dense_selects)


def _check_fit(model: DETR, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], weights: Weights) -> None:
    """Check that all keys, shapes and settings that cannot be initialized anew or left out agree.

    Raises:
        WeightsError: they differ.
    """
    counters = {key for key in own.keys() ^ loaded.keys() if key.endswith(".num_batches_tracked")}
    missing = [key for key in own.keys() - loaded.keys() - counters if not _is_training_only(key, model)]
    unexpected = [key for key in loaded if key not in own and key not in counters]
    shapes = [
        f"{key} {list(loaded[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in loaded and loaded[key].shape != own[key].shape
    ]
    problems = [f"{key} is missing" for key in missing] + [f"{key} is unexpected" for key in unexpected] + shapes
    settings = _other_settings(model, own, weights, bool(problems))
    if not problems and not settings:
        return
    first = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    raise WeightsError(
        f"{weights.source} does not fit the model{f' ({first})' if first else ''}; "
        + (f"it was likely trained with {' '.join(settings)}" if settings else "no setting is known to fix it")
    )


_ARCHITECTURE = fields_stored_as(ModelConfig, StoredAs.ARCHITECTURE)
_SHAPE = fields_stored_as(ModelConfig, StoredAs.SHAPE)


def _other_settings(model: DETR, own: Mapping[str, Tensor], weights: Weights, differ: bool) -> list[str]:
    """The flags that would give the model of the checkpoint, as far as its settings are known."""
    ours, theirs = model.model_args, with_defaults(weights.model_args)
    if is_classic(weights.state_dict):
        unknown = {"backbone", "dilation", *_ARCHITECTURE} - weights.model_args.keys()
        theirs = {name: value for name, value in theirs.items() if name not in unknown}
        theirs |= infer_model_args(weights.state_dict) | dict(weights.model_args)
    names = {*_ARCHITECTURE, *(_SHAPE if differ else ())}
    if "backbone" not in theirs and differ:
        theirs["backbone"] = "another backbone"
    if any(key not in own for key in weights.state_dict if key.startswith("backbone.0.") and "num_batches" not in key):
        names.add("backbone")
    if theirs.get("backbone") in RESNET_BLOCKS and theirs["backbone"] == ours.get("backbone"):
        names.add("dilation")
    # the statistics of batch norms fit frozen ones; group norms have none
    if "group" in (ours.get("backbone_norm"), theirs.get("backbone_norm")):
        names.add("backbone_norm")
    differing = sorted(name for name in names if name in ours and name in theirs and ours[name] != theirs[name])
    return [_flag(name, theirs[name]) for name in differing]


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--{name} false"
    return f"--{name} {shlex.quote(str(value))}"
