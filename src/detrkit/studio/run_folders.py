"""The training runs of a project, as their folders tell: settings, progress, curves, and whether they run."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detrkit.config.train import TrainConfig
from detrkit.config.yaml_file import read_settings
from detrkit.errors import DataError, DetrkitError
from detrkit.files import BEST, LAST, PROCESS
from detrkit.ops.processes import ProcessMark
from detrkit.studio.project import Project

DEPTH = 3
"""Levels of folders below the project folder among which runs are searched for."""

LOG = "train.log"
"""File of a run folder: what the process that the studio started has printed."""

LOG_BYTES = 40_000
"""Bytes of the end of a log that are shown."""

SHOWN = ("data", "task", "recipe", "model", "weights", "epochs", "max_minutes", "image_size", "batch_size", "seed")
"""Settings of a run that are shown."""

SERIES = {
    "loss": "train/loss",
    "val_loss": "val/loss",
    "AP": "val/AP",
    "AP50": "val/AP50",
    "mask_AP": "val/mask_AP",
    "PQ": "val/PQ",
}
"""Curves of a run, and their columns of metrics.csv."""

State = Literal["starting", "training", "evaluating", "ending", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class RunProcess:
    """The content of process.json."""

    mark: ProcessMark
    activity: str
    """starting, training, evaluating, ending or failed."""
    position: dict[str, Any]
    """epoch, epochs, batch, batches, loss and left, as far as they are known."""

    @classmethod
    def read(cls, folder: Path) -> RunProcess | None:
        """Read process.json of a run folder; None if there is none, or it is none of ours."""
        try:
            content = json.loads((folder / PROCESS).read_text(encoding="utf-8"))
            mark = ProcessMark(int(content["pid"]), str(content["started"]), str(content["host"]))
            names = ("epoch", "epochs", "batch", "batches", "loss", "left")
            return cls(mark, str(content["activity"]), {name: content.get(name) for name in names})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def find_runs(project: Project) -> list[Path]:
    """The run folders of a project, oldest first; the project folder itself may be one."""
    found = list(_search(project.root, DEPTH))
    return sorted(found, key=lambda folder: (_time(folder / "config.yaml") or _time(folder / LOG), folder))


def _search(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError:
        return
    names = {entry.name for entry in listed}
    if LOG in names or ("config.yaml" in names and names & {"metrics.csv", LAST, BEST, PROCESS}):
        yield folder
    if depth:
        for entry in listed:
            if not entry.name.startswith((".", "report-")) and entry.is_dir(follow_symlinks=False):
                yield from _search(Path(entry.path), depth - 1)


def find_run(project: Project, name: str) -> Path:
    """The folder of a run, by its path in the project.

    Raises:
        DataError: there is no such run.
    """
    folder = project.inside(name)
    if not folder.is_dir() or next(_search(folder, 0), None) is None:
        raise DataError(f"expected a run of this project, found none at {name[:200]!r}; reload the page")
    return folder


def name_of(project: Project, path: Path) -> str:
    """The path of a file or folder of the project, as addresses of the studio have it."""
    return path.relative_to(project.root).as_posix()


def describe_run(project: Project, folder: Path) -> dict[str, Any]:
    """Describe a run: name, state, position, settings and curves; JSON-like."""
    process = RunProcess.read(folder)
    state, message = state_of(folder, process)
    rows = read_metrics(folder)
    curves = {
        name: [[row["epoch"], row[column]] for row in rows if column in row]
        for name, column in SERIES.items()
        if any(column in row for row in rows)
    }
    running = state in ("starting", "training", "evaluating", "ending")
    try:
        stored = read_settings(folder / "config.yaml", list(TrainConfig.__dataclass_fields__))
        settings = {name: stored[name] for name in SHOWN if stored.get(name) not in (None, "", 0, 0.0)}
    except DetrkitError:
        settings = {}
    return {
        "run": name_of(project, folder),
        "name": folder.name if folder != project.root else project.root.name,
        "state": state,
        "message": message,
        "running": running,
        "resumable": not running and state != "finished" and (folder / LAST).is_file(),
        "detector": (folder / BEST).is_file(),
        "report": (folder / "report" / "metrics.json").is_file(),
        "log": (folder / LOG).is_file(),
        "position": process.position if process and running else None,
        "epochs": settings.get("epochs"),
        "seconds": sum(row.get("seconds", 0.0) for row in rows),
        "settings": settings,
        "curves": curves,
    }


def state_of(folder: Path, process: RunProcess | None) -> tuple[State, str]:
    """The state of a run, and the error that ended it.

    A run has finished if its report was written after its process was last heard of; one that has neither finished nor
    failed was stopped, or killed, which is the same to the one who resumes it.
    """
    if process and process.mark.alive:
        known: tuple[State, ...] = ("starting", "training", "evaluating", "ending")
        return next((state for state in known if state == process.activity), "ending"), ""
    last_word = _time(folder / PROCESS)
    error = _error_in(folder / LOG) if _time(folder / LOG) >= last_word - 1 else ""
    if error or (process and process.activity == "failed"):
        return "failed", error
    reported = _time(folder / "report" / "metrics.json")
    if reported and (reported >= last_word or (process and process.activity == "starting")):
        return "finished", ""
    return "stopped", ""


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv, without cells that are empty, cannot be read, or are -1 for lack of objects to measure."""
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return []
    rows = []
    for cells in csv.DictReader(text.splitlines()):
        row = {}
        for name, cell in cells.items():
            try:
                value = float(cell)
            except (TypeError, ValueError):
                continue
            if value == value and abs(value) != float("inf") and not (value == -1 and name.startswith("val/")):
                row[name] = value
        if "epoch" in row:
            rows.append(row)
    return rows


def read_log(folder: Path) -> str:
    """The end of the log of a run; empty without one."""
    try:
        with (folder / LOG).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text if size <= LOG_BYTES else text.partition("\n")[2]


def _error_in(log: Path) -> str:
    """The sentence with which a command has ended; empty if it ended well, was interrupted, or still runs."""
    lines = read_log(log.parent).splitlines()[-40:]
    for line in reversed(lines):
        if match := re.match(r"detrkit: error: (.*)", line):
            return match[1]
        if re.match(r"\w*(Error|Exception)\b", line) and any("Traceback" in each for each in lines):
            return f"a bug of detrkit ended the run: {line[:300]}"
    return ""


def _time(path: Path) -> float:
    """Time of the last change of a file; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def refuse_running(folder: Path) -> None:
    """Refuse to start something in the folder of a run whose process is alive.

    Raises:
        DataError: it is.
    """
    process = RunProcess.read(folder)
    if process and process.mark.alive:
        raise DataError(f"expected a run that has ended, found {folder.name} still running; stop it first, or wait")
