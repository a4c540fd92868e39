"""From pictures in any form, one or endlessly many, to batches that a network looks at, and back to their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

from detrkit.data.decode import to_tensor
from detrkit.data.loader import collate
from detrkit.errors import DataError
from detrkit.inference.ahead import ahead as in_threads
from detrkit.inference.sources import find_pictures, is_several, is_video
from detrkit.inference.video import read_frames
from detrkit.structures import Batch, Detections, PanopticMap, Target

Picture = Image | npt.NDArray[Any] | Tensor
"""A picture in memory, in any form that `data.decode.to_tensor` knows."""

Item = TypeVar("Item")
Result = TypeVar("Result", Detections, PanopticMap)
Sample = Callable[[Tensor], tuple[Tensor, Target]]
"""Resizes a picture uint8 [3, H, W] and notes its sizes."""

AHEAD = 4
"""Pictures that are decoded and resized ahead of the model; more where a batch is larger."""

WINDOW = 4
"""Batches' worth of pictures that are held while pictures of one shape are looked for."""


def look_at(
    source: Picture | str | Path | Sequence[Picture | str | Path],
    sample: Sample,
    look: Callable[[Batch], list[Result]],
    batch_size: int,
    tensor: Callable[[Picture | str | Path], Tensor] = to_tensor,
) -> Result | list[Result] | Iterator[Result]:
    """What `look` says of everything that a source stands for: one result, a list, or for a video an iterator.

    Pictures are read by `tensor`.

    Raises:
        DataError: there is nothing at `source`, it cannot be read, or a video is among several.
    """

    def read(item: Picture | str | Path) -> tuple[Tensor, str | None]:
        return tensor(item), str(item) if isinstance(item, str | Path) else None

    def found(items: Iterable[Item], read: Callable[[Item], tuple[Tensor, str | None]]) -> Iterator[Result]:
        looked = stream_batches(items, read, sample, look, batch_size, max(AHEAD, batch_size))
        for _, name, result in looked:
            yield replace(result, source=name) if isinstance(result, Detections) else result

    if isinstance(source, str | Path):
        if is_video(source):
            return found(read_frames(source), as_it_is)
        if not is_several(source):
            (result,) = found([source], read)
            return result
        return list(found(find_pictures(source), read))
    if isinstance(source, Image | np.ndarray | Tensor | bytes) or not isinstance(source, Iterable):
        (result,) = found([source], read)
        return result
    for item in source:
        if isinstance(item, str | Path) and is_video(item):
            raise DataError(f"expected pictures in a list, found the video {item}; give it by itself")
    expanded = chain.from_iterable(
        find_pictures(item) if isinstance(item, str | Path) and is_several(item) else [item] for item in source
    )
    return list(found(expanded, read))


def stream_batches(
    items: Iterable[Item],
    read: Callable[[Item], tuple[Tensor, str | None]],
    sample: Sample,
    look: Callable[[Batch], list[Result]],
    batch_size: int,
    limit: int,
) -> Iterator[tuple[Tensor, str | None, Result]]:
    """Each picture with its source and what `look` says of it, in order; pictures of one shape share a batch.

    Args:
        items: may be endless.
        read: makes a picture, uint8 [3, H, W], and its source of an item.
        sample: resizes it.
        look: gives a result for each picture of a batch.
        batch_size: most pictures a batch.
        limit: items that are read and resized ahead, in threads; 0: none.
    """

    def prepared(item: Item) -> tuple[Tensor, str | None, tuple[Tensor, Target]]:
        picture, source = read(item)
        return picture, source, sample(picture)

    window = batch_size if batch_size == 1 else WINDOW * batch_size
    with contextlib.closing(in_threads(prepared, items, limit)) as ready:
        for held in _batched(ready, window):
            found: dict[int, Result] = {}
            for places in _of_one_shape([image for _, _, (image, _) in held], batch_size):
                batch = collate([held[k][2] for k in places])
                found.update(zip(places, look(batch), strict=True))
            for k, (picture, source, _) in enumerate(held):
                yield picture, source, found.pop(k)


def as_it_is(item: tuple[Tensor, str | None]) -> tuple[Tensor, str | None]:
    """For items that are pictures with their sources already."""
    return item


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
