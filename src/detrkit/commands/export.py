"""`detrkit export`: write a model as a file for another runtime, and report how far file and model agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.config.commands import ExportConfig
from detrkit.exporting.export_detector import check_accuracy, export_detector
from detrkit.exporting.int8_search import Int8Step
from detrkit.exporting.parity import Report
from detrkit.ops.console import make_console

if TYPE_CHECKING:
    from detrkit.ops.console import TextConsole


def export(config: ExportConfig) -> Report:
    """Write the file and its parity report, and print the differences in outputs and accuracy from the model.

    Raises:
        ConfigError: settings do not fit each other or the model, or the file has lost too much accuracy.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    console = make_console()
    result = export_detector(config, make_console(quiet=config.quiet).status)
    console.print(f"Wrote {result.path} ({result.megabytes:.1f} MiB), {result.metadata.precision}")
    _print_report(console, result.report, result.path)
    _print_steps(console, result.int8_steps)
    console.print(f"Report: {result.report_path}")
    check_accuracy(result, config)
    return result.report


def _print_steps(console: TextConsole, steps: Sequence[Int8Step]) -> None:
    """Print the trade between speed, size and accuracy of int8, a row per file that was measured."""
    if not steps:
        return
    from rich.table import Table

    table = Table("in fp32", "AP", "drop", "ms", "MiB", title="int8: groups of convolutions left in fp32")
    for step in steps:
        row = max(step.accuracy, key=lambda row: row.drop)
        left = ", ".join(step.float_groups) or "none"
        table.add_row(left, f"{row.exported:.4f}", f"{row.drop:+.4f}", f"{step.ms:.1f}", f"{step.megabytes:.1f}")
    console.print(table)


def _print_report(console: TextConsole, report: Report, path: Path) -> None:
    from rich.table import Table

    masks = ["masks"] if report.outputs[0].masks is not None else []
    table = Table("images", "size", "padding", "scores", "boxes", *masks, "ms", "PyTorch ms", title=path.name)
    for row in report.outputs:
        differences = [f"{each:.1e}" for each in (row.scores, row.boxes, row.masks) if each is not None]
        size, padding = f"{row.size[0]} x {row.size[1]}", "yes" if row.padded else "no"
        table.add_row(str(row.batch), size, padding, *differences, f"{row.ms:.1f}", f"{row.reference_ms:.1f}")
    console.print(table)
    if not report.accuracy:
        console.print("Accuracy is not measured without --data")
        return
    accuracy = Table(f"on {report.images} images", "PyTorch", "exported", "drop")
    for line in report.accuracy:
        accuracy.add_row(line.name, f"{line.reference:.4f}", f"{line.exported:.4f}", f"{line.drop:+.4f}")
    console.print(accuracy)
