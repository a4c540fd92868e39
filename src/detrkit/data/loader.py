"""Batch samplers, loaders with exact resume, and `collate`, the one place that pads.

The order of an epoch is a function of (seed, epoch), so the position of a loader is two numbers, the epoch and the
number of batches taken of it. This gives, exactly:

- Resume in the middle of an epoch: `set_epoch(epoch, batch)`. The epoch travels to the workers with every index, so
  persistent workers follow it, and augmentation continues, since it depends on (seed, epoch, index) alone.
- Several processes. Batch k of all ranks together is batch k of a single process with a batch that many times larger.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from detrkit.data.dataset import DetectionDataset, ItemKey
from detrkit.data.repeat_factors import draw_repeated, number_per_epoch
from detrkit.structures import Batch, Target

_WINDOW = 32
"""Number of global batches whose images are sorted by aspect ratio together."""


def collate(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """Pad images, uint8 [3, h, w], with 0 at the right and bottom to one size, and make a batch with a padding mask.

    Target masks keep the size of their own image.
    """
    height = max(image.shape[1] for image, _ in samples)
    width = max(image.shape[2] for image, _ in samples)
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    padding_mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for i, (image, _) in enumerate(samples):
        h, w = image.shape[1:]
        # images from decoding and resizing lie in memory as [h, w, 3]; torch takes six times as long to split them
        channels_last = image.stride(0) == 1 and image.device.type == "cpu"
        if channels_last:
            cv2.split(image.permute(1, 2, 0).numpy(), list(images[i, :, :h, :w].numpy()))
        else:
            images[i, :, :h, :w] = image
        padding_mask[i, :h, :w] = False
    return Batch(images, padding_mask, [target for _, target in samples])


class EpochBatchSampler(Sampler[list[ItemKey]]):
    """Samples batches of keys of items for training.

    Each epoch shuffles all n images by (seed, epoch) and cuts them into global batches of world_size x batch_size, of
    which each rank takes its share; an incomplete last batch is dropped, as in the reference DETR. If there are fewer
    images than one global batch, there is one batch of all of them, spread over the ranks; some occur twice if they
    cannot be spread evenly. All ranks have the same number of batches. If that is less than `min_batches`, an epoch
    passes through the images several times, each time in another order.

    Args:
        n: number of images, at least 1.
        batch_size: images per batch and rank.
        seed: seed of the order.
        rank: rank of this process, 0..world_size-1.
        world_size: number of processes.
        shuffle: False: the order of the data set in every epoch.
        aspect_ratios: width / height of each image. Batches are then made of images of similar ratio: within every 32
            shuffled global batches the images are sorted by ratio, and then the batches are shuffled.
        min_batches: least number of batches per epoch.
        repeats: float [n], how often each image occurs per epoch on average (`repeat_factors`); the fractions are drawn
            anew in each epoch, and the number of images is always the same. None: each occurs once.

    Attributes:
        epoch: epoch of the next pass.
        start_batch: first batch of the next pass, from 0.
        no_aug_from: epoch and batch from which items have no mosaic and its like; None: all have. It may be set during
            a pass, and then counts for batches that are not sampled yet.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        aspect_ratios: Sequence[float] | np.ndarray[Any, Any] | None = None,
        min_batches: int = 1,
        repeats: np.ndarray[Any, Any] | None = None,
    ) -> None:
        assert n >= 1
        assert batch_size >= 1
        assert 0 <= rank < world_size
        self.n, self.batch_size, self.seed, self.rank, self.world_size = n, batch_size, seed, rank, world_size
        self.shuffle = shuffle
        self.aspect_ratios = None if aspect_ratios is None else np.asarray(aspect_ratios)
        self.repeats = repeats
        self.per_pass = n if repeats is None else number_per_epoch(repeats)
        self.passes = -(-min_batches // max(1, self.per_pass // (batch_size * world_size)))
        self.epoch = 0
        self.start_batch = 0
        self.no_aug_from: tuple[int, int] | None = None

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next passes and their first batch, from 0."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Number of batches of a whole epoch, wherever the next pass starts."""
        return self.passes * max(1, self.per_pass // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[ItemKey]]:
        # Not a generator, so that the epoch is read when the pass begins, and not at its first batch.
        return self._keys(self.epoch, self.start_batch, self._batches())

    def _keys(self, epoch: int, start: int, batches: list[np.ndarray[Any, Any]]) -> Iterator[list[ItemKey]]:
        for number, batch in enumerate(batches[start:], start):
            no_aug = self.no_aug_from is not None and (epoch, number) >= self.no_aug_from
            yield [ItemKey(epoch, int(i), no_aug) for i in batch]

    def _batches(self) -> list[np.ndarray[Any, Any]]:
        """Indices of this rank for the whole epoch, one array per batch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        return [batch for _ in range(self.passes) for batch in self._pass(rng)]

    def _pass(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Indices of this rank for one pass through the images, [batches, images]."""
        images = np.arange(self.n) if self.repeats is None else draw_repeated(self.repeats, rng)
        order = rng.permutation(images) if self.shuffle else images
        whole = self.batch_size * self.world_size
        if len(order) < whole:
            whole = -(-len(order) // self.world_size) * self.world_size
            order = np.resize(order, whole)
        batches = order[: len(order) // whole * whole].reshape(-1, whole)  # [global batches, images]
        if self.aspect_ratios is not None:
            ratios = self.aspect_ratios
            sorted_windows = []
            for window in (batches[i : i + _WINDOW].ravel() for i in range(0, len(batches), _WINDOW)):
                sorted_windows.append(window[np.argsort(ratios[window], kind="stable")])
            batches = np.concatenate(sorted_windows).reshape(batches.shape)
            if self.shuffle:
                batches = batches[rng.permutation(len(batches))]
        size = whole // self.world_size
        return batches[:, self.rank * size : (self.rank + 1) * size]


class ShapeBatchSampler(Sampler[list[tuple[int, int]]]):
    """Samples batches of (0, index) for evaluation, each of images of one shape, so that nothing is padded.

    Every image occurs exactly once over all ranks; batch k belongs to rank k modulo world_size, so ranks may differ by
    one batch. Within a shape, the order is that of the data set. The tiles of an image are on one rank and follow each
    other, so that few images are unfinished at a time.

    Args:
        shapes: (h, w) of each image at the input of the model.
        batch_size: largest number of images per batch.
        rank: rank of this process, 0..world_size-1.
        world_size: number of processes.
        image_numbers: int [n], the same for all tiles of an image, in rising order; None: there are no tiles.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        image_numbers: np.ndarray[Any, Any] | None = None,
    ) -> None:
        assert batch_size >= 1
        assert 0 <= rank < world_size
        if image_numbers is not None:
            own = np.flatnonzero(image_numbers % world_size == rank).tolist()
            runs = [list(run) for _, run in groupby(own, key=lambda index: shapes[index])]
            self._batches = [run[i : i + batch_size] for run in runs for i in range(0, len(run), batch_size)]
            return
        groups: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            groups.setdefault(shape, []).append(index)
        batches = [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]
        self._batches = sorted(batches)[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(0, index) for index in batch] for batch in self._batches])


class EpochLoader(DataLoader[Any]):
    """A `DataLoader` over an `EpochBatchSampler`, which can begin in the middle of an epoch.

    `len` is always that of a whole epoch.
    """

    batch_sampler: EpochBatchSampler

    def __init__(self, dataset: DetectionDataset, sampler: EpochBatchSampler, **loading: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, **loading)
        self._waited = self._worked = 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the last pass, 0..1, that the consumer waited for batches.

        An upper limit if a GPU is still working in the meantime.
        """
        return self._waited / max(self._waited + self._worked, 1e-9)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next passes and their first batch, from 0."""
        self.batch_sampler.set_epoch(epoch, start_batch)

    @property
    def no_aug_from(self) -> tuple[int, int] | None:
        """See `EpochBatchSampler`."""
        return self.batch_sampler.no_aug_from

    @no_aug_from.setter
    def no_aug_from(self, position: tuple[int, int] | None) -> None:
        self.batch_sampler.no_aug_from = position

    @property
    def batches_ahead(self) -> int:
        """Largest number of batches that are sampled beyond the last one that was returned."""
        return self.num_workers * (self.prefetch_factor or 0)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return self._timed(super().__iter__())

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        self._waited = self._worked = 0.0
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            after = time.perf_counter()
            self._waited += after - before
            if batch is None:
                return
            yield batch
            self._worked += time.perf_counter() - after


def train_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    group_by_aspect: bool = False,
    min_batches: int = 1,
    repeats: np.ndarray[Any, Any] | None = None,
) -> EpochLoader:
    """Make the loader for training; see `EpochBatchSampler` for the order and `EpochLoader` for resuming.

    Args:
        dataset: the training set.
        batch_size: images per batch and rank.
        num_workers: number of worker processes; 0: load in this process.
        seed: seed of the order.
        rank: rank of this process, 0..world_size-1.
        world_size: number of processes.
        group_by_aspect: make batches of images of similar aspect ratio, which saves padding.
        min_batches: least number of batches per epoch; images are repeated if there are too few.
        repeats: see `EpochBatchSampler`.
    """
    ratios = dataset.aspect_ratios if group_by_aspect else None
    sampler = EpochBatchSampler(
        len(dataset),
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        aspect_ratios=ratios,
        min_batches=min_batches,
        repeats=repeats,
    )
    return EpochLoader(dataset, sampler, **_loading(num_workers))


def eval_loader(
    dataset: DetectionDataset, *, batch_size: int, num_workers: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Make the loader for evaluation, with batches of images of one shape; see `ShapeBatchSampler`.

    Arguments are those of `train_loader`; the transform of the dataset must be without randomness.
    """
    sampler = ShapeBatchSampler(
        dataset.shapes, batch_size, rank=rank, world_size=world_size, image_numbers=dataset.image_numbers
    )
    return DataLoader(dataset, batch_sampler=sampler, **_loading(num_workers))


def _loading(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
        "worker_init_fn": _begin_worker,
    }


def _begin_worker(worker: int) -> None:
    """Tie a worker to the main process.

    Signals to all processes of a run, such as Ctrl-C or the SIGTERM of `timeout`, should reach the main process alone,
    which saves before it ends. Workers end with the main process, also if it is killed: PyTorch watches the parent
    process for that, which under forkserver (the default of Python 3.14) is a server that outlives the main process.

    PyTorch sets one thread per worker by itself. The number of OpenCV threads is left alone: setting it in a process
    that was forked from one with OpenCV threads blocks forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # Windows has no groups
        os.setpgrp()
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: Any) -> None:
    main.join()
    os._exit(1)
