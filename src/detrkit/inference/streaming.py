"""From images in any form, one or endlessly many, to batches that a network looks at, and back to their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from detrkit.data.loader import collate
from detrkit.errors import ConfigError
from detrkit.inference.inputs import ImageInput, open_source
from detrkit.inference.prefetch import prefetch
from detrkit.results import Detections, PanopticMap
from detrkit.structures import Batch, Categories, Target

Item = TypeVar("Item")
Result = TypeVar("Result", Detections, PanopticMap)
Read = Callable[[ImageInput], tuple[Tensor, str | None]]
"""Decodes an image, and says its source."""

Sample = Callable[[Tensor], tuple[Tensor, Target]]
"""Resizes an image uint8 [3, H, W] and notes its sizes."""

PREFETCH = 4
"""Images that are decoded and resized ahead of the model; more where a batch is larger."""

WINDOW = 4
"""Batches' worth of images that are held while images of one shape are looked for."""


def run_batched(
    source: Any, read: Read, sample: Sample, look: Callable[[Batch], list[Result]], batch_size: int
) -> Result | list[Result] | Iterator[Result]:
    """What `look` says of everything that a source stands for: one result, a list, or for a video an iterator.

    Args:
        source: in any form, see `forms.open_source`.
        read: makes a tensor, uint8 [3, H, W], of an image.
        sample: resizes it.
        look: gives a result for each image of a batch.
        batch_size: most images per batch.

    Raises:
        DataError: there is nothing at `source`, it cannot be read, or a video is among several.
    """
    kind, images = open_source(source)

    def results() -> Iterator[Result]:
        for _, name, result in stream_batches(images, read, sample, look, batch_size, max(PREFETCH, batch_size)):
            yield replace(result, source=name) if isinstance(result, Detections) else result

    if kind == "video":
        return results()
    found = list(results())
    return found[0] if kind == "one" else found


def stream_batches(
    images: Iterable[ImageInput],
    read: Read,
    sample: Sample,
    look: Callable[[Batch], list[Result]],
    batch_size: int,
    limit: int,
) -> Iterator[tuple[Tensor, str | None, Result]]:
    """Each image with its source and what `look` says of it, in order; images of one shape share a batch.

    Args:
        images: may be endless.
        read: makes a tensor, uint8 [3, H, W], of one, and says its source.
        sample: resizes it.
        look: gives a result for each image of a batch.
        batch_size: most images per batch.
        limit: images that are read and resized ahead, in threads; 0: none.
    """

    def prepared(image: ImageInput) -> tuple[Tensor, str | None, tuple[Tensor, Target]]:
        pixels, source = read(image)
        return pixels, source, sample(pixels)

    window = batch_size if batch_size == 1 else WINDOW * batch_size
    with contextlib.closing(prefetch(prepared, images, limit)) as ready:
        for held in _batched(ready, window):
            found: dict[int, Result] = {}
            for places in _of_one_shape([image for _, _, (image, _) in held], batch_size):
                batch = collate([held[k][2] for k in places])
                found.update(zip(places, look(batch), strict=True))
            for k, (pixels, source, _) in enumerate(held):
                yield pixels, source, found.pop(k)


def _of_one_shape(images: Sequence[Tensor], batch_size: int) -> Iterator[tuple[int, ...]]:
    """Places of images that share a shape, at most `batch_size` together."""
    groups: dict[torch.Size, list[int]] = {}
    for k, image in enumerate(images):
        groups.setdefault(image.shape, []).append(k)
    for group in groups.values():
        yield from _batched(group, batch_size)


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
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
    """Heights and widths of the images in the batch and of the original ones, int64 [B, 2] each."""
    if not isinstance(batch, Batch) or not all({"size", "original_size"} <= set(target) for target in batch.targets):
        raise ConfigError(
            "expected a Batch whose targets have size and original_size, as Detector.prepare makes it, found "
            + ("one without" if isinstance(batch, Batch) else f"a {type(batch).__name__}")
        )
    processed = torch.tensor([target["size"] for target in batch.targets], dtype=torch.int64)
    return processed, torch.tensor([target["original_size"] for target in batch.targets], dtype=torch.int64)


def with_names(segments: PanopticMap, categories: Categories) -> PanopticMap:
    """A map of `postprocessing.panoptic` in main memory, with original ids and names instead of class indices."""
    ids, names = categories.ids, categories.names
    rows = [
        row | {"category_id": ids[row["category_id"]], "category_name": names[row["category_id"]]}
        for row in segments.segments
    ]
    return PanopticMap(segments.ids.cpu(), rows)
