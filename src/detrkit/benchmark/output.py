"""The report of a benchmark, as a table and as files."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from detrkit.benchmark.charts import plot_bench
from detrkit.benchmark.machine import Machine
from detrkit.benchmark.rows import PLAIN, Row
from detrkit.config.commands import BenchConfig
from detrkit.files import write_atomic
from detrkit.ops.console import TextConsole
from detrkit.version import __version__

FORMAT = 1
"""Version of bench.json; a higher one may have other keys."""


@dataclass
class Report:
    """The report of a benchmark."""

    config: BenchConfig
    machine: Machine
    model: str
    """Name of the model, or of the file of its weights."""
    shape: tuple[int, ...]
    """Height and width in pixels of the first image after resizing."""
    notes: list[str] = field(default_factory=list)
    """Sentences about parts that were left out."""
    rows: list[Row] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """As JSON-like data."""
        versions = {"detrkit": __version__, "torch": torch.__version__, "python": platform.python_version()}
        return {
            "format": FORMAT,
            "versions": versions,
            "machine": asdict(self.machine),
            "model": self.model,
            "height": self.shape[0],
            "width": self.shape[1],
            "settings": asdict(self.config),
            "notes": self.notes,
            "rows": [asdict(row) for row in self.rows],
        }


def write_report(report: Report) -> list[Path]:
    """Write bench.json and bench.png, each whole or not at all, and return their paths."""
    folder = Path(report.config.output_dir)
    write_atomic(folder / "bench.json", json.dumps(report.to_plain(), indent=2) + "\n")
    plot_bench(folder / "bench.png", report.rows, title_of(report), machine_line(report.machine))
    return [folder / "bench.json", folder / "bench.png"]


def title_of(report: Report) -> str:
    """The title of the report: model, size and batch."""
    return f"{report.model}, {report.shape[0]} x {report.shape[1]} pixels, batch {report.config.batch_size}"


def machine_line(machine: Machine) -> str:
    """The machine and its limits, in one line."""
    threads = f", {machine.threads} thread{'s' * (machine.threads != 1)}" if machine.device == "cpu" else ""
    peaks = ", ".join(f"{_si(peak)}FLOP/s in {name}" for name, peak in machine.peaks.items())
    return f"{machine.name}{threads}: at its peak {peaks}; copies {_si(machine.bandwidth)}B/s"


def print_report(console: TextConsole, report: Report) -> None:
    """Print the table, the limits and the notes."""
    console.print(title_of(report))
    console.print(machine_line(report.machine))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("p50 ms", "p95 ms", "images/s", "x plain", "MiB", "of peak"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    before = None
    for row in report.rows:
        what = f"{row.part}, {row.what}"
        if what != before:
            table.add_row(what)
        table.add_row(
            f"  {row.variant}" if row.precision == "fp32" else f"  {row.variant}, {row.precision}",
            _number(row.p50_ms),
            _number(row.p95_ms),
            _number(row.images_per_second),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            "-" if row.memory_bytes is None else _number(row.memory_bytes / 2**20),
            "-" if row.of_peak is None else f"{row.of_peak:.0%}",
        )
        before = what
    console.print(table)
    for line in [*_limits(report), *report.notes]:
        console.print(line)


def _limits(report: Report) -> list[str]:
    """The least time of the machine for each piece of work whose arithmetic was counted; and phases of steps."""
    lines = []
    for row in report.rows:
        if row.variant == PLAIN and row.flops is not None and row.bytes is not None and row.arithmetic_ms is not None:
            lines.append(
                f"{row.part}, {row.what}: {_si(row.flops)}FLOP, {_number(row.arithmetic_ms)} ms at the peak of "
                f"{row.precision}; its operators, each by itself, move {_si(row.bytes)}B, {_number(row.traffic_ms)} ms"
            )
    for row in report.rows:
        if row.shares:
            phases = ", ".join(f"{name} {share:.0%}" for name, share in row.shares.items())
            lines.append(f"{row.part}, {row.what}, {row.variant}: {phases}")
    return lines


def _number(value: float | None) -> str:
    """Format a number with three digits, or all digits before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _si(value: float) -> str:
    """Format a number with k, M, G, T or P: 1.5e9 -> "1.5 G"."""
    for name in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{_number(value)} {name}"
        value /= 1000
    return f"{_number(value)} P"
