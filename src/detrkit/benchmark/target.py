"""What is measured: a model, its criterion, and images for it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detrkit.benchmark.noise_images import draw_images
from detrkit.config.commands import BenchConfig
from detrkit.config.fields import check_named
from detrkit.config.presets import MODELS
from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset
from detrkit.data.formats.detect import open_dataset
from detrkit.data.loader import collate
from detrkit.data.records import Split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, WeightsError
from detrkit.models.checkpoints import Weights, load_weights, write_huggingface
from detrkit.structures import Batch, Categories
from detrkit.training.checkpoint import VERSION
from detrkit.training.setup import ModelSetup, build_training_model

CLASSES, IMAGE_SIZE = 91, 800
"""Of a model without weights: those of the original."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model with all that is needed to measure it."""

    name: str
    checkpoint: Path
    """A file that `Detector.load` takes."""
    weights: Weights
    """What is in it."""
    start: ModelSetup
    """The model in training, on the CPU, and its criterion."""
    image_size: int
    """Shorter side in pixels."""
    split: Split
    """Images with objects."""

    @property
    def masks(self) -> bool:
        """Whether the model has a mask head."""
        return self.start.model.mask_head is not None

    def batch(self, size: int) -> Batch:
        """The first images, again and again if they are too few, as evaluation prepares them, with their objects."""
        transform = eval_transform(self.image_size, square_resize=self.weights.preprocessing.square_resize)
        dataset = DetectionDataset(self.split, self.weights.categories, transform, with_masks=self.masks)
        return collate([dataset[k % len(dataset)] for k in range(size)])

    def files(self, count: int) -> list[Path]:
        """So many files of images, again and again if they are too few."""
        paths = [image.path for image in self.split.images]
        return [paths[k % len(paths)] for k in range(count)]


def make_subject(config: BenchConfig, folder: Path) -> BenchmarkTarget:
    """The model and the images that the settings name.

    Args:
        config: the settings.
        folder: for what has to be written: random weights, images.

    Raises:
        ConfigError: there is no such model, or there are both a model and weights.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read, or shows nothing that the model knows.
    """
    if config.weights and config.model:
        raise ConfigError("expected either --weights or --model, found both; weights bring their model")
    if config.weights and config.masks:
        raise ConfigError(
            "--masks is for a model without weights, found --weights as well; they say whether it has any"
        )
    split = _read_images(config) if config.data else None
    if config.weights:
        weights = load_weights(config.weights)
        start = _start(weights.categories, config.weights, bool(weights.model_args.get("masks")))
        subject = Path(config.weights).name, Path(config.weights), weights, start
    else:
        if config.model:
            check_named("model", config.model, MODELS)
        categories = split.categories if split else Categories.unnamed(CLASSES)
        start = _start(categories, "", config.masks, config.model)
        checkpoint = folder / "random.ckpt"
        card = {
            "version": VERSION,
            "model_args": start.model_args,
            "categories": categories.to_plain(),
            "preprocessing": replace(
                start.preprocessing, image_size=IMAGE_SIZE, value_range=split.value_range if split else None
            ).to_plain(),
        }
        torch.save({"model": start.model.state_dict(), "detrkit": card}, checkpoint)
        subject = config.model or "detr_resnet50", checkpoint, load_weights(checkpoint), start
    if split is None:
        split = draw_images(folder / "images", max(config.images, config.batch_size), subject[2].categories)
    images = subject[2].preprocessing
    split = replace(split, value_range=images.value_range)  # of the model, which prediction goes by as well
    return BenchmarkTarget(*subject, config.image_size or images.image_size, split)


def _start(categories: Categories, weights: str, masks: bool, model: str = "") -> ModelSetup:
    """The model in training, with the matching and losses that belong to it.

    Where training would begin with ImageNet's weights, norms are frozen as it would freeze them.
    """
    config = TrainConfig.from_recipe("classic", weights=weights, model=model, task="instance" if masks else "detect")
    if not weights and config.backbone_weights != "none":
        config = replace(config, backbone_norm="frozen")
    return build_training_model(replace(config, backbone_weights="none"), categories, None)


def _read_images(config: BenchConfig) -> Split:
    """The training images of a data set."""
    raw = open_dataset(**config.dataset_kwargs())
    splits = check_dataset(raw, num_queries=10**9).splits
    split = splits.get("train") or next(iter(splits.values()))
    images = [image for image in split.images if image.has_trainable][: config.images]
    if not images:
        raise DataError(f"expected images with objects in {raw.source}, found none; see detrkit check {raw.source}")
    return replace(split, images=images)


@dataclass(frozen=True)
class Reference:
    """The same model, with the same weights, as `transformers` has it."""

    model: nn.Module
    processor: Any
    """Prepares images, and makes detections of outputs."""


def find_reference(subject: BenchmarkTarget, folder: Path) -> Reference | str:
    """The model in `transformers`, or why there is none: it is not installed, or has no such model."""
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed, so nothing was measured beside it; pip install transformers"
    if subject.masks:
        return "beside transformers only boxes are measured, and this model makes masks"
    try:
        write_huggingface(subject.weights, folder)
    except WeightsError:
        return "transformers was not measured: of the models here, it has the classic DETR alone in this form"
    with _quiet():
        import transformers

        model = transformers.DetrForObjectDetection.from_pretrained(folder)
        processor = transformers.DetrImageProcessor.from_pretrained(folder)
    return Reference(model, processor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
