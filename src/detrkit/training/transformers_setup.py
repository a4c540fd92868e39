"""The model and criterion of a run that starts from weights of transformers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from detrkit.config.loss import LossFlags
from detrkit.config.model import ModelFlags
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError
from detrkit.losses.transformers_losses import TransformersCriterion
from detrkit.models.checkpoints import Weights, fit_weights
from detrkit.models.hf.fit_classes import refuse_other_settings, with_classes
from detrkit.models.hf.network import build_transformers
from detrkit.structures import Categories, Preprocessing
from detrkit.training.checkpoint import ResumePoint
from detrkit.training.model_setup import ModelSetup


def setup_transformers(
    config: TrainConfig,
    default: TrainConfig,
    categories: Categories,
    weights: Weights | None,
    resume_point: ResumePoint | None,
) -> ModelSetup:
    """Build a model of transformers and its criterion, see `setup.build_training_model`.

    Args:
        config: settings of the run.
        default: the settings that the user did not choose, of the same recipe.
        categories: classes of the model.
        weights: weights to start from; None: those of `resume_point`.
        resume_point: checkpoint of detrkit to resume from, or None.

    Raises:
        ConfigError: a setting does not fit models of transformers, or not the checkpoint.
        WeightsError: the weights are damaged.
    """
    changes: dict[str, Any] = {}
    if weights:
        model_args, stored = weights.model_args, weights.preprocessing
        _check_settings(config, default, weights)
        changes = {"square_resize": stored.square_resize, "model": "", "num_queries": model_args["num_queries"]}
        changes = {k: v for k, v in changes.items() if getattr(config, k) == getattr(default, k) != v}
        config = replace(config, **changes)
        assert isinstance(config.num_queries, int)
        model_args = with_classes(
            weights, categories, num_queries=config.num_queries, auxiliary=not config.no_aux_loss
        ).model_args
    else:
        assert resume_point
        model_args = resume_point.metadata["model_args"]
        stored = Preprocessing.from_plain(resume_point.metadata["preprocessing"])
        resume_point.check(model_args=model_args, categories=categories.to_plain())
    torch.manual_seed(config.seed)
    model = build_transformers(model_args, mean=stored.mean, std=stored.std)
    class_rows = fit_weights(model, weights, categories) if weights else []
    image_size = stored.image_size if config.image_size == "auto" else config.image_size
    rate = f"trained at {config.lr_backbone:g}" if config.lr_backbone else "unchanged"
    return ModelSetup(
        model,
        TransformersCriterion(model.network.config),
        replace(config, num_queries=model.num_queries),
        changes,
        model.model_args,
        Preprocessing(image_size, config.square_resize, model.mean, model.std, tiling=config.tiling),
        config.lr_backbone,
        f"of the weights; the backbone is {rate}",
        class_rows,
        name=f"{model.model_type.name} of transformers",
    )


def _check_settings(config: TrainConfig, default: TrainConfig, weights: Weights) -> None:
    """Refuse settings of detrkit's own architectures and losses, and masks.

    Raises:
        ConfigError: the user chose one.
    """
    if config.masks:
        raise ConfigError(
            f"expected --task detect with {weights.source}, a model of transformers that predicts boxes alone, found "
            f"--task {config.task}; leave it out"
        )
    chosen = _chosen(config, default)
    chosen.pop("num_queries", None)
    refuse_other_settings(chosen, weights.model_args["hf_config"]["model_type"], weights.source)


def _chosen(config: TrainConfig, default: TrainConfig) -> dict[str, Any]:
    """Settings of model and losses that the user chose."""
    names = [field.name for owner in (ModelFlags, LossFlags) for field in fields(owner)]
    chosen = {name: getattr(config, name) for name in names}
    return {name: value for name, value in chosen.items() if value not in ("auto", getattr(default, name))}
