"""Putting weights into a model that may have other classes: fine-tuning starts here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.detr import DETR
from detrkit.models.transformer import ACTIVATIONS, DecoderLayer
from detrkit.models.weights.architecture import RESNET_BLOCKS, Weights, infer_model_args
from detrkit.structures import Categories

if TYPE_CHECKING:
    from rich.table import Table

_HEAD = ("class_embed.weight", "class_embed.bias")


@dataclass(frozen=True)
class FitRow:
    """What became of one class of the model."""

    name: str
    """The class."""
    kept_from: str | None
    """The class of the checkpoint whose row of the class head it took over; None: it starts anew."""


@torch.no_grad()
def fit_weights(model: DETR, weights: Weights, categories: Categories) -> list[FitRow]:
    """Load weights into a model, in place, taking the rows of its class head over by class name.

    Names match exactly or, failing that, but for upper and lower case. Where the checkpoint has no names, its rows
    are category ids, as in the original, provided that it has a row for every id. The row of "no object" is always
    kept. Rows without a match keep what the model was initialised with. Everything else must fit.

    Args:
        model: built for `len(categories)` classes.
        weights: from `load_weights`.
        categories: the classes of the model.

    Returns:
        One row a class, in the order of `categories`.

    Raises:
        WeightsError: keys, shapes or settings differ; the sentence names the first keys and the likely setting.
    """
    if model.num_classes != len(categories):
        raise ValueError(f"expected a model for {len(categories)} classes, found {model.num_classes}")
    own = model.state_dict()
    _check_fit(model, own, weights)
    sources = _match(weights.categories, categories)
    rows = [*sources, len(weights.categories)]  # the last row of each head is "no object"
    state_dict = {key: weights.state_dict[key] for key in own if key in weights.state_dict}
    for key in _HEAD:
        head = own[key].clone()
        for row, source in enumerate(rows):
            if source is not None:
                head[row] = weights.state_dict[key][source]
        state_dict[key] = head
    model.load_state_dict(state_dict, strict=False)  # only counters of batch norms can be missing, see _check_fit
    return [
        FitRow(name, None if source is None else weights.categories.names[source])
        for name, source in zip(categories.names, sources, strict=True)
    ]


def fit_table(rows: Sequence[FitRow], source: str, limit: int = 20) -> Table:
    """The rows as a short rich table: what was kept from where and what starts anew, at most `limit` classes."""
    from rich.table import Table

    kept = sum(row.kept_from is not None for row in rows)
    table = Table(title=f"classes from {source}: {kept} of {len(rows)} kept", title_justify="left")
    table.add_column("class")
    table.add_column("its row of the class head")
    for row in rows[:limit]:
        table.add_row(row.name, "new" if row.kept_from is None else f"kept from {row.kept_from}")
    if len(rows) > limit:
        table.add_row(f"... and {len(rows) - limit} more", f"{sum(r.kept_from is not None for r in rows[limit:])} kept")
    table.add_row("(no object)", "kept")
    return table


def _match(theirs: Categories, ours: Categories) -> list[int | None]:
    """For each of our classes the class of the checkpoint that it continues, or None; none is used twice."""
    if theirs == Categories.unnamed(len(theirs)):
        by_id = theirs.index_of_id
        return [by_id[i] for i in ours.ids] if all(i in by_id for i in ours.ids) else [None] * len(ours)
    if theirs.names == ours.names:
        return list(range(len(ours)))
    found: list[int | None] = [None] * len(ours)
    for same in (str, str.casefold):
        left = {same(name): k for k, name in reversed(list(enumerate(theirs.names))) if k not in found}
        for k, name in enumerate(ours.names):
            if found[k] is None:
                found[k] = left.pop(same(name), None)
    return found


def _check_fit(model: DETR, own: Mapping[str, Tensor], weights: Weights) -> None:
    """Make sure that all but the class head fits."""
    given = weights.state_dict
    counters = {key for key in own.keys() ^ given.keys() if key.endswith(".num_batches_tracked")}
    missing = [key for key in own if key not in given and key not in counters]
    unexpected = [key for key in given if key not in own and key not in counters]
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape and key not in _HEAD
    ]
    problems = [f"{key} is missing" for key in missing] + [f"{key} is unexpected" for key in unexpected] + shapes
    settings = _other_settings(model, own, weights)
    if not problems and not settings:
        return
    what = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    raise WeightsError(
        f"{weights.source} does not fit the model{f' ({what})' if what else ''}; "
        + (f"it was likely trained with {' '.join(settings)}" if settings else "no setting is known to mend it")
    )


def _other_settings(model: DETR, own: Mapping[str, Tensor], weights: Weights) -> list[str]:
    """The flags by which the model would become that of the checkpoint, as far as both are known."""
    ours, theirs = infer_model_args(own), infer_model_args(weights.state_dict)
    names = [name for name in ours.keys() | theirs.keys() if name not in ("num_classes", "backbone_norm")]
    # Statistics of a batch norm fit a frozen one; only a group norm has none.
    if (ours["backbone_norm"] == "group") != (theirs["backbone_norm"] == "group"):
        names.append("backbone_norm")
    traceless = [name for name in ("dilation", "nheads", "activation") if name in weights.model_args]
    theirs |= {name: weights.model_args[name] for name in traceless}
    theirs.setdefault("backbone", weights.model_args.get("backbone", "another backbone"))
    ours |= _traceless_settings(model)
    same_resnet = theirs["backbone"] in RESNET_BLOCKS and theirs["backbone"] == ours.get("backbone")
    names += [name for name in traceless if name != "dilation" or same_resnet]
    if any(key not in own for key in weights.state_dict if key.startswith("backbone.0.") and "num_batches" not in key):
        names.append("backbone")
    differing = sorted(name for name in set(names) if name in theirs and ours.get(name) != theirs[name])
    return [_flag(name, theirs[name]) for name in differing]


def _traceless_settings(model: DETR) -> dict[str, Any]:
    """Settings of a model that leave no trace in its keys and shapes."""
    layer = model.transformer.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    activation = next(name for name, function in ACTIVATIONS.items() if function is layer.activation)
    return {"dilation": model.stride == 16, "nheads": layer.self_attn.heads, "activation": activation}


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--{name} false"
    return f"--{name} {value}"
