"""Datasets, image caches and loaders of a run, for the rank of this process."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.loader import EpochLoader, eval_loader, train_loader
from detrkit.data.records import Split
from detrkit.data.repeat_factors import repeat_factors
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.resize_crop import Augmentation, eval_transform, train_transform
from detrkit.models import DetectionModel
from detrkit.structures import Batch
from detrkit.training.auto_batch import find_batch_size, free_memory
from detrkit.training.resolve_auto import OVERFIT_STEPS
from detrkit.training.setup import Data

MAX_AUTO_CACHE = 16_000_000_000
"""Largest automatic image cache per node, in bytes."""


@dataclass(frozen=True)
class Datasets:
    """Training images with augmentation, and validation images without."""

    train: DetectionDataset
    val: DetectionDataset


def make_datasets(config: TrainConfig, data: Data, model: DetectionModel, image_size: int) -> Datasets:
    """Make the datasets of a run with their transforms and caches; `image_size` is the shorter side in pixels."""
    square_resize = config.square_resize
    augmentation, augment = augmentation_of(config)
    train_cache, val_cache = make_caches(config, data.train, data.val_inputs)
    if augment.zoom_out:
        red, green, blue = (round(255 * channel) for channel in model.mean)
        augment = replace(augment, fill=(red, green, blue))
    train = DetectionDataset(
        data.train,
        data.categories,
        train_transform(augmentation, image_size, square_resize=square_resize),
        seed=config.seed,
        with_masks=config.masks,
        augment=augment,
        cache=train_cache,
    )
    plain = eval_transform(image_size, square_resize=square_resize)
    val = DetectionDataset(data.val_inputs, data.categories, plain, with_masks=config.masks, cache=val_cache)
    return Datasets(train, val)


def largest_batch_size(config: TrainConfig, data: Data, model: DetectionModel, image_size: int, fabric: Fabric) -> int:
    """Number of images per batch and rank that fits into memory (`--batch_size max`); to be called on all ranks."""
    _, augment = augmentation_of(config)
    # a batch is padded to the largest height and width of its images
    largest = eval_transform(augment.sizes(image_size)[-1], square_resize=config.square_resize)
    arrays = data.train.arrays
    sizes = np.unique(np.stack([arrays.heights, arrays.widths], axis=1), axis=0)
    shapes = [largest.output_size(h, w) for h, w in sizes.tolist()]
    height, width = (max(side) for side in zip(*shapes, strict=True))
    return find_batch_size(
        model,
        height=height,
        width=width,
        limit=max(1, len(data.train) // fabric.world_size),
        device=fabric.device,
        precision=fabric.autocast,
    )


def make_loaders(
    config: TrainConfig, data: Data, datasets: Datasets, batch_size: int, fabric: Fabric
) -> tuple[EpochLoader, DataLoader[Batch]]:
    """Make the loaders of this rank's batches for training and validation."""
    assert config.repeat_threshold != "auto"
    ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    train = train_loader(
        datasets.train,
        batch_size=batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        group_by_aspect=config.group_by_aspect,
        min_batches=OVERFIT_STEPS if config.overfit else 1,
        repeats=None if config.overfit else repeat_factors(data.train, config.repeat_threshold),
        **ranks,
    )
    return train, eval_loader(datasets.val, batch_size=batch_size, num_workers=config.num_workers, **ranks)


def make_caches(config: TrainConfig, train: Split, val: Split) -> tuple[ImageCache, ImageCache]:
    """Make the caches of decoded training and validation images; validation gets the memory that training leaves.

    The limit of `--cache_gb` is divided among the processes of a node, since each has its own loaders. With "auto", a
    split is cached as a whole or not at all: a part of a large split would take much memory and save little time.
    """
    auto = config.cache_gb == "auto"
    limit = min(free_memory() // 4, MAX_AUTO_CACHE) if config.cache_gb == "auto" else int(config.cache_gb * 1e9)
    limit //= config.devices
    caches = []
    for split in (train, val):
        sizes = np.stack([split.arrays.heights, split.arrays.widths], axis=1).astype(np.int64)
        too_many = auto and 3 * int(sizes.prod(axis=1).sum()) > limit
        caches.append(ImageCache(sizes, 0 if too_many else limit, shared=config.num_workers > 0))
        limit -= caches[-1].nbytes
    return caches[0], caches[1]


def all_cached(train: DetectionDataset, val: DetectionDataset) -> bool:
    """Whether every image is cached."""
    return all(dataset.cache is not None and dataset.cache.count == len(dataset) for dataset in (train, val))


def describe_cache(train: DetectionDataset, val: DetectionDataset) -> str:
    """Describe the number and size of the cached images, or tiles, in a line for the user."""
    parts, size = [], 0
    for name, dataset in (("train", train), ("val", val)):
        count, size = (dataset.cache.count, size + dataset.cache.nbytes) if dataset.cache else (0, size)
        number = f"all {len(dataset)}" if count == len(dataset) else f"{count} of {len(dataset)}"
        parts.append(f"{number} {name} {'images' if dataset.image_numbers is None else 'tiles'}")
    if not size:
        return "no images; each is decoded in every epoch"
    return f"{' and '.join(parts)} decoded once, {max(0.01, size / 1e9):.2f} GB"


def augmentation_of(config: TrainConfig) -> tuple[Augmentation, Augment]:
    """The augmentation of training images; none with `--augmentation none` or `--overfit`."""
    if config.overfit or config.augmentation == "none":
        return "none", Augment()
    return config.augmentation, Augment(
        **{each.name: getattr(config, each.name) for each in fields(Augment) if each.name != "fill"}
    )
