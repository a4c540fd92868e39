"""The steps of an export: describe the model, collect inputs for int8, trace the graph and write the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from detrkit.config.commands import ExportConfig
from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.exporting.formats.export_format import Sample, TracedGraph
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.formats.table import FORMATS, export_format
from detrkit.exporting.graph import BuiltinGraph, Graph, trace
from detrkit.exporting.parity import fill_up, read_input
from detrkit.inference.detector import Detector
from detrkit.inference.optimized import HALVES
from detrkit.models.fuse_bn import fold_norms
from detrkit.version import __version__


def make_metadata(config: ExportConfig, detector: Detector) -> ExportMetadata:
    """Describe the model to export, for the file.

    Raises:
        ConfigError: settings do not fit each other or the model.
    """
    model = detector.model
    size = parse_size(config.size)
    if detector.preprocessing.square_resize:
        own = (detector.image_size, detector.image_size)
        if size not in (None, own):
            raise ConfigError(
                f"expected --size {own[0]}x{own[1]} or none for a model that takes squares, found {config.size}; "
                "--image_size changes that"
            )
        size = own if size or config.builtin or not model.exports_any_size else None
    elif size is None and not model.exports_any_size:
        raise ConfigError(
            f"expected --size for this model, whose graph is for images of one size, found none; --size "
            f"{detector.image_size}x{detector.transform.longest} holds all images that are wider than high"
        )
    flag = "--triton" if config.triton else "--builtin"
    if config.builtin and model.makes_masks:
        raise ConfigError(
            f"expected a model of boxes alone for {flag}, found one with masks, which have no place in its outputs; "
            f"export it without {flag}"
        )
    if config.builtin and size is None:
        shorter, longer = detector.image_size, detector.transform.longest
        raise ConfigError(
            f"expected --size with {flag} for this model, whose images keep their shape; for images that are "
            f"wider than high {shorter}x{longer} loses nothing, for all {longer}x{longer}"
        )
    if size and not config.builtin and min(size) < detector.image_size:
        raise ConfigError(
            f"expected --size of at least {detector.image_size} each way, to which shorter sides of images are "
            f"resized, found {config.size}; choose a larger one, or a smaller --image_size"
        )
    _check_format(config)
    count = min(config.max_queries or model.num_queries, model.num_queries)
    return ExportMetadata(
        categories=detector.categories,
        preprocessing=replace(detector.preprocessing, mean=model.mean, std=model.std),
        num_queries=count,
        top_k=count if model.sigmoid else 0,
        sigmoid=model.sigmoid,
        masks=model.makes_masks,
        builtin=config.builtin,
        size=size,
        batch_size=config.fixed_batch or None,
        precision=config.precision,
        weights=Path(config.weights).name,
        detrkit=__version__,
    )


def _check_format(config: ExportConfig) -> None:
    """Make sure that a format can be written with the settings.

    Raises:
        ConfigError: it cannot.
    """
    if config.precision not in export_format(config.format).precisions:
        able = " or ".join(each.name for each in FORMATS if config.precision in each.precisions)
        raise ConfigError(f"expected --format {able} for --precision {config.precision}, found {config.format}")
    if config.for_tensorrt and config.format not in ("onnx", "tensorrt"):
        raise ConfigError(
            f"expected --format onnx for --for_tensorrt, found {config.format}; TensorRT reads ONNX files alone"
        )
    if config.precision == "int8" and not has_data(config):
        raise ConfigError("expected --data for --precision int8, to measure ranges on, found none")


def write_file(
    detector: Detector, path: Path, metadata: ExportMetadata, config: ExportConfig, calibration: list[Sample]
) -> None:
    """Trace the model and write it; arguments as in `trace_model`, and the path of the file."""
    export_format(config.format).write(trace_model(detector, metadata, config, calibration), path)


def trace_model(
    detector: Detector, metadata: ExportMetadata, config: ExportConfig, calibration: list[Sample]
) -> TracedGraph:
    """Trace the model for its format.

    Args:
        detector: holds the model, which stays as it is.
        metadata: describes the model.
        config: the format, `max_queries` and `for_tensorrt`.
        calibration: inputs to measure the ranges of int8 with.
    """
    half = None if export_format(config.format).rounds_itself else HALVES.get(metadata.precision)
    inner = Graph(fold_norms(detector.model), config.max_queries, half)
    graph: Graph | BuiltinGraph = inner
    if metadata.builtin:
        assert metadata.size
        graph = BuiltinGraph(inner, metadata.preprocessing, metadata.size)
    program = trace(graph, size=metadata.size, batch_size=metadata.batch_size)
    return TracedGraph(program, metadata, calibration, config.for_tensorrt)


def parse_size(text: str) -> tuple[int, int] | None:
    """Height and width in pixels of a setting such as 640x480; None where it is empty.

    Raises:
        ConfigError: it is something else.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels, such as 640x640, found {text!r}")
    return int(match[1]), int(match[2])


def calibration_samples(config: ExportConfig, detector: Detector, splits: dict[str, Split]) -> list[Sample]:
    """Inputs to measure the ranges of int8 with: single images, spread over the split, as the graph gets them."""
    if config.precision != "int8":
        return []
    split = splits.get("train", splits[config.split])
    images = split.images
    step = max(1, len(images) // config.calibration)
    size, samples = parse_size(config.size), []
    for image in images[::step][: config.calibration]:
        pixels = read_input(image, split.value_range, detector)
        if config.builtin:
            samples.append({"images": _repeat(pixels[None], config.fixed_batch)})
            continue
        batch = detector.prepare([pixels])
        padded, padding_mask = fill_up(batch.images, batch.padding_mask, size)
        sample = {"images": padded, "padding_mask": padding_mask}
        samples.append({name: _repeat(tensor, config.fixed_batch) for name, tensor in sample.items()})
    return samples


def _repeat(one: Tensor, count: int) -> Tensor:
    """[1, ...] -> [count, ...], at least one."""
    return one.expand(max(1, count), *one.shape[1:]).contiguous()


def has_data(config: ExportConfig) -> bool:
    """Whether the settings name a data set."""
    return bool(config.data or config.train_json or config.val_json)
