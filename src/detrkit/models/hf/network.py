"""Build networks of transformers from plain data, without files and without the code of others."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detrkit.errors import MissingExtraError, WeightsError
from detrkit.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detrkit.models.detection_model import Color
from detrkit.models.hf.adapter import TransformersDETR
from detrkit.models.hf.model_types import MODEL_TYPES, queries_of


def of_transformers(model_args: Mapping[str, Any]) -> bool:
    """Whether the settings of a checkpoint are those of a model of transformers."""
    return "hf_config" in model_args


def import_transformers(feature: str) -> Any:
    """Import transformers.

    Args:
        feature: the use of it, for the message.

    Raises:
        MissingExtraError: it is not installed, or too old.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise MissingExtraError(feature, "hf") from None
    if int(transformers.__version__.split(".")[0]) < 5:
        raise MissingExtraError(f"{feature} (found transformers {transformers.__version__}, older than 5)", "hf")
    return transformers


@contextmanager
def quiet_transformers(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing notes and progress bars."""
    log, level = transformers.utils.logging, transformers.utils.logging.get_verbosity()
    shown = log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()


def config_of(plain: Mapping[str, Any], source: str) -> Any:
    """The config of transformers from the content of config.json; no backbone is fetched by it.

    Raises:
        MissingExtraError: transformers is not installed, or does not know the type of model.
        WeightsError: a setting is wrong, or the type of model is none of `MODEL_TYPES`.
    """
    kind = plain.get("model_type")
    if kind not in MODEL_TYPES:
        raise WeightsError(f"expected one of {', '.join(MODEL_TYPES)} as model_type in {source}, found {kind}")
    name = MODEL_TYPES[kind].name
    transformers = import_transformers(f"{source}, a {name} of transformers,")
    try:
        maker = transformers.CONFIG_MAPPING[kind]
    except KeyError:
        raise MissingExtraError(f"{name} (unknown to transformers {transformers.__version__})", "hf") from None
    try:
        with quiet_transformers(transformers):
            config = maker.from_dict(_without_downloads(dict(plain)))
    except ImportError as problem:
        raise missing_package(source, problem) from problem
    except Exception as problem:  # validation raises errors of many kinds
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[-1].strip()
        raise WeightsError(
            f"expected the settings of a {name} in {source}, found others ({line}); download its config.json again"
        ) from problem
    config.tie_word_embeddings, config.return_dict = bool(plain.get("tie_word_embeddings", True)), True
    for fixed in ("anchor_image_size", "eval_size"):  # precomputed anchors, equal to those computed for each image
        if getattr(config, fixed, None):
            setattr(config, fixed, None)
    return config


def plain_config(config: Any) -> dict[str, Any]:
    """The settings of a config of transformers as JSON-like data."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for name in ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "auto_map"):
        plain.pop(name, None)
    return plain


def model_args_of(config: Any, tied: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Plain data from which `build_transformers` makes a model again.

    Args:
        config: a config of transformers.
        tied: from `tied_names`.
    """
    return {
        "hf_config": plain_config(config),
        "tied": [list(names) for names in tied],
        "num_classes": int(config.num_labels),
        "num_queries": queries_of(config),
        "sigmoid": MODEL_TYPES[config.model_type].sigmoid,
    }


def build_transformers(
    model_args: Mapping[str, Any], *, mean: Color | None = None, std: Color | None = None, source: str = "a checkpoint"
) -> TransformersDETR:
    """Build a model with random weights.

    Args:
        model_args: from `model_args_of`.
        mean: mean of each color channel (RGB in 0..1); None: ImageNet's.
        std: standard deviation, likewise.
        source: where the settings come from, for messages.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the settings make no model.
    """
    config = config_of(model_args["hf_config"], source)
    model = TransformersDETR(new_network(config, source), mean or IMAGENET_MEAN, std or IMAGENET_STD)
    model.model_args = dict(model_args)
    untie(model.network)
    tie(model.network, model_args.get("tied", ()))
    return model


def new_network(config: Any, source: str) -> Any:
    """A network with random weights.

    Raises:
        MissingExtraError: a package that the backbone needs is not installed.
        WeightsError: the settings make no network.
    """
    kind = MODEL_TYPES[config.model_type]
    transformers = import_transformers(f"{source}, a {kind.name} of transformers,")
    try:
        with quiet_transformers(transformers):
            return getattr(transformers, kind.architecture)(config)
    except ImportError as problem:
        raise missing_package(source, problem) from problem
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as problem:
        raise WeightsError(
            f"expected the settings of a {kind.name} in {source}, found some that make no network "
            f"({str(problem).strip().splitlines()[0]}); download its config.json again"
        ) from problem


def missing_package(source: str, problem: ImportError) -> MissingExtraError:
    """The error for a package that a model needs and that is not installed."""
    timm = "timm" in str(problem)
    return MissingExtraError(f"{source}{', whose backbone is one of timm,' if timm else ''}", "timm" if timm else "hf")


def _without_downloads(plain: Any) -> Any:
    """Settings by which no weights of a backbone are fetched, which those of the whole model replace."""
    if isinstance(plain, dict):
        return {k: False if k == "use_pretrained_backbone" else _without_downloads(v) for k, v in plain.items()}
    return [_without_downloads(value) for value in plain] if isinstance(plain, list) else plain


def tied_names(network: nn.Module) -> list[list[str]]:
    """The names of parameters that are one and the same, group by group."""
    groups: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def untie(network: nn.Module) -> None:
    """Give each name of a shared parameter a parameter of its own."""
    for names in tied_names(network):
        for name in names[1:]:
            _set(network, name, nn.Parameter(network.get_parameter(name).detach().clone()))


def tie(network: nn.Module, tied: Sequence[Sequence[str]]) -> None:
    """Let the names of each group share the parameter of the first."""
    for first, *others in tied:
        for name in others:
            _set(network, name, network.get_parameter(first))


def _set(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, parameter)


def shared_once(state_dict: Mapping[str, torch.Tensor], tied: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
    """A state dict without the further names of shared parameters, under the prefix of `TransformersDETR`."""
    further = {f"network.{name}" for names in tied for name in names[1:]}
    return {key: value for key, value in state_dict.items() if key not in further}
