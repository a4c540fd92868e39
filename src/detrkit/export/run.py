"""`detrkit export`: weights in; a file for another runtime out, with a report of how far the two agree."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit import __version__
from detrkit.data.check import check_dataset
from detrkit.data.decode import read_image, say_nothing
from detrkit.data.find import open_dataset
from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError
from detrkit.evaluation.run import made_split
from detrkit.export.formats import (
    Sample,
    check_packages,
    write_onnx,
    write_openvino,
    write_tensorrt,
    write_torch,
)
from detrkit.export.graph import BuiltinGraph, Graph, trace
from detrkit.export.parity import Report, compare_accuracy, compare_outputs
from detrkit.files import SUFFIX_OF_FORMAT, write_atomic
from detrkit.inference.card import Card
from detrkit.inference.detector import Detector
from detrkit.inference.fast import HALVES
from detrkit.models.folding import fold_norms
from detrkit.value_range import UNKNOWN_RANGE, ValueRange
from detrkit.verbs import ExportConfig

if TYPE_CHECKING:
    from rich.table import Table

    from detrkit.console import TextConsole

BATCHES = (1, 2, 5)
"""Numbers of pictures that outputs are compared on."""


def export(config: ExportConfig) -> Report:
    """Write the file, print how far its outputs and its accuracy are from the model's, and write that down beside it.

    The file stays where accuracy falls by too much, since one may want to look at it; the error says so.

    Returns:
        The content of the report (`FILE.parity.json`).

    Raises:
        ConfigError: settings do not fit each other or the model, or the file has lost too much accuracy.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    from detrkit.console import make_console

    console = make_console()
    output = _output(config)
    check_packages(config.format)
    reference = Detector.load(
        config.weights,
        device="cpu",
        image_size=config.image_size,
        dilation=config.dilation,
        nheads=config.nheads,
        precision="plain",
    )
    card = make_card(config, reference)
    splits = _read(config, reference.value_range)
    with console.status("Exporting"):
        write(reference, output, card, config, _samples(config, reference, splits))
    size = sum(path.stat().st_size for path in (output, output.with_suffix(".bin")) if path.is_file()) / 2**20
    console.print(f"Wrote {output} ({size:.1f} MiB), {card.precision}")
    with console.status("Comparing"):
        exported = Detector.load(output, device="cuda" if config.format == "tensorrt" else "cpu")
        report = compare(config, reference, exported, splits.get(config.split))
    path = output.with_name(f"{output.name}.parity.json")
    write_atomic(path, json.dumps({"file": output.name, "card": json.loads(card.to_json())} | report.to_plain()))
    _show(console, report, output)
    console.print(f"Report: {path}")
    for row in report.failed:
        raise ConfigError(
            f"{row.name} falls from {row.reference:.4f} to {row.exported:.4f} by exporting, by more than --max_ap_drop "
            f"{config.max_ap_drop:g}; {output} is there, but better not used: export with another --precision, or for "
            "int8 with another number of pictures for --calibration"
        )
    return report


def make_card(config: ExportConfig, detector: Detector) -> Card:
    """What shall travel inside the file.

    Raises:
        ConfigError: settings do not fit each other or the model.
    """
    model = detector.model
    size = _size(config.size)
    if model.square:
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
            f"expected --size with --builtin for this model, whose pictures keep their shape; for pictures that are "
            f"wider than high {shorter}x{longer} loses nothing, for all {longer}x{longer}"
        )
    if config.precision == "int8" and config.format not in ("onnx", "openvino"):
        raise ConfigError(f"expected --format onnx or openvino for --precision int8, found {config.format}")
    if config.precision == "bf16" and config.format not in ("openvino", "torch"):
        raise ConfigError(f"expected --format openvino or torch for --precision bf16, found {config.format}")
    if config.precision == "int8" and not _has_data(config):
        raise ConfigError("expected --data for --precision int8, to measure ranges on, found none")
    count = min(config.max_queries or model.num_queries, model.num_queries)
    return Card(
        categories=detector.categories,
        image_size=detector.image_size,
        num_queries=count,
        top_k=count if model.sigmoid else 0,
        mean=model.input_mean,
        std=model.input_std,
        sigmoid=model.sigmoid,
        square=model.square,
        masks=model.mask_head is not None,
        value_range=detector.value_range,
        builtin=config.builtin,
        size=size,
        batch_size=config.fixed_batch or None,
        precision=config.precision,
        weights=Path(config.weights).name,
        detrkit=__version__,
    )


def write(detector: Detector, output: Path, card: Card, config: ExportConfig, samples: list[Sample]) -> None:
    """Trace the model and write it in the format that is asked for.

    Args:
        detector: whose model it is.
        output: file to write.
        card: what travels inside.
        config: the format, and `max_queries`.
        samples: what int8 is calibrated with.
    """
    # in OpenVINO it is the runtime that rounds
    half = HALVES.get(card.precision) if config.format != "openvino" else None
    inner = Graph(fold_norms(detector.model), config.max_queries, half)
    graph: Graph | BuiltinGraph = inner
    if card.builtin:
        assert card.size
        graph = BuiltinGraph(inner, card.image_size, card.size)
    program = trace(graph, size=card.size, batch_size=card.batch_size)
    if config.format == "torch":
        write_torch(program, output, card)
    elif config.format == "onnx":
        write_onnx(program, output, card, samples)
    elif config.format == "openvino":
        write_openvino(program, output, card, samples)
    else:
        low, usual, high = card.image_size // 2, card.image_size, detector.transform.longest
        write_tensorrt(program, output, card, [(low, low), (usual, usual * 4 // 3), (high, high)])


def compare(config: ExportConfig, reference: Detector, exported: Detector, split: Split | None) -> Report:
    """Outputs on pictures of a split, or on noise without one; then accuracy on it."""
    pictures = [_pixels(image, split) for image in split.images[: max(BATCHES)]] if split else _noise(reference)
    if config.builtin:  # which takes no padding
        pictures = pictures[:1]
    outputs = compare_outputs(reference, exported, pictures, BATCHES)
    accuracy = []
    if split:
        accuracy = compare_accuracy(
            reference, exported, split, batch_size=config.batch_size, num_workers=config.num_workers
        )
    return Report(outputs, accuracy, len(split) if split else 0, config.max_ap_drop)


def _output(config: ExportConfig) -> Path:
    suffix, source = SUFFIX_OF_FORMAT[config.format], Path(config.weights)
    if config.output:
        path = Path(config.output)
        if path.suffix.lower() != suffix:
            raise ConfigError(f"expected --output to end in {suffix} for --format {config.format}, found {path}")
        return path
    if source.is_dir():
        return source / f"best{suffix}"
    return source.with_suffix(suffix) if source.exists() else Path(f"{source.name}{suffix}")


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found or not int(found[1]) or not int(found[2]):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels, such as 640x640, found {text!r}")
    return int(found[1]), int(found[2])


def _has_data(config: ExportConfig) -> bool:
    return bool(config.data or config.train_json or config.val_json)


def _read(config: ExportConfig, value_range: ValueRange | None) -> dict[str, Split]:
    """The splits that are needed: that to measure on, and that to calibrate on; none without --data.

    Their pictures are scaled by the range of the model.
    """
    if not _has_data(config):
        return {}
    raw = open_dataset(**config.whereabouts(), **made_split(config.weights))
    has_train = config.precision == "int8" and "train" in raw.splits
    wanted = {config.split, *({"train"} if has_train else ())}
    report = check_dataset(raw, num_queries=2**31, wanted=wanted, value_range=value_range)
    splits = report.splits
    if value_range is None and "image_16bit" in report.counts():
        warnings.warn(UNKNOWN_RANGE, stacklevel=2)
    if config.max_images:
        split = splits[config.split]
        splits = splits | {config.split: replace(split, images=split.images[: config.max_images])}
    return splits


def _samples(config: ExportConfig, detector: Detector, splits: dict[str, Split]) -> list[Sample]:
    """Inputs to calibrate with, one picture each, spread over the split; as the graph gets them."""
    if config.precision != "int8":
        return []
    split = splits.get("train", splits[config.split])
    images = split.images
    step = max(1, len(images) // config.calibration)
    size, samples = _size(config.size), []
    for image in images[::step][: config.calibration]:
        pixels = _pixels(image, split)
        if config.builtin:
            samples.append({"images": _times(pixels[None], config.fixed_batch)})
            continue
        batch = detector.prepare([pixels])
        sample = {"images": batch.images, "padding_mask": batch.padding_mask}
        if size:
            missing = (0, size[1] - batch.images.shape[-1], 0, size[0] - batch.images.shape[-2])
            sample = {
                "images": torch.nn.functional.pad(batch.images, missing),
                "padding_mask": torch.nn.functional.pad(batch.padding_mask, missing, value=True),
            }
        samples.append({name: _times(tensor, config.fixed_batch) for name, tensor in sample.items()})
    return samples


def _pixels(image: ImageRecord, split: Split) -> Tensor:
    return read_image(image.path, split.value_range, unknown=say_nothing)


def _times(one: Tensor, count: int) -> Tensor:
    return one.expand(max(1, count), *one.shape[1:]).contiguous()


def _noise(detector: Detector) -> list[Tensor]:
    """Pictures of coarse noise in two shapes, where there are no real ones."""
    generator = torch.Generator().manual_seed(0)
    side = detector.image_size
    shapes = [(side, side * 4 // 3), (side, side)]
    coarse = [torch.randint(0, 256, (1, 3, 6, 6), generator=generator).float() for _ in range(max(BATCHES))]
    return [
        torch.nn.functional.interpolate(each, size=shapes[k % 2], mode="bilinear")[0].to(torch.uint8)
        for k, each in enumerate(coarse)
    ]


def _show(console: TextConsole, report: Report, output: Path) -> None:
    from rich.table import Table

    masks = ["masks"] if report.outputs[0].masks is not None else []
    table = Table("pictures", "size", "padding", "scores", "boxes", *masks, "ms", "PyTorch ms", title=output.name)
    for row in report.outputs:
        apart = [f"{far:.1e}" for far in (row.scores, row.boxes, row.masks) if far is not None]
        size, padding = f"{row.size[0]} x {row.size[1]}", "yes" if row.padded else "no"
        table.add_row(str(row.batch), size, padding, *apart, f"{row.ms:.1f}", f"{row.reference_ms:.1f}")
    console.print(table)
    if not report.accuracy:
        console.print("Accuracy is not measured without --data")
        return
    accuracy: Table = Table(f"on {report.pictures} pictures", "PyTorch", "exported", "drop")
    for line in report.accuracy:
        accuracy.add_row(line.name, f"{line.reference:.4f}", f"{line.exported:.4f}", f"{line.drop:+.4f}")
    console.print(accuracy)
