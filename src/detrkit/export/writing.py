"""The steps of an export: what travels inside the file, tracing, writing, and comparing it with the model."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from detrkit import __version__
from detrkit.config.commands import ExportConfig
from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError
from detrkit.export.formats import Sample, write_onnx, write_openvino, write_tensorrt, write_torch
from detrkit.export.graph import BuiltinGraph, Graph, trace
from detrkit.export.parity import Report, compare_accuracy, compare_outputs, fill_up
from detrkit.inference.detector import Detector
from detrkit.inference.metadata import ExportMetadata
from detrkit.inference.optimized import HALVES
from detrkit.models.fuse_bn import fold_norms

BATCHES = (1, 2, 5)
"""Numbers of images that outputs are compared on."""


def make_metadata(config: ExportConfig, detector: Detector) -> ExportMetadata:
    """What shall travel inside the file.

    Raises:
        ConfigError: settings do not fit each other or the model.
    """
    model = detector.model
    size = parse_size(config.size)
    if model.square_resize:
        own = (detector.image_size, detector.image_size)
        if size not in (None, own):
            raise ConfigError(
                f"expected --size {own[0]}x{own[1]} or none for a model that takes squares, found {config.size}; "
                "--image_size changes that"
            )
        size = own if size or config.builtin else None
    if config.builtin and model.mask_head is not None:
        raise ConfigError(
            "expected a model of boxes alone for --builtin, found one with masks, which have no place in its outputs; "
            "export it without --builtin"
        )
    if config.builtin and size is None:
        shorter, longer = detector.image_size, detector.transform.longest
        raise ConfigError(
            f"expected --size with --builtin for this model, whose images keep their shape; for images that are "
            f"wider than high {shorter}x{longer} loses nothing, for all {longer}x{longer}"
        )
    if size and not config.builtin and min(size) < detector.image_size:
        raise ConfigError(
            f"expected --size of at least {detector.image_size} each way, to which shorter sides of images are "
            f"resized, found {config.size}; choose a larger one, or a smaller --image_size"
        )
    if config.precision == "int8" and config.format not in ("onnx", "openvino"):
        raise ConfigError(f"expected --format onnx or openvino for --precision int8, found {config.format}")
    if config.precision == "bf16" and config.format not in ("openvino", "torch"):
        raise ConfigError(f"expected --format openvino or torch for --precision bf16, found {config.format}")
    if config.precision == "int8" and not has_data(config):
        raise ConfigError("expected --data for --precision int8, to measure ranges on, found none")
    count = min(config.max_queries or model.num_queries, model.num_queries)
    return ExportMetadata(
        categories=detector.categories,
        image_size=detector.image_size,
        num_queries=count,
        top_k=count if model.sigmoid else 0,
        mean=model.input_mean,
        std=model.input_std,
        sigmoid=model.sigmoid,
        square_resize=model.square_resize,
        masks=model.mask_head is not None,
        value_range=detector.value_range,
        builtin=config.builtin,
        size=size,
        batch_size=config.fixed_batch or None,
        precision=config.precision,
        weights=Path(config.weights).name,
        detrkit=__version__,
    )


def write(
    detector: Detector, output: Path, metadata: ExportMetadata, config: ExportConfig, samples: list[Sample]
) -> None:
    """Trace the model and write it in the format that is asked for.

    Args:
        detector: whose model it is.
        output: file to write.
        metadata: what travels inside.
        config: the format, and `max_queries`.
        samples: what int8 is calibrated with.
    """
    # in OpenVINO it is the runtime that rounds
    half = HALVES.get(metadata.precision) if config.format != "openvino" else None
    inner = Graph(fold_norms(detector.model), config.max_queries, half)
    graph: Graph | BuiltinGraph = inner
    if metadata.builtin:
        assert metadata.size
        graph = BuiltinGraph(inner, metadata.image_size, metadata.size)
    program = trace(graph, size=metadata.size, batch_size=metadata.batch_size)
    if config.format == "torch":
        write_torch(program, output, metadata)
    elif config.format == "onnx":
        write_onnx(program, output, metadata, samples)
    elif config.format == "openvino":
        write_openvino(program, output, metadata, samples)
    else:
        low, usual, high = metadata.image_size // 2, metadata.image_size, detector.transform.longest
        write_tensorrt(program, output, metadata, [(low, low), (usual, usual * 4 // 3), (high, high)])


def compare(config: ExportConfig, reference: Detector, exported: Detector, split: Split | None) -> Report:
    """Outputs on images of a split, or on noise without one; then accuracy on it."""
    image_tensors = (
        [_pixels(image, split) for image in split.images[: max(BATCHES)]] if split else _noise(reference, config)
    )
    outputs = compare_outputs(reference, exported, image_tensors, BATCHES)
    accuracy = []
    if split:
        accuracy = compare_accuracy(
            reference,
            exported,
            split,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            quiet=config.quiet,
        )
    return Report(outputs, accuracy, len(split) if split else 0, config.max_ap_drop)


def parse_size(text: str) -> tuple[int, int] | None:
    """Height and width in pixels of a setting such as 640x480; None where it is empty.

    Raises:
        ConfigError: it is something else.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found or not int(found[1]) or not int(found[2]):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels, such as 640x640, found {text!r}")
    return int(found[1]), int(found[2])


def calibration_samples(config: ExportConfig, detector: Detector, splits: dict[str, Split]) -> list[Sample]:
    """Inputs to calibrate with, one image each, spread over the split; as the graph gets them."""
    if config.precision != "int8":
        return []
    split = splits.get("train", splits[config.split])
    images = split.images
    step = max(1, len(images) // config.calibration)
    size, samples = parse_size(config.size), []
    for image in images[::step][: config.calibration]:
        pixels = _pixels(image, split)
        if config.builtin:
            samples.append({"images": _times(pixels[None], config.fixed_batch)})
            continue
        batch = detector.prepare([pixels])
        filled, padding_mask = fill_up(batch.images, batch.padding_mask, size)
        sample = {"images": filled, "padding_mask": padding_mask}
        samples.append({name: _times(tensor, config.fixed_batch) for name, tensor in sample.items()})
    return samples


def _pixels(image: ImageRecord, split: Split) -> Tensor:
    return read_image(image.path, split.value_range, unknown=ignore_unknown_range)


def _times(one: Tensor, count: int) -> Tensor:
    return one.expand(max(1, count), *one.shape[1:]).contiguous()


def _noise(detector: Detector, config: ExportConfig) -> list[Tensor]:
    """Images of coarse noise in two shapes, where there are no real ones; a graph of one size takes them."""
    generator = torch.Generator().manual_seed(0)
    side, size = detector.image_size, None if config.builtin else parse_size(config.size)
    shapes = [(side, side * 4 // 3), (side, side)]
    if size and size[1] < shapes[0][1] and not detector.backend.square_resize:
        shapes[0] = (side, side)
    coarse = [torch.randint(0, 256, (1, 3, 6, 6), generator=generator).float() for _ in range(max(BATCHES))]
    return [
        torch.nn.functional.interpolate(each, size=shapes[k % 2], mode="bilinear")[0].to(torch.uint8)
        for k, each in enumerate(coarse)
    ]


def has_data(config: ExportConfig) -> bool:
    """Whether the settings name a data set."""
    return bool(config.data or config.train_json or config.val_json)
