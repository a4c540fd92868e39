"""A disk of a few megabytes that tests can fill, where they may mount one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system in memory."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self, left: int = 0) -> None:
        """Leave this number of bytes free, rounded to blocks of 4096."""
        self.free()
        state = os.statvfs(self.path)
        size = state.f_bavail * state.f_frsize - left
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        """Free all that was filled."""
        self._filler.unlink(missing_ok=True)

    def files(self) -> dict[str, int]:
        """Path and size of all files; folders have the size -1."""
        paths = (path for path in self.path.rglob("*") if path != self._filler)
        return {path.relative_to(self.path).as_posix(): path.stat().st_size if path.is_file() else -1 for path in paths}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk of a size such as `3m` at an empty folder; tests that may not are skipped."""
    folder.mkdir(parents=True)
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        for _ in range(100):  # a process that has just ended may still hold it
            if not subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
