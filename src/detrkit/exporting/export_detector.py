"""Export a detector: weights in; a file for another runtime out, with a report of how far the two agree."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detrkit.config.commands import ExportConfig
from detrkit.config.options import config_from_options
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.held_out import read_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DetrkitWarning
from detrkit.exporting.formats.export_format import ExportFormat
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.formats.table import export_format, format_of_suffix
from detrkit.exporting.int8_search import Int8Step, write_int8
from detrkit.exporting.parity import Report, compare
from detrkit.exporting.triton import CONFIG_FILE, MODEL_FILE, REPORT_FILE, config_text, model_folder
from detrkit.exporting.writing import calibration_samples, has_data, make_metadata, trace_model, write_file
from detrkit.files import atomic_folder, write_atomic
from detrkit.inference.detector import Detector
from detrkit.inference.exported import is_exported
from detrkit.inference.load_detector import load_detector
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange

Status = Callable[[str], AbstractContextManager[object]]
"""Shows a word for what is being done, while it is done."""


@dataclass(frozen=True)
class ExportResult:
    """An exported file and its parity report."""

    path: Path
    """The file."""
    report_path: Path
    """The parity report as JSON, beside the file."""
    metadata: ExportMetadata
    """The metadata in the file."""
    report: Report
    """How far the file's outputs and accuracy are from the model's."""
    megabytes: float
    """Size of the file with its companions, in MiB."""
    int8_steps: tuple[Int8Step, ...] = ()
    """Files that were measured on the way to one that keeps its AP; the last is that of the file. int8 alone."""


def export(
    weights: str | os.PathLike[str],
    format: str = "onnx",
    output: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Path:
    """Export weights to a file that other runtimes, and `Detector.load`, run.

        path = detrkit.export("runs/mine", "openvino", precision="int8", data="DATA")

    Args:
        weights: a run folder, a checkpoint, a published name, a .pth of the reference DETR or a Hugging Face folder.
        format: onnx, openvino, torch or tensorrt.
        output: the file to write; None: beside the weights, with the suffix of the format.
        options: further settings of `detrkit export`, under the names of its flags (`ExportConfig`).

    Returns:
        The file. The parity report lies beside it, as FILE.parity.json, or in the folder of a model of Triton.

    Raises:
        ConfigError: there is no such option or format, settings do not fit each other or the model, or the file has
            lost more accuracy than `max_ap_drop`.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    options = {"quiet": True, **options, "format": format, "output": "" if output is None else os.fspath(output)}
    config = config_from_options(ExportConfig, weights=os.fspath(weights), **options)
    result = export_detector(config)
    check_accuracy(result, config)
    return result.path


def export_detector(config: ExportConfig, status: Status = nullcontext) -> ExportResult:
    """Write the file, compare it with the model, and write the parity report beside it.

    Args:
        config: the settings of `detrkit export`.
        status: shows a word for what is being done, while it is done.

    Raises:
        ConfigError: settings do not fit each other or the model, or the file's outputs have NaN.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    if is_exported(config.weights):
        raise ConfigError(
            f"expected weights to export, found the exported file {config.weights}; name the checkpoint or run folder "
            "that it was made from"
        )
    if config.triton:
        return _export_to_triton(config, status)
    path = _output_path(config, export_format(config.format))
    return _write_and_compare(config, path, path.with_name(f"{path.name}.parity.json"), status)


def _export_to_triton(config: ExportConfig, status: Status) -> ExportResult:
    """Add a model to a repository of Triton, whole or not at all.

    Raises:
        ConfigError: as `export_detector`, or the file has lost more accuracy than `max_ap_drop`.
    """
    folder, config = model_folder(config), replace(config, builtin=True)
    with atomic_folder(folder) as temporary:
        result = _write_and_compare(config, temporary / MODEL_FILE, temporary / REPORT_FILE, status)
        check_accuracy(result, config)
        write_atomic(temporary / CONFIG_FILE, config_text(folder.name, result.metadata))
    return replace(result, path=folder / MODEL_FILE, report_path=folder / REPORT_FILE)


def _write_and_compare(config: ExportConfig, path: Path, report_path: Path, status: Status) -> ExportResult:
    """Write the file `path`, compare it with the model, and write the parity report."""
    file_format = export_format(config.format)
    file_format.check_packages()
    reference = load_detector(config, precision="plain")
    metadata = make_metadata(config, reference)
    splits = _read_splits(config, reference.value_range)
    steps: list[Int8Step] = []
    with status("Exporting"):
        samples = calibration_samples(config, reference, splits)
        if metadata.precision == "int8":
            graph = trace_model(reference, metadata, config, samples)
            steps = write_int8(graph, path, file_format, reference, splits[config.split], config)
        else:
            write_file(reference, path, metadata, config, samples)
    with status("Comparing"):
        exported = Detector.load(path, device=file_format.device)
        accuracy = steps[-1].accuracy if steps else None
        report = compare(config, reference, exported, splits.get(config.split), accuracy)
    content = {"file": path.name, "metadata": json.loads(metadata.to_json())} | report.to_plain()
    rows = [asdict(step) | {"drop": step.drop} for step in steps]
    write_atomic(report_path, json.dumps(content | ({"int8": rows} if rows else {})))
    size = sum(file.stat().st_size for file in file_format.files(path) if file.is_file())
    return ExportResult(path, report_path, metadata, report, size / 2**20, tuple(steps))


def check_accuracy(result: ExportResult, config: ExportConfig) -> None:
    """Make sure that exporting has not cost too much accuracy. A file stays, since one may want to look at it; a model
    of a repository does not.

    Raises:
        ConfigError: AP fell by more than `max_ap_drop`.
    """
    for row in result.report.failed:
        remedies = {
            "fp32": "a larger --size, or none" if config.size else "another --format",
        }
        left = f"{result.path} is there, but better not used" if not config.triton else "nothing was written"
        raise ConfigError(
            f"{row.name} falls from {row.reference:.4f} to {row.exported:.4f} by exporting, by more than --max_ap_drop "
            f"{config.max_ap_drop:g}; {left}: export with " + remedies.get(config.precision, "another --precision")
        )


def _output_path(config: ExportConfig, file_format: ExportFormat) -> Path:
    """The file to write.

    Raises:
        ConfigError: its name is that of another kind of file, or of a folder.
    """
    suffix, source = file_format.suffix, Path(config.weights)
    if not config.output:
        if source.is_dir():
            return source / f"best{suffix}"
        return source.with_suffix(suffix) if source.exists() else Path(f"{source.name}{suffix}")
    path = Path(config.output)
    ending = path.suffix.lower()
    if ending != suffix:
        other = format_of_suffix(ending)
        use = f"--format {other.name}" if other else ""
        if ending == ".pth":
            use = "detrkit convert, which writes .pth files,"
        raise ConfigError(
            f"expected --output to end in {suffix} for --format {config.format}, found {path}"
            + (f"; use {use} or another name" if use else "; name a file with that ending")
        )
    if path.is_dir():
        raise ConfigError(
            f"expected a file to write at --output {path}, found a folder; name a file, such as {path}/best{suffix}"
        )
    return path


def _read_splits(config: ExportConfig, value_range: ValueRange | None) -> dict[str, Split]:
    """The split to measure accuracy on and the one to calibrate on; none without a data set.

    Images are scaled by the range of the model.
    """
    if not has_data(config):
        return {}
    raw = open_dataset(**config.dataset_kwargs(), **read_split(config.weights))
    has_train = config.precision == "int8" and "train" in raw.splits
    names = {config.split, *({"train"} if has_train else ())}
    report = check_dataset(raw, num_queries=2**31, required_splits=names, value_range=value_range)
    splits = report.splits
    if value_range is None and "image_16bit" in report.counts():
        warnings.warn(DetrkitWarning(UNKNOWN_RANGE), stacklevel=2)
    if config.max_images:
        split = splits[config.split]
        splits = splits | {config.split: replace(split, images=split.images[: config.max_images])}
    return splits
