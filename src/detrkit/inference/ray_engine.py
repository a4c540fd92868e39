"""Detection in the images of a batch job on a Ray cluster, by Ray Data: one detector per actor.

Only paths go to the actors and only rows of results come back: each actor decodes its own images, a chunk at a time.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from detrkit.config.commands import PredictConfig
from detrkit.errors import DetrkitError, MissingExtraError
from detrkit.inference.batch_detect import DetectSettings, detect_rows
from detrkit.inference.batch_results import Row
from detrkit.inference.batch_share import BatchImage
from detrkit.inference.load_detector import load_detector

CHUNK = 16
"""Least number of images per task; these are done again if their actor dies."""

IN_FLIGHT = 2
"""Tasks per actor that run or wait for it, so that neither paths nor rows pile up."""


class DetectionActor:
    """A detector in a process of its own, which Ray starts again if it dies.

    Args:
        config: settings of the command.
        settings: settings of the detections.
    """

    def __init__(self, config: PredictConfig, settings: DetectSettings) -> None:
        self._detector = load_detector(config, precision=config.precision, compile=config.compile)
        self._settings = settings

    def __call__(self, chunk: Mapping[str, Any]) -> dict[str, list[str]]:
        """Detect objects in the images of a chunk, whose columns are `name` and `path`; gives rows as JSON."""
        images = [BatchImage(str(n), str(p)) for n, p in zip(chunk["name"], chunk["path"], strict=True)]
        return {"row": [json.dumps(row) for row in detect_rows(self._detector, images, self._settings)]}


def detect_with_ray(config: PredictConfig, images: Sequence[BatchImage], settings: DetectSettings) -> Iterator[Row]:
    """Detect objects in images on a Ray cluster: that of RAY_ADDRESS or of a program that has begun one, or else one of
    the processors of this machine.

    Args:
        config: settings of the command. Weights and images must be at the same path on all machines.
        images: images to detect objects in.
        settings: settings of the detections; images of one shape of a chunk share a forward pass.

    Yields:
        A row per image, in any order.

    Raises:
        MissingExtraError: Ray is not installed.
        WeightsError: the weights cannot be read.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--engine ray", "ray") from error
    load_detector(replace(config, device="cpu"), precision="fp32", compile="off")  # errors come before any process
    weights = _absolute(config.weights) if os.path.exists(config.weights) else config.weights  # noqa: PTH110
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield from _rows(replace(config, weights=weights), images, settings)
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
        if isinstance(cause, DetrkitError):
            raise cause from error
        raise
    finally:
        if ours:
            ray.shutdown()


def _rows(config: PredictConfig, images: Sequence[BatchImage], settings: DetectSettings) -> Iterator[Row]:
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cluster = ray.cluster_resources()
    gpus = 0 if config.device == "cpu" else int(cluster.get("GPU", 0))
    chunk = max(CHUNK, 4 * settings.batch_size)
    tasks = -(-len(images) // chunk)
    actors = min(config.num_actors or gpus or max(1, int(cluster.get("CPU", 1))), tasks)
    items = [{"name": image.name, "path": _absolute(image.path)} for image in images]
    rows = ray.data.from_items(items, override_num_blocks=tasks).map_batches(
        DetectionActor,
        fn_constructor_args=(config, settings),
        batch_size=chunk,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in rows.iter_rows():
        yield json.loads(row["row"])


def _absolute(path: str) -> str:
    """A path that holds in the working folder of an actor, too; an address stays as it is."""
    return path if re.match(r"[A-Za-z][\w+.-]+:/", path) else os.path.abspath(path)  # noqa: PTH100
