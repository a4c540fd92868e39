"""Images in any form, one or endlessly many, become batches for a backend, and its results return to their order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from detrkit.data.loader import collate
from detrkit.errors import ConfigError, DataError
from detrkit.inference.inputs import ImageInput, open_source
from detrkit.inference.prefetch import prefetch
from detrkit.results import Detections, PanopticMap
from detrkit.structures import Batch, Categories, Target

Item = TypeVar("Item")
Result = TypeVar("Result", Detections, PanopticMap)
Read = Callable[[ImageInput], tuple[Tensor, str | None]]
"""Decodes an image to uint8 [3, H, W] and names its source."""

Sample = Callable[[Tensor], tuple[Tensor, Target]]
"""Resizes an image uint8 [3, H, W] and notes its sizes."""

Predict = Callable[[Batch], list[Result]]
"""Makes a result for each image of a batch."""

Stream = Callable[[Iterable[ImageInput], int], Iterator[tuple[Tensor, str | None, Result]]]
"""From images and how many are read in advance to each image, its source and its result, in order."""

PREFETCH = 4
"""Images that are decoded and resized while the model runs on earlier ones; more where a batch is larger."""

WINDOW = 4
"""Batches' worth of images among which images of one shape are collected into a batch."""


def predict_all(source: Any, results_of: Stream[Result], batch_size: int, stream: str) -> Result | list[Result]:
    """Predict everything that a source stands for: one result for one image, a list for several.

    Args:
        source: in any form, see `inputs.open_source`.
        results_of: makes the results of images.
        batch_size: most images per batch.
        stream: the method that reads videos, for the message.

    Raises:
        DataError: there is nothing at `source`, it cannot be read, or it is a video.
    """
    kind, images = open_source(source)
    if kind == "video":
        raise DataError(
            f"expected images, found the video {os.fsdecode(source)}; Detector.{stream} gives its frames one at a time"
        )
    results = []
    for _, name, result in results_of(images, max(PREFETCH, batch_size)):
        results.append(replace(result, source=name) if isinstance(result, Detections) else result)
    return results[0] if kind == "one" else results


def stream_batches(
    images: Iterable[ImageInput],
    read: Read,
    sample: Sample,
    predict: Predict[Result],
    batch_size: int,
    limit: int,
) -> Iterator[tuple[Tensor, str | None, Result]]:
    """Predict images one after another; images of one shape share a batch.

    Args:
        images: may be endless.
        read: decodes an image.
        sample: resizes it.
        predict: makes the results of a batch.
        batch_size: most images per batch.
        limit: images that are decoded and resized early, in threads; 0: none.

    Yields:
        Each image, uint8 [3, H, W], its source and its result, in the order of `images`.
    """

    def prepared(image: ImageInput) -> tuple[Tensor, str | None, tuple[Tensor, Target]]:
        pixels, source = read(image)
        return pixels, source, sample(pixels)

    window = batch_size if batch_size == 1 else WINDOW * batch_size
    with contextlib.closing(prefetch(prepared, images, limit)) as ready:
        for held in batched(ready, window):
            results: dict[int, Result] = {}
            for indices in _of_one_shape([image for _, _, (image, _) in held], batch_size):
                batch = collate([held[k][2] for k in indices])
                results.update(zip(indices, predict(batch), strict=True))
            for k, (pixels, source, _) in enumerate(held):
                yield pixels, source, results.pop(k)


def _of_one_shape(images: Sequence[Tensor], batch_size: int) -> Iterator[tuple[int, ...]]:
    """Indices of images that share a shape, at most `batch_size` together."""
    groups: dict[torch.Size, list[int]] = {}
    for k, image in enumerate(images):
        groups.setdefault(image.shape, []).append(k)
    for group in groups.values():
        yield from batched(group, batch_size)


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`itertools.batched`, which Python 3.11 does not have."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch


def blank_batch(height: int, width: int, count: int) -> Batch:
    """A batch of black images of one size, without objects."""
    target = Target(
        labels=torch.zeros(0, dtype=torch.int64),
        boxes=torch.zeros(0, 4),
        size=(height, width),
        original_size=(height, width),
    )
    return collate([(torch.zeros(3, height, width, dtype=torch.uint8), target)] * count)


def sizes_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Heights and widths of images in the batch, without padding, and of the original images; int64 [B, 2] each.

    Raises:
        ConfigError: `batch` is not a batch, or its targets have no sizes.
    """
    if not isinstance(batch, Batch) or not all({"size", "original_size"} <= set(target) for target in batch.targets):
        raise ConfigError(
            "expected a Batch whose targets have size and original_size, as Detector.prepare makes it, found "
            + ("one without" if isinstance(batch, Batch) else f"a {type(batch).__name__}")
        )
    processed = torch.tensor([target["size"] for target in batch.targets], dtype=torch.int64)
    return processed, torch.tensor([target["original_size"] for target in batch.targets], dtype=torch.int64)


def with_names(segments: PanopticMap, categories: Categories) -> PanopticMap:
    """Move a map to main memory, and replace its class indices by original ids and names."""
    ids, names = categories.ids, categories.names
    rows = [
        row | {"category_id": ids[row["category_id"]], "category_name": names[row["category_id"]]}
        for row in segments.segments
    ]
    return PanopticMap(segments.ids.cpu(), rows)
