"""Stop a run after Ctrl-C, SIGTERM or Slurm's warning: finish the step, save, and exit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

WATCHED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """Request the training loop to stop after the current step when a signal arrives, so that whole steps are saved.

    A second Ctrl-C ends the process at once, with the last checkpoint as it was. Forked loader processes inherit the
    handlers; there, Ctrl-C is left to the main process.

    Args:
        stop: called at the first signal.

    Attributes:
        received: the last signal, or None.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self.received: signal.Signals | None = None
        self._owner = os.getpid()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle signals inside a `with`, and restore the former handlers at its end."""
        former = {number: signal.signal(number, self._handle) for number in WATCHED}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

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
    """Ask Slurm to queue this job again.

    Returns:
        Whether Slurm queued it; False if this is no Slurm job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except FileNotFoundError:
        return False
