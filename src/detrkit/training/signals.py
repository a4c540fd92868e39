"""Ctrl-C, SIGTERM and Slurm's warning: finish the step, save, and leave."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytorch_lightning as pl

WATCHED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals(pl.Callback):
    """Turns a signal into a wish to stop after the step, so that what is saved is a whole step.

    A second Ctrl-C leaves at once, with the last checkpoint as it was. Loader processes inherit the handlers where they
    are forked: there, Ctrl-C is left to the main process.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self.received: signal.Signals | None = None
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Watch from now on, in place of whatever watches now."""
        for number in WATCHED:
            handler = signal.signal(number, self._handle)
            if handler != self._handle:
                self._before.setdefault(number, handler)

    def uninstall(self) -> None:
        """Put back what watched before the first `install`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has just installed its own handlers; ours act at step boundaries only."""
        self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self.stop()


def requeue_slurm_job() -> bool:
    """Ask Slurm to queue this job again; False where this is no Slurm job or Slurm refuses."""
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except FileNotFoundError:
        return False
