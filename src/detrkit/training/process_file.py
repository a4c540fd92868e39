"""process.json of a run folder: the process that trains in it, and how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from detrkit.files import write_atomic
from detrkit.ops.processes import ProcessMark
from detrkit.training.reporters import Reporter
from detrkit.training.state import Row, TrainingState
from detrkit.training.step import StepReport

SECONDS_BETWEEN = 2.0
"""Least time between two writes."""


class ProcessFile(Reporter):
    """Write process.json while a run is trained: the process, epoch, batch, loss and time left.

    It stays when the run ends; whether the process still runs is seen by its number and start (`ProcessMark.alive`). A
    disk that is full does not end the run.

    Args:
        path: path of process.json.
        epochs: number of epochs of the whole run.
        left: makes the time left, as h:mm:ss or ?.
    """

    def __init__(self, path: Path, epochs: int, left: Callable[[], str]) -> None:
        self.path, self.left = path, left
        self._content: dict[str, object] = {**asdict(ProcessMark.of(os.getpid())), "epochs": epochs}
        self._batches, self._written = 0, 0.0

    def run_started(self, state: TrainingState, batches: int) -> None:
        """Write where the run begins."""
        self._batches = batches
        self._write("training", epoch=state.epoch, batch=state.batch, batches=batches, loss=None, left="?")

    def step_finished(self, state: TrainingState, report: StepReport) -> None:
        """Write the new position, if the last one is old enough."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write("training", epoch=state.epoch, batch=state.batch, loss=report.losses["loss"], left=self.left())

    def evaluating(self, done: int, total: int) -> None:
        """Write that the model is evaluated."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write("evaluating", left=self.left())

    def epoch_finished(self, history: list[Row]) -> None:
        """Write the finished epoch."""
        self._write("training", epoch=int(history[-1]["epoch"]), batch=0, left=self.left())

    def run_finished(self, *, failed: bool) -> None:
        """Write that training is over; the report follows unless it failed."""
        self._write("failed" if failed else "ending", left="0:00:00")

    def _write(self, activity: str, **values: object) -> None:
        self._content |= {"activity": activity, **values}
        with contextlib.suppress(OSError):
            write_atomic(self.path, json.dumps(self._content, indent=1))
        self._written = time.monotonic()
