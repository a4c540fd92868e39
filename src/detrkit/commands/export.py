"""`detrkit export`: weights in; a file for another runtime out, with a report of how far the two agree."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.commands.load_detector import load_detector
from detrkit.config.commands import ExportConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.held_out import made_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError
from detrkit.export.formats import (
    check_packages,
)
from detrkit.export.parity import Report
from detrkit.export.writing import calibration_samples, compare, has_data, make_metadata, write
from detrkit.files import SUFFIX_OF_FORMAT, write_atomic
from detrkit.inference.detector import Detector
from detrkit.inference.exported import is_exported
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange

if TYPE_CHECKING:
    from rich.table import Table

    from detrkit.ops.console import TextConsole


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
    from detrkit.ops.console import make_console

    console, progress = make_console(), make_console(quiet=config.quiet)
    if is_exported(config.weights):
        raise ConfigError(
            f"expected weights to export, found the exported file {config.weights}; name the checkpoint or run folder "
            "that it was made from"
        )
    output = _output(config)
    check_packages(config.format)
    reference = load_detector(config, precision="plain")
    metadata = make_metadata(config, reference)
    splits = _read(config, reference.value_range)
    with progress.status("Exporting"):
        write(reference, output, metadata, config, calibration_samples(config, reference, splits))
    size = sum(path.stat().st_size for path in (output, output.with_suffix(".bin")) if path.is_file()) / 2**20
    console.print(f"Wrote {output} ({size:.1f} MiB), {metadata.precision}")
    with progress.status("Comparing"):
        exported = Detector.load(output, device="cuda" if config.format == "tensorrt" else "cpu")
        report = compare(config, reference, exported, splits.get(config.split))
    path = output.with_name(f"{output.name}.parity.json")
    write_atomic(
        path, json.dumps({"file": output.name, "metadata": json.loads(metadata.to_json())} | report.to_plain())
    )
    _show(console, report, output)
    console.print(f"Report: {path}")
    for row in report.failed:
        ways = {
            "int8": "another --precision, or another number of images for --calibration",
            "fp32": "a larger --size, or none" if config.size else "another --format",
        }
        raise ConfigError(
            f"{row.name} falls from {row.reference:.4f} to {row.exported:.4f} by exporting, by more than --max_ap_drop "
            f"{config.max_ap_drop:g}; {output} is there, but better not used: export with "
            + ways.get(config.precision, "another --precision")
        )
    return report


def _output(config: ExportConfig) -> Path:
    """The file to write.

    Raises:
        ConfigError: its name is that of another kind of file, or of a folder.
    """
    suffix, source = SUFFIX_OF_FORMAT[config.format], Path(config.weights)
    if not config.output:
        if source.is_dir():
            return source / f"best{suffix}"
        return source.with_suffix(suffix) if source.exists() else Path(f"{source.name}{suffix}")
    path = Path(config.output)
    ending = path.suffix.lower()
    if ending != suffix:
        fitting = [f"--format {name}" for name, other in SUFFIX_OF_FORMAT.items() if other == ending]
        if ending == ".pth":
            fitting = ["detrkit convert, which writes .pth files,"]
        raise ConfigError(
            f"expected --output to end in {suffix} for --format {config.format}, found {path}"
            + (f"; use {fitting[0]} or another name" if fitting else "; name a file with that ending")
        )
    if path.is_dir():
        raise ConfigError(
            f"expected a file to write at --output {path}, found a folder; name a file, such as {path}/best{suffix}"
        )
    return path


def _read(config: ExportConfig, value_range: ValueRange | None) -> dict[str, Split]:
    """The splits that are needed: that to measure on, and that to calibrate on; none without --data.

    Their images are scaled by the range of the model.
    """
    if not has_data(config):
        return {}
    raw = open_dataset(**config.dataset_kwargs(), **made_split(config.weights))
    has_train = config.precision == "int8" and "train" in raw.splits
    wanted = {config.split, *({"train"} if has_train else ())}
    report = check_dataset(raw, num_queries=2**31, required_splits=wanted, value_range=value_range)
    splits = report.splits
    if value_range is None and "image_16bit" in report.counts():
        warnings.warn(UNKNOWN_RANGE, stacklevel=2)
    if config.max_images:
        split = splits[config.split]
        splits = splits | {config.split: replace(split, images=split.images[: config.max_images])}
    return splits


def _show(console: TextConsole, report: Report, output: Path) -> None:
    from rich.table import Table

    masks = ["masks"] if report.outputs[0].masks is not None else []
    table = Table("images", "size", "padding", "scores", "boxes", *masks, "ms", "PyTorch ms", title=output.name)
    for row in report.outputs:
        apart = [f"{far:.1e}" for far in (row.scores, row.boxes, row.masks) if far is not None]
        size, padding = f"{row.size[0]} x {row.size[1]}", "yes" if row.padded else "no"
        table.add_row(str(row.batch), size, padding, *apart, f"{row.ms:.1f}", f"{row.reference_ms:.1f}")
    console.print(table)
    if not report.accuracy:
        console.print("Accuracy is not measured without --data")
        return
    accuracy: Table = Table(f"on {report.images} images", "PyTorch", "exported", "drop")
    for line in report.accuracy:
        accuracy.add_row(line.name, f"{line.reference:.4f}", f"{line.exported:.4f}", f"{line.drop:+.4f}")
    console.print(accuracy)
