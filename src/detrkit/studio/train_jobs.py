"""Start, stop and resume trainings and evaluations: commands of detrkit in processes that outlive the studio."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DataError
from detrkit.files import LAST, PROCESS, append_whole, write_atomic
from detrkit.ops.processes import ProcessMark
from detrkit.studio.project import Project
from detrkit.studio.proposal import write_labels
from detrkit.studio.run_folders import LOG, RunProcess, name_of, refuse_running

EDITABLE = (
    *("task", "model", "weights", "epochs", "max_minutes", "image_size", "batch_size", "num_queries", "lr", "tiles"),
    *("val_fraction", "seed"),
)
"""Settings of a training that the page may change."""

NAME = r"[\w][\w .()+-]{0,79}"
"""Names of runs, which become folders."""


class Jobs:
    """The processes that a studio has started. They go on when it ends, and are found again by process.json.

    Args:
        project: project folder, which is the working directory of the commands.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []

    def train(self, name: str, data: str, settings: Mapping[str, Any]) -> str:
        """Start a training.

        Args:
            name: name of the new run.
            data: folder or file of the data set, in the project.
            settings: settings that differ from the recipe's; weights may be a run of the project.

        Returns:
            The run's path in the project.

        Raises:
            ConfigError: a setting is unknown or out of range, or the name is taken or no name of a folder.
            DataError: a path leads out of the project, or there is no such data set.
        """
        source = self.project.inside(data)
        if not source.exists():
            raise DataError(f"expected a data set in the project, found nothing at {data[:200]!r}")
        unknown = sorted(settings.keys() - set(EDITABLE))
        if unknown:
            raise ConfigError(f"expected settings among {', '.join(EDITABLE)}, found {unknown[0][:100]!r}")
        values = {key: _value(value) for key, value in settings.items() if value not in ("", None)}
        weights = values.get("weights")
        if weights is not None and weights not in ("auto", "none"):
            values["weights"] = name_of(self.project, self.project.inside(str(weights)))
        TrainConfig.from_recipe("fast", **values, data=data)  # refuses what does not fit
        folder = self._new_folder(name)
        flags = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        try:
            self._start(
                ["train", _argument(data or "."), "--output_dir", name_of(self.project, folder), *flags], folder
            )
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return name_of(self.project, folder)

    def resume(self, folder: Path) -> None:
        """Go on with a stopped training.

        Raises:
            DataError: it runs, or has no checkpoint.
        """
        with self._lock:
            refuse_running(folder)
            if not (folder / LAST).is_file():
                raise DataError(f"expected {LAST} in {folder.name} to go on from, found none; start a new run")
            command = ["train", "--resume", "auto", "--output_dir", _argument(name_of(self.project, folder))]
            self._start(command, folder)

    def stop(self, folder: Path) -> None:
        """Stop a training as Ctrl-C does: it saves, and can be resumed.

        Raises:
            ConfigError: it does not run here.
        """
        process = RunProcess.read(folder)
        if process is None:
            raise ConfigError(f"expected a running training in {folder.name}, found none; reload the page")
        process.mark.interrupt()

    def evaluate(self, run: Path, data: str, split: str) -> Path:
        """Start to evaluate the detector of a run on a data set; returns the folder of the report.

        Raises:
            DataError: a path leads out of the project, there is no such data, or such an evaluation is running.
        """
        source = self.project.inside(data)
        if not source.exists():
            raise DataError(f"expected a data set in the project, found nothing at {data[:200]!r}")
        name = re.sub(r"[^\w.-]", "_", source.stem if source != self.project.root else self.project.root.name)
        folder = run / f"report-{name}-{'train' if split == 'train' else 'val'}"
        with self._lock:
            new = not folder.exists()
            folder.mkdir(exist_ok=True)
            refuse_running(folder)
            places = ["--weights", _argument(name_of(self.project, run)), "--output_dir", name_of(self.project, folder)]
            try:
                self._start(["eval", _argument(data or "."), *places, "--split", split], folder)
            except OSError:
                if new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        return folder

    def _new_folder(self, name: str) -> Path:
        """Make the folder of a new run.

        Raises:
            ConfigError: the name is taken, or no name of a folder.
        """
        if not re.fullmatch(NAME, name) or name.endswith((" ", ".")):
            raise ConfigError(
                f"expected a name of letters, digits, spaces and _ . ( ) + - for the run, found {name[:100]!r}"
            )
        folder = self.project.runs / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(f"there is already a run named {name!r} in this project; choose another name") from None
        return folder

    def _start(self, command: Sequence[str], folder: Path) -> None:
        """Start a command of detrkit in a session of its own, and write process.json."""
        write_labels(self.project)
        self._children = [child for child in self._children if child.poll() is None]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
        with (folder / LOG).open("wb", buffering=0) as log:
            append_whole(log, f"detrkit {shlex.join(command)}\n".encode(), folder / LOG)
            child = subprocess.Popen(
                [sys.executable, "-m", "detrkit", *command],
                cwd=self.project.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = {**asdict(ProcessMark.of(child.pid)), "activity": "starting"}
        try:
            write_atomic(folder / PROCESS, json.dumps(record, indent=1))
        except OSError:  # the disk is full: no training that nobody can find
            child.terminate()
            raise
        finally:
            self._children.append(child)


def _value(value: object) -> int | float | str:
    """A setting as a number, where it is one; the page sends texts."""
    text = str(value).strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _argument(path: str) -> str:
    """A path that is not taken for a flag."""
    return f"./{path}" if path.startswith("-") else path
