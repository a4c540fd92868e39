"""`detrkit check`: validate a data set before training."""

from __future__ import annotations

import json
from dataclasses import asdict

from detrkit.config.commands import CheckConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from detrkit.files import refuse_folder, write_atomic
from detrkit.ops.console import TextConsole, make_console, make_progress
from detrkit.ops.text import command_line


def check(config: CheckConfig) -> None:
    """Print the statistics of a data set and all findings: the command `detrkit check`.

    Raises:
        DataError: the data set cannot be used at all, training would reject it, or a file to write is a folder.
    """
    for output in filter(None, (config.json, config.html)):
        refuse_folder(output)
    console = make_console()
    raw = open_dataset(**config.dataset_kwargs())
    raw.strict = False  # the report comes first
    printed = len(raw.notes)
    _print_notes(console, raw.notes)
    total = 2 * sum(map(len, raw.splits.values()))  # images are read, then compared
    with make_progress(make_console(quiet=config.quiet)) as bar:
        task = bar.add_task("Reading images", total=total)
        report = check_dataset(
            raw,
            num_queries=config.num_queries,
            decode_all=True,
            allow_doubtful=True,
            progress=lambda: bar.advance(task),
        )
    _print_notes(console, report.notes[printed:])
    console.print(report.table())
    for line in report.recommended():
        console.print(f"Recommended for training: {line}.")
    if config.json:
        write_atomic(config.json, json.dumps(report.to_plain(), indent=1) + "\n")
        console.print(f"Report written to {config.json}")
    if config.html:
        _write_page(config, report)
        console.print(f"Page written to {config.html}")
    if report.refused:
        raise DataError(report.refused)
    if config.strict:
        Findings(report.findings).refuse_left_out(report.source)


def _write_page(config: CheckConfig, report: CheckReport) -> None:
    from detrkit.visualization.dataset_page import write_dataset_page

    write_dataset_page(config.html, report, command=command_line(), settings=asdict(config))


def _print_notes(console: TextConsole, notes: list[str]) -> None:
    for note in notes:
        console.print(f"Note: {note}.")
