"""Load weights into a model of transformers that may have other classes or another number of queries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, WeightsError
from detrkit.models.checkpoints.architecture import Weights
from detrkit.models.hf.adapter import TransformersDETR
from detrkit.models.hf.model_types import MODEL_TYPES
from detrkit.structures import Categories

_CLASS_ROWS = re.compile(
    r".*\.(class_embed|class_labels_classifier|enc_score_head|enc_out_class_embed|denoising_class_embed)(\.\d+)?"
    r"\.(weight|bias)"
)
"""Tensors with one row per class; behind these, embeddings of denoising have one for padding, and softmax heads one for
"no object"."""
_QUERY_ROWS = re.compile(
    r".*\.(query_position_embeddings|query_refpoint_embeddings|reference_point_embed|query_feat|weight_embedding)"
    r"\.weight"
)
"""Tensors with one row per query; with groups of queries, group by group."""


def with_classes(weights: Weights, categories: Categories, *, num_queries: int = 0, auxiliary: bool = True) -> Weights:
    """The settings of weights, changed to other classes, another number of queries and auxiliary losses.

    Args:
        weights: weights of a model of transformers; their tensors are left as they are, for `fit_transformers`.
        categories: classes of the new model.
        num_queries: number of queries of the new model; 0: that of the weights.
        auxiliary: whether the earlier decoder layers have losses.
    """
    config: dict[str, Any] = dict(weights.model_args["hf_config"])
    names = [str(name) for name in categories.names]
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    config.pop("num_labels", None)
    config["auxiliary_loss"] = auxiliary
    args = weights.model_args | {"hf_config": config, "num_classes": len(categories)}
    if num_queries and num_queries != args["num_queries"]:
        config["two_stage_num_proposals" if config.get("two_stage") else "num_queries"] = num_queries
        args["num_queries"] = num_queries
    return replace(weights, model_args=args)


@torch.no_grad()
def fit_transformers(model: TransformersDETR, weights: Weights, sources: Sequence[int | None]) -> None:
    """Load weights into a model in place, row by row where classes or queries differ.

    Args:
        model: with random weights.
        weights: weights of a model of transformers.
        sources: for each class of the model the index of the same class in the weights, or None.

    Raises:
        ConfigError: the number of queries cannot be changed.
        WeightsError: the weights are of another architecture.
    """
    own, loaded = model.state_dict(), dict(weights.state_dict)
    theirs = weights.model_args
    if theirs["hf_config"].get("model_type") != model.model_type.model_type:
        raise WeightsError(
            f"expected the weights of a {model.model_type.name} in {weights.source}, found those of a "
            f"{MODEL_TYPES[theirs['hf_config']['model_type']].name}"
        )
    same = list(sources) == list(range(theirs["num_classes"]))
    for key, value in own.items():
        if key not in loaded:
            continue
        if _CLASS_ROWS.fullmatch(key) and not same:
            loaded[key] = _class_rows(value, loaded[key], sources, theirs["num_classes"])
        elif _QUERY_ROWS.fullmatch(key) and value.shape != loaded[key].shape:
            loaded[key] = _query_rows(value, loaded[key], model.num_queries, theirs["num_queries"])
    _check_shapes(own, loaded, weights.source)
    model.load_state_dict(loaded)


def _class_rows(own: Tensor, loaded: Tensor, sources: Sequence[int | None], classes: int) -> Tensor:
    """Rows of the same classes, and those behind the classes; others keep their initialization."""
    rows = own.clone()
    for row, source in enumerate(sources):
        if source is not None:
            rows[row] = loaded[source]
    rows[len(sources) :] = loaded[classes:]
    return rows


def _query_rows(own: Tensor, loaded: Tensor, num_queries: int, num_loaded: int) -> Tensor:
    """The first queries of each group; if there are too few, the last keep their initialization."""
    if len(own) % num_queries or len(loaded) % num_loaded or own.shape[1:] != loaded.shape[1:]:
        return loaded
    mine, theirs = own.view(-1, num_queries, own.shape[1]).clone(), loaded.view(-1, num_loaded, own.shape[1])
    groups, kept = min(len(mine), len(theirs)), min(num_queries, num_loaded)
    mine[:groups, :kept] = theirs[:groups, :kept]
    return mine.view_as(own)


def _check_shapes(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], source: str) -> None:
    problems = [f"{key} is missing" for key in own.keys() - loaded.keys()]
    problems += [f"{key} is unexpected" for key in loaded.keys() - own.keys()]
    problems += [
        f"{key} {list(loaded[key].shape)} instead of {list(value.shape)}"
        for key, value in own.items()
        if key in loaded and loaded[key].shape != value.shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{source} does not fit the model that its settings describe ({'; '.join(sorted(problems)[:3])}{more}); "
            "take the whole checkpoint, or download the folder again"
        )


def refuse_other_settings(given: Mapping[str, Any], model_type: str, source: str) -> None:
    """Refuse settings of detrkit's own architectures and losses beside weights of transformers.

    Args:
        given: those that the user chose, by name.
        model_type: type of the model of the weights.
        source: path or name of the weights, for the message.

    Raises:
        ConfigError: there is such a setting.
    """
    if given:
        name, value = next(iter(given.items()))
        shown = "" if value is True else f" {str(value).lower() if isinstance(value, bool) else value}"
        raise ConfigError(
            f"expected no --{name} with {source}, a {MODEL_TYPES[model_type].name} of transformers that brings its own "
            f"architecture and losses, found --{name}{shown}; leave it out"
        )
