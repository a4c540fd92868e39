"""Recognize a process again by its number and its start, since numbers are given to new processes later."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from detrkit.errors import ConfigError


@dataclass(frozen=True)
class ProcessMark:
    """Number, start and machine of a process."""

    pid: int
    started: str
    """Start of the process, in the words of its system; empty: not known."""
    host: str
    """Name of the machine that it runs on."""

    @classmethod
    def of(cls, pid: int) -> ProcessMark:
        """The mark of a process of this machine."""
        return cls(pid, start_of(pid), platform.node())

    @property
    def alive(self) -> bool:
        """Whether this very process runs on this machine."""
        return self.host == platform.node() and self.started != "" and start_of(self.pid) == self.started

    def interrupt(self) -> None:
        """Send it what Ctrl-C sends.

        Raises:
            ConfigError: it has ended, or may not be signaled from here.
        """
        if not self.alive:
            raise ConfigError(f"process {self.pid} on {self.host} is not running here; there is nothing to stop")
        try:
            os.kill(self.pid, signal.SIGINT)
        except OSError as error:
            raise ConfigError(f"process {self.pid} cannot be stopped from here: {error.strerror}") from error


def start_of(pid: int) -> str:
    """The start of a running process of this machine; empty if there is none, it is a zombie, or this is not known."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self/stat").is_file():
        try:
            # the name of the program, in parentheses, may contain anything
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
    try:
        listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return listed.stdout.strip()
