"""The loaders of a run, made once each process knows its rank and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.loader import EpochLoader, eval_loader, train_loader
from detrkit.data.records import Split
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.resize_crop import Augmentation, eval_transform, train_transform
from detrkit.structures import Batch
from detrkit.training.auto_batch import find_batch_size, free_memory
from detrkit.training.module import DetectionTraining
from detrkit.training.resolve_auto import OVERFIT_STEPS
from detrkit.training.setup import Data

MOST_CACHED = 16_000_000_000
"""Bytes of decoded images that are kept a node, at the most, where nobody says how many."""


class TrainingData(pl.LightningDataModule):
    """Training and validation images in batches, this rank's share of them."""

    def __init__(
        self,
        train: DetectionDataset,
        val: DetectionDataset,
        *,
        batch_size: int | Literal["max"],
        num_workers: int,
        seed: int,
        group_by_aspect: bool,
        least: int,
        start: tuple[int, int],
        find_batch_size: Callable[[pl.Trainer], int],
        ready: Callable[[int], None],
    ) -> None:
        """Prepare.

        Args:
            train: training images.
            val: validation images, under a transform without randomness.
            batch_size: images per batch and rank, or "max".
            num_workers: processes that load, for each of the two.
            seed: of the order.
            group_by_aspect: batches of images of similar aspect ratio.
            least: batches that an epoch has at the least.
            start: (epoch, batch) of the first training batch.
            find_batch_size: what "max" calls, on every rank at once.
            ready: told the batch size, before the first step.
        """
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.group_by_aspect, self.least, self.start = seed, group_by_aspect, least, start
        self._find_batch_size, self._ready = find_batch_size, ready
        self._val_loader: DataLoader[Any] | None = None

    def train_dataloader(self) -> EpochLoader:
        """Training batches from where the run stands."""
        assert self.trainer is not None
        if self.batch_size == "max":
            self.batch_size = self._find_batch_size(self.trainer)
        loader = train_loader(
            self.train,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            group_by_aspect=self.group_by_aspect,
            min_batches=self.least,
        )
        self._ready(self.batch_size)
        epoch, batch = self.start
        loader.load_state_dict({"epoch": epoch, "batch": batch})
        return loader

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Send a batch off without waiting until it is there; Lightning's own way waits for each tensor of it."""
        return batch.to(device, non_blocking=True)

    def validation_loader(self) -> DataLoader[Any]:
        """Validation batches of one shape each, every image on one rank only."""
        assert self.trainer is not None
        assert self.batch_size != "max"
        if self._val_loader is None:
            self._val_loader = eval_loader(
                self.val,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
            )
        return self._val_loader


def make_loaders(
    config: TrainConfig,
    data: Data,
    module: DetectionTraining,
    *,
    image_size: int,
    begin: tuple[int, int],
    ready: Callable[[int], None],
) -> TrainingData:
    """The loaders that the settings ask for.

    Args:
        config: the settings.
        data: the checked images.
        module: whose model the images are for.
        image_size: shorter side in pixels.
        begin: (epoch, batch) of the first training batch.
        ready: told the batch size, before the first step.
    """
    assert config.batch_size != "auto"
    square_resize = config.square_resize
    augmentation, augment = augmentation_of(config)
    kept, kept_val = make_caches(config, data.train, data.val)
    if augment.zoom_out:
        red, green, blue = (round(255 * channel) for channel in module.model.backbone.mean)
        augment = replace(augment, fill=(red, green, blue))
    train = DetectionDataset(
        data.train,
        data.categories,
        train_transform(augmentation, image_size, square_resize=square_resize),
        seed=config.seed,
        with_masks=config.masks,
        augment=augment,
        augmented_epochs=config.epochs - config.no_aug_epochs,
        cache=kept,
    )
    plain = eval_transform(image_size, square_resize=square_resize)
    val = DetectionDataset(data.val, data.categories, plain, with_masks=config.masks, cache=kept_val)
    # what the largest batch is padded to: the highest and the widest image together
    largest = eval_transform(augment.sizes(image_size)[-1], square_resize=square_resize)
    shapes = [largest.output_size(image.height, image.width) for image in data.train.images]
    height, width = (max(side) for side in zip(*shapes, strict=True))

    def find(trainer: pl.Trainer) -> int:
        return find_batch_size(
            module.model,
            height=height,
            width=width,
            limit=max(1, len(train) // trainer.world_size),
            device=module.device,
            precision=trainer.precision_plugin.forward_context,
        )

    return TrainingData(
        train,
        val,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
        group_by_aspect=config.group_by_aspect,
        least=OVERFIT_STEPS if config.overfit else 1,
        start=begin,
        find_batch_size=find,
        ready=ready,
    )


def make_caches(config: TrainConfig, train: Split, val: Split) -> tuple[ImageCache, ImageCache]:
    """Room for decoded training images, and in what they leave for those of validation, as `--cache_gb` has it.

    Every process of a node takes its share, since each has loaders of its own. By itself ("auto"), a split is kept as
    a whole or not at all: part of a large one would take much memory and save little time.
    """
    auto = config.cache_gb == "auto"
    limit = min(free_memory() // 4, MOST_CACHED) if config.cache_gb == "auto" else int(config.cache_gb * 1e9)
    limit //= config.devices
    caches = []
    for split in (train, val):
        sizes = [(image.height, image.width) for image in split.images]
        too_many = auto and 3 * sum(h * w for h, w in sizes) > limit
        caches.append(ImageCache(sizes, 0 if too_many else limit, shared=config.num_workers > 0))
        limit -= caches[-1].nbytes
    return caches[0], caches[1]


def all_cached(train: DetectionDataset, val: DetectionDataset) -> bool:
    """Whether the caches keep every image."""
    return all(dataset.cache is not None and dataset.cache.count == len(dataset) for dataset in (train, val))


def describe_cache(train: DetectionDataset, val: DetectionDataset) -> str:
    """What the caches of a run hold, for people."""
    caches = [dataset.cache for dataset in (train, val) if dataset.cache]
    held, of = sum(cache.count for cache in caches), len(train) + len(val)
    if not held:
        return "no images; each is decoded whenever it is needed"
    size = sum(cache.nbytes for cache in caches) / 1e9
    return f"{'all' if all_cached(train, val) else f'{held} of'} {of} images decoded once, {max(0.01, size):.2f} GB"


def augmentation_of(config: TrainConfig) -> tuple[Augmentation, Augment]:
    """What happens to training images: nothing at all with `--augmentation none` or `--overfit`."""
    if config.overfit or config.augmentation == "none":
        return "none", Augment()
    return config.augmentation, Augment(
        **{each.name: getattr(config, each.name) for each in fields(Augment) if each.name != "fill"}
    )
