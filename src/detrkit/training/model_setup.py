"""The model that training starts from, with all that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.losses import DetectionCriterion
from detrkit.models import DetectionModel
from detrkit.models.checkpoints import FitRow
from detrkit.structures import Preprocessing


@dataclass(frozen=True)
class ModelSetup:
    """The model that training starts from."""

    model: DetectionModel
    criterion: DetectionCriterion
    config: TrainConfig
    """Settings of the run, with those that `--weights` changed."""
    settings_from_weights: dict[str, Any]
    """Settings that `--weights` changed, by name."""
    model_args: dict[str, Any]
    """Keywords of `build_model` that make the same model again."""
    preprocessing: Preprocessing
    """Preparation of images for the model; without the range of values, which is that of the data."""
    lr_backbone: float
    """Learning rate of the backbone."""
    norm_note: str
    """Line for the user about the normalization of the backbone: kind, reason and learning rate."""
    class_rows: list[FitRow]
    """Origin of each class of the class head, with `--weights`; else empty."""
    mask_note: str = ""
    """Line for the user if only one of `--weights` and the model has a mask head; else empty."""
    name: str = ""
    """The model in words; empty for detrkit's own architectures, which the settings describe."""
