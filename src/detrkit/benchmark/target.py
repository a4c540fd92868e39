"""The target of a benchmark: a model with its criterion, and images for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from detrkit.benchmark.noise_images import draw_images
from detrkit.config.commands import BenchConfig
from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset
from detrkit.data.formats.detect import open_dataset
from detrkit.data.loader import collate
from detrkit.data.records import Split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.files import save_tensors
from detrkit.models.checkpoints import Weights, load_weights
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.structures import Batch, Categories
from detrkit.training.model_setup import ModelSetup
from detrkit.training.setup import build_training_model

CLASSES, IMAGE_SIZE = 91, 800
"""Classes and image size of a model without weights: those of the reference DETR."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model with everything that is needed to time it."""

    name: str
    checkpoint: Path
    """A file that `Detector.load` takes."""
    weights: Weights
    """The content of that file."""
    setup: ModelSetup
    """The model in training, on the CPU, and its criterion."""
    image_size: int
    """Shorter side in pixels."""
    split: Split
    """Images with objects, to run on."""

    @property
    def masks(self) -> bool:
        """Whether the model has a mask head."""
        return self.setup.model.makes_masks

    def batch(self, size: int) -> Batch:
        """A batch of the first images, repeated if they are too few, as evaluation prepares them, with their
        objects."""
        transform = eval_transform(self.image_size, square_resize=self.weights.preprocessing.square_resize)
        dataset = DetectionDataset(self.split, self.weights.categories, transform, with_masks=self.masks)
        return collate([dataset[k % len(dataset)] for k in range(size)])

    def files(self, count: int) -> list[Path]:
        """The first `count` image files, repeated if they are too few."""
        paths = [image.path for image in self.split.images]
        return [paths[k % len(paths)] for k in range(count)]


def make_target(config: BenchConfig, folder: Path) -> BenchmarkTarget:
    """Make the model and the images that the settings name.

    Args:
        config: the settings.
        folder: for files that have to be written: random weights, images.

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
        setup = _training_setup(weights.categories, config.weights, bool(weights.model_args.get("masks")))
        parts = Path(config.weights).name, Path(config.weights), weights, setup
    else:
        categories = split.categories if split else Categories.unnamed(CLASSES)
        setup = _training_setup(categories, "", config.masks, config.model)
        checkpoint = folder / "random.ckpt"
        metadata = {
            "version": VERSION,
            "model_args": setup.model_args,
            "categories": categories.to_plain(),
            "preprocessing": replace(
                setup.preprocessing, image_size=IMAGE_SIZE, value_range=split.value_range if split else None
            ).to_plain(),
        }
        save_tensors(checkpoint, {"model": setup.model.state_dict(), "detrkit": metadata})
        parts = config.model or "detr_resnet50", checkpoint, load_weights(checkpoint), setup
    if split is None:
        split = draw_images(folder / "images", max(config.images, config.batch_size), parts[2].categories)
    preprocessing = parts[2].preprocessing
    split = replace(split, value_range=preprocessing.value_range)  # of the model, as in prediction
    return BenchmarkTarget(*parts, config.image_size or preprocessing.image_size, split)


def _training_setup(categories: Categories, weights: str, masks: bool, model: str = "") -> ModelSetup:
    """The model in training, with its matching and losses.

    Norms are frozen where training would begin with ImageNet's weights and freeze them.
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
