"""Putting weights into a model that may have other classes: fine-tuning starts here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit.config.fields import Travels, fields_that_travel
from detrkit.config.model import ModelConfig
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
from detrkit.models.detr import DETR
from detrkit.models.two_stage import SelectedQueries
from detrkit.ops.text import one_line
from detrkit.structures import Categories

if TYPE_CHECKING:
    from rich.table import Table

_CLASS_ROWS = re.compile(
    r"(class_embed(\.\d+)?|query_embed\.enc_class|dense_head\.class_embed|denoising\.label_embed)\.(weight|bias)"
)
"""Tensors that have a row for each class; the heads of a softmax have one more, for "no object"."""
_WITHOUT_NO_OBJECT = ("dense_head.", "denoising.")
_QUERY_ROWS = re.compile(r"query_embed\.((query|contents|anchors)\.)?weight")
"""Tensors that have a row for each query: first those of inference, then those of training."""


@dataclass(frozen=True)
class FitRow:
    """What became of one class of the model."""

    name: str
    """The class."""
    kept_from: str | None
    """The class of the checkpoint whose row of the class head it took over; None: it starts anew."""


@torch.no_grad()
def fit_weights(model: DETR, weights: Weights, categories: Categories) -> list[FitRow]:
    """Load weights into a model, in place, taking the rows of its class heads over by class name.

    Names match exactly or, failing that, but for upper and lower case. Where the checkpoint has no names, its rows
    are category ids, as in the original, provided that it has a row for every id; else, if it has as many classes, it
    has them in the order of the ids. The row of "no object", where both have one, is always kept. Rows without a match
    keep what the model was initialised with.

    Learned queries may be fewer than in the checkpoint, which are then its first, or more, of which the last start
    anew. So do parts that the checkpoint lacks: those of `Weights.absent`, learned positions, and parts for training
    (denoising, a dense head that seeds nothing, further groups of queries); and what the checkpoint has of such parts
    beyond is left out. So with the mask head, which one of the two may lack; see `mask_head_note`. It may have another
    kind of class loss. Everything else must fit. What to tell the user of all this is in `fit_notes`.

    Args:
        model: of `build_model`, for `len(categories)` classes.
        weights: from `load_weights`.
        categories: the classes of the model.

    Returns:
        One row per class, in the order of `categories`; none where the checkpoint has no class head.

    Raises:
        WeightsError: keys, shapes or settings differ; the sentence names the first keys and the likely setting.
    """
    if model.num_classes != len(categories):
        raise ValueError(f"expected a model for {len(categories)} classes, found {model.num_classes}")
    own, given = without_prefix(model.state_dict()), dict(weights.state_dict)
    sources = _match(weights.categories, categories)
    for key in own.keys() & given.keys():
        if _CLASS_ROWS.fullmatch(key):
            given[key] = _class_rows(key, own[key], model, weights, sources)
        elif _QUERY_ROWS.fullmatch(key):
            given[key] = _query_rows(own[key], given[key], model.num_queries, _queries_of(weights))
    given = _without_training_parts(model, own, given, weights)
    own, given = _without_new_parts(model, own, weights), _without_new_parts(model, given, weights)
    _check_fit(model, own, given, weights)
    # what is missing now, but for counters of batch norms, is of training alone; see _check_fit
    model.load_state_dict({key: value for key, value in given.items() if key in own}, strict=False)
    if "class_embed" in weights.absent:
        return []
    return [
        FitRow(name, None if source is None else weights.categories.names[source])
        for name, source in zip(categories.names, sources, strict=True)
    ]


def fit_notes(model: DETR, weights: Weights) -> list[str]:
    """Sentences for the user on what `fit_weights` lets start anew or leaves out; for classes see its rows, for masks
    `mask_head_note`."""
    source, notes = weights.source, []
    if "class_embed" in weights.absent:
        notes.append(f"{source} has no class head; a new one starts, with {model.num_classes} classes")
    if "bbox_embed" in weights.absent:
        notes.append(f"{source} has no box head; a new one starts")
    had, has = _queries_of(weights), model.num_queries
    if "query_embed" in weights.absent:
        notes.append(f"{source} has no queries; {has} new ones start")
    elif had != has and any(_QUERY_ROWS.fullmatch(key) for key in weights.state_dict):
        what = f"the first {has} are taken" if has < had else f"they are kept, and {has - had} more start anew"
        notes.append(f"{source} has {had} queries, the model {has}: {what}; --num_queries {had} is as in the file")
    if _new_position(model, weights):
        notes.append(
            f"{source} was trained with sine positions; learned ones start anew, from random numbers that the "
            "transformer has never seen, so that much of what it knows must be learned again: without "
            "--position_embedding learned it goes on from what it knows"
        )
    return notes


def with_new_heads(weights: Weights, categories: Categories) -> Weights:
    """Weights that lack some of `HEADS`, for a look at what they are without training: the notes say so.

    Args:
        weights: with `absent` parts, which `fit_weights` leaves as they are initialised.
        categories: the classes of a new class head; of no use where the weights have one.
    """
    if "class_embed" not in weights.absent:
        categories = weights.categories
    names = " and ".join(HEADS[part] for part in weights.absent)
    note = f"{weights.source} has no {names}; with new ones, from random numbers, results mean nothing before training"
    return replace(
        weights,
        model_args=weights.model_args | {"num_classes": len(categories)},
        categories=categories,
        notes=(*weights.notes, note),
    )


def mask_head_note(model: DETR, weights: Weights) -> str:
    """A sentence for the user if either lacks a mask head, else empty."""
    has, had = model.mask_head is not None, any(key.startswith(MASK_PARTS) for key in weights.state_dict)
    if has and not had:
        return f"{weights.source} is a detector without masks; the mask head starts anew"
    if had and not has:
        return f"{weights.source} has a mask head, which is left out"
    return ""


def fit_table(rows: Sequence[FitRow], source: str, limit: int = 20, *, no_object: bool = True) -> Table:
    """The rows as a short rich table: what was kept from where and what starts anew, at most `limit` classes.

    `no_object` says that there is a row for it, which is always kept.
    """
    from rich.table import Table

    kept = sum(row.kept_from is not None for row in rows)
    table = Table(title=f"classes from {source}: {kept} of {len(rows)} kept", title_justify="left")
    table.add_column("class", overflow="fold")
    table.add_column("its row of the class head", overflow="fold")
    for row in rows[:limit]:
        kept_from = "new" if row.kept_from is None else f"kept from {one_line(row.kept_from)}"
        table.add_row(one_line(row.name), kept_from)
    if len(rows) > limit:
        table.add_row(f"... and {len(rows) - limit} more", f"{sum(r.kept_from is not None for r in rows[limit:])} kept")
    if no_object:
        table.add_row("(no object)", "kept")
    return table


_POSITION = "backbone.1."
"""What the keys of learned positions begin with; sine ones have none."""


def _new_position(model: DETR, weights: Weights) -> bool:
    """Whether the model learns positions that the checkpoint has not."""
    learns, learned = (
        any(key.startswith(_POSITION) for key in without_prefix(keys))
        for keys in (model.state_dict(), weights.state_dict)
    )
    return learns and not learned


def _without_new_parts(model: DETR, state_dict: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """A state dict of either without the parts that start anew, or are left out, beside those for training."""
    prefixes = [f"{part}." for part in weights.absent]
    if mask_head_note(model, weights):
        prefixes += MASK_PARTS
    if _new_position(model, weights):
        prefixes.append(_POSITION)
    no_rows = "class_embed" in weights.absent
    return {
        key: value
        for key, value in state_dict.items()
        if not key.startswith(tuple(prefixes)) and not (no_rows and _CLASS_ROWS.fullmatch(key))
    }


def _match(theirs: Categories, ours: Categories) -> list[int | None]:
    """For each of our classes the class of the checkpoint that it continues, or None; none is used twice."""
    if theirs == Categories.unnamed(len(theirs)):
        return rows_without_names(len(theirs), ours.ids)
    if theirs.names == ours.names:
        return list(range(len(ours)))
    found: list[int | None] = [None] * len(ours)
    for same in (str, str.casefold):
        left = {same(name): k for k, name in reversed(list(enumerate(theirs.names))) if k not in found}
        for k, name in enumerate(ours.names):
            if found[k] is None:
                found[k] = left.pop(same(name), None)
    return found


def rows_without_names(count: int, ids: Sequence[int]) -> list[int | None]:
    """For each category id the row of a class head of which nobody knows the names, or None.

    Args:
        count: its classes. If it has a row for each of the ids, rows are ids, as in the original. If not, but as many
            rows as there are ids, it can only have them in the order of the ids: the original would have had no room
            for the last.
        ids: unique category ids, in any order.
    """
    if all(0 <= i < count for i in ids):
        return [*ids]
    return [sorted(ids).index(i) for i in ids] if count == len(ids) else [None] * len(ids)


def _class_rows(key: str, own: Tensor, model: DETR, weights: Weights, sources: Sequence[int | None]) -> Tensor:
    """A tensor that has a row for each class, filled from that of the checkpoint.

    Against a softmax, the yes or no of a class is the difference of its logit to that of "no object": so a class is as
    probable as before where no other is, whichever of the two losses either side has.
    """
    given = weights.state_dict[key]
    has_nothing, had_nothing = not model.sigmoid, not weights.model_args.get("sigmoid", False)
    if key.startswith(_WITHOUT_NO_OBJECT):
        has_nothing = had_nothing = False
    if own.shape[1:] != given.shape[1:] or len(given) != len(weights.categories) + had_nothing:
        return given  # which will not fit
    if had_nothing and not has_nothing:
        given = given[:-1] - given[-1:]
    if has_nothing and not had_nothing:
        given = torch.cat([given, torch.zeros_like(given[:1])])
    if key.startswith("query_embed."):
        sources = _seed_rows(model, weights, sources)
    rows = own.clone()
    for row, source in enumerate(sources):
        if source is not None:
            rows[row] = given[source]
    if has_nothing:
        rows[-1] = given[-1]
    return rows


def _seed_rows(model: DETR, weights: Weights, sources: Sequence[int | None]) -> Sequence[int | None]:
    """Which row of the encoder's head each class continues. A class-agnostic one uses the first, for "something"."""
    assert isinstance(model.query_embed, SelectedQueries)
    something = model.query_embed.class_agnostic
    if not weights.model_args.get("class_agnostic", False):
        return [None] * len(sources) if something else sources
    if something and len(weights.categories) == len(sources):
        return range(len(sources))
    return [0] * len(sources)


def _queries_of(weights: Weights) -> int:
    """How many queries a checkpoint has in inference."""
    return int(with_defaults(weights.model_args)["num_queries"])


def _query_rows(own: Tensor, given: Tensor, queries: int, theirs: int) -> Tensor:
    """As many of inference from the checkpoint as both have; those of training too where all are as many."""
    if own.shape[1:] != given.shape[1:] or (own.shape == given.shape and queries == theirs):
        return given
    kept = min(queries, theirs)
    return torch.cat([given[:kept], own[kept:]])


def _without_training_parts(
    model: DETR, own: Mapping[str, Tensor], given: Mapping[str, Tensor], weights: Weights
) -> dict[str, Tensor]:
    """The tensors of the checkpoint without those of training alone that have no place in the model."""
    return {
        key: value
        for key, value in given.items()
        if not _in_training_alone(key, weights) or (key in own and own[key].shape == value.shape)
    }


def _in_training_alone(key: str, of: DETR | Weights) -> bool:
    """Whether a tensor of a model or of a checkpoint is of no use in inference."""
    if isinstance(of, DETR):
        seeds = of.dense_selects_queries
    else:
        seeds = (
            of.model_args.get("two_stage_head") == "dense" and of.model_args.get("query_init", "learned") != "learned"
        )
    return key.startswith("denoising.") or (key.startswith("dense_head.") and not seeds)


def _check_fit(model: DETR, own: Mapping[str, Tensor], given: Mapping[str, Tensor], weights: Weights) -> None:
    """Make sure that everything fits."""
    counters = {key for key in own.keys() ^ given.keys() if key.endswith(".num_batches_tracked")}
    missing = [key for key in own.keys() - given.keys() - counters if not _in_training_alone(key, model)]
    unexpected = [key for key in given if key not in own and key not in counters]
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    problems = [f"{key} is missing" for key in missing] + [f"{key} is unexpected" for key in unexpected] + shapes
    settings = _other_settings(model, own, weights, bool(problems))
    if not problems and not settings:
        return
    what = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    raise WeightsError(
        f"{weights.source} does not fit the model{f' ({what})' if what else ''}; "
        + (f"it was likely trained with {' '.join(settings)}" if settings else "no setting is known to fix it")
    )


_TRACELESS = fields_that_travel(ModelConfig, Travels.WITHOUT_TRACE)
_TRACED = fields_that_travel(ModelConfig, Travels.IN_SHAPES)


def _other_settings(model: DETR, own: Mapping[str, Tensor], weights: Weights, differ: bool) -> list[str]:
    """The flags by which the model would become that of the checkpoint, as far as both are known."""
    ours, theirs = model.model_args, with_defaults(weights.model_args)
    if is_classic(weights.state_dict):
        untold = {"backbone", "dilation", *_TRACELESS} - weights.model_args.keys()
        theirs = {name: value for name, value in theirs.items() if name not in untold}
        theirs |= infer_model_args(weights.state_dict) | dict(weights.model_args)
    names = {*_TRACELESS, *(_TRACED if differ else ())}
    if "backbone" not in theirs and differ:
        theirs["backbone"] = "another backbone"
    if any(key not in own for key in weights.state_dict if key.startswith("backbone.0.") and "num_batches" not in key):
        names.add("backbone")
    if theirs.get("backbone") in RESNET_BLOCKS and theirs["backbone"] == ours.get("backbone"):
        names.add("dilation")
    # Statistics of a batch norm fit a frozen one; only a group norm has none.
    if "group" in (ours.get("backbone_norm"), theirs.get("backbone_norm")):
        names.add("backbone_norm")
    differing = sorted(name for name in names if name in ours and name in theirs and ours[name] != theirs[name])
    return [_flag(name, theirs[name]) for name in differing]


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--{name} false"
    return f"--{name} {shlex.quote(str(value))}"
