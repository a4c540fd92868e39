"""The detectors of a server: from uploads to detections, many requests at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from detrkit.config.serving import ServeLimits
from detrkit.errors import ConfigError
from detrkit.inference import Detector
from detrkit.results import Detections
from detrkit.serving.admission import Admission
from detrkit.serving.batcher import Batcher
from detrkit.serving.check_image import Upload, decode_upload
from detrkit.serving.metrics import Metrics
from detrkit.serving.refused import RefusedError
from detrkit.structures import Batch

T = TypeVar("T")

THREADS = min(4, os.cpu_count() or 1)
"""Threads that decode images and write answers."""


class DetectSettings(NamedTuple):
    """Arguments of `Detector.detect`, and of `Detector.predict`."""

    threshold: float
    top_k: int | None


class BatchKey(NamedTuple):
    """What images of one forward pass have in common."""

    settings: DetectSettings
    shape: tuple[int, ...]
    alone: int = 0
    """A number of its own for an image that is cut into tiles."""


@dataclass(frozen=True)
class ImageResult:
    """The detections of one image."""

    name: str
    detections: Detections
    notes: list[str]


class ServedModel:
    """A detector, and the thread that it runs in.

    Args:
        name: by which requests choose it.
        detector: to run.
        limits: of the server.
        record: called with the name, number of images and seconds of every forward pass.
    """

    def __init__(
        self, name: str, detector: Detector, limits: ServeLimits, record: Callable[[str, int, float], None]
    ) -> None:
        self.name, self.detector, self.limits, self._record = name, detector, limits, record
        self.batcher: Batcher[Batch | Tensor, Detections] = Batcher(
            self._run, limits.batch_size, limits.batch_wait / 1000, name, self.detector.warmup
        )

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.detector.backend.makes_masks

    def prepare(self, upload: Upload, settings: DetectSettings) -> tuple[BatchKey, Batch | Tensor, list[str]]:
        """Decode and resize an image, or only decode one that is cut into tiles.

        Raises:
            RefusedError: the file is no image, or none that is accepted.
        """
        pixels, notes = decode_upload(upload, self.detector.value_range, self.limits)
        tiling = self.detector.preprocessing.tiling
        if tiling and len(tiling.grid(pixels.shape[1], pixels.shape[2])) > 1:
            return BatchKey(settings, tuple(pixels.shape), id(pixels)), pixels, notes
        batch = self.detector.prepare([pixels])
        return BatchKey(settings, tuple(batch.images.shape[2:])), batch, notes

    def _run(self, key: Hashable, items: Sequence[Batch | Tensor]) -> list[Detections]:
        assert isinstance(key, BatchKey)
        started = time.perf_counter()
        batches = [item for item in items if isinstance(item, Batch)]
        if batches:
            results = self.detector.detect(_joined(batches), **key.settings._asdict())
        else:
            results = [
                self.detector.predict(item, batch_size=self.limits.batch_size, **key.settings._asdict())
                for item in items
                if isinstance(item, Tensor)
            ]
        self._record(self.name, len(items), time.perf_counter() - started)
        return results


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several that have images of one shape, without padding."""
    return Batch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.padding_mask for batch in batches]),
        [target for batch in batches for target in batch.targets],
    )


class Service:
    """The detectors of a server.

    Args:
        detectors: by name; the first answers requests that name none.
        limits: what is refused.

    Raises:
        ConfigError: there is no detector.
    """

    def __init__(self, detectors: Mapping[str, Detector], limits: ServeLimits) -> None:
        if not detectors:
            raise ConfigError("expected at least one detector to serve, found none")
        self.limits, self.metrics, self.admission = limits, Metrics(), Admission(limits)
        self.metrics.open_images.set_function(lambda: self.admission.images)
        self.models = {name: ServedModel(name, detector, limits, self._record) for name, detector in detectors.items()}
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the threads and warm the models up; does nothing where this was done before."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="detrkit images")
            for model in self.models.values():
                model.batcher.start()

    def close(self) -> None:
        """Answer what is in the queues, and end the threads."""
        for model in self.models.values():
            model.batcher.close()
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def ready(self) -> bool:
        """Whether all models can answer."""
        return all(model.batcher.alive for model in self.models.values())

    def model(self, name: str | None) -> ServedModel:
        """The model of a name; None: the first.

        Raises:
            RefusedError: 404, there is none of that name.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RefusedError(404, f"expected one of the models {', '.join(self.models)}, found {name[:100]!r}")
        return self.models[name]

    async def detect(
        self, model: ServedModel, uploads: Sequence[Upload], settings: DetectSettings
    ) -> list[ImageResult]:
        """Detect objects in the images of a request; when this is cancelled, so is what has not begun.

        Raises:
            RefusedError: a file is no image, or none that is accepted.
            DetrkitError: the detector refuses the image.
        """
        tasks = [asyncio.ensure_future(self._detect_one(model, upload, settings)) for upload in uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _detect_one(self, model: ServedModel, upload: Upload, settings: DetectSettings) -> ImageResult:
        key, item, notes = await self.in_thread(lambda: model.prepare(upload, settings))
        return ImageResult(upload.name, await asyncio.wrap_future(model.batcher.submit(key, item)), notes)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a function in one of the threads for images and answers."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def _record(self, model: str, images: int, seconds: float) -> None:
        self.metrics.record_batch(model, images, seconds)
        self.admission.record(images, seconds)
