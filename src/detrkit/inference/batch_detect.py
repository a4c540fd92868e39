"""Detection in the images of a batch job, in this process: images in, rows of results out."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from detrkit.errors import DataError
from detrkit.inference.batch_results import Row
from detrkit.inference.batch_share import BatchImage
from detrkit.inference.detector import Detector
from detrkit.inference.prefetch import prefetch
from detrkit.inference.streaming import PREFETCH
from detrkit.results import Detections


@dataclass(frozen=True)
class DetectSettings:
    """Settings of the detections of a batch job, see `Detector.predict`."""

    threshold: float = 0.5
    top_k: int | None = None
    batch_size: int = 1


def detect_rows(detector: Detector, images: Iterable[BatchImage], settings: DetectSettings) -> Iterator[Row]:
    """Detect objects in images, decoded in threads; images of one shape share a forward pass.

    Yields:
        A row per image, in their order; that of an image that cannot be read has its `error`.
    """
    pending: deque[Row] = deque()  # rows in the order of the images; complete where they have an error

    def read(image: BatchImage) -> tuple[str, Tensor | DataError]:
        try:
            return image.name, detector.read(image.path)
        except DataError as error:
            return image.name, error

    def readable() -> Generator[Tensor]:
        for name, pixels in prefetch(read, images, max(PREFETCH, settings.batch_size)):
            if isinstance(pixels, DataError):
                pending.append({"file": name, "error": pixels.message})
            else:
                pending.append({"file": name})
                yield pixels

    def finished() -> Iterator[Row]:
        while pending and "error" in pending[0]:
            yield pending.popleft()

    given = readable()
    with contextlib.closing(given):
        first = next(given, None)
        if first is not None:
            ahead = max(PREFETCH, settings.batch_size)  # of resizing
            limits = settings.threshold, settings.top_k, settings.batch_size, ahead
            stream = detector.stream(_chained(first, given), *limits)
            for pixels, detections in stream:
                yield from finished()
                row = pending.popleft()
                yield row | {"height": pixels.shape[1], "width": pixels.shape[2], "detections": _rows(detections)}
        yield from finished()


def _chained(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest


def _rows(detections: Detections) -> list[Row]:
    return [
        {"category_id": row["category_id"], "category_name": name}
        | {key: value for key, value in row.items() if key not in ("image_id", "category_id")}
        for row, name in zip(detections.to_coco(), detections.class_names, strict=True)
    ]
