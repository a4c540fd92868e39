"""Results of a batch job: a file of JSON lines per share, which an interrupted job continues.

The first line has the settings, then each image has a line, and the last line says that the share is complete. Lines
are appended, so whatever ends the process, all lines but the last are whole; a torn one is cut off and its image done
again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from detrkit.errors import ConfigError, DataError
from detrkit.files import append_whole

VERSION = 1
"""Of the format."""

Row = dict[str, Any]
"""The results of an image: `file`, `height`, `width` and `detections`; or `file` and `error`."""


class ResultFile:
    """Appends the results of a share; used as a context. Only one process at a time may have it open.

    Args:
        path: file to write, or to continue.
        header: settings of the job, which must be those of the file.
        done: names of images that are done already, besides those in the file.

    Raises:
        ConfigError: another process has it open, or it was written with other settings.
        DataError: it is no such file, or is damaged before its last line.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], done: Iterable[str] = ()) -> None:
        self.done = set(done)
        """Names of images that have a line."""
        self.end: Row | None = None
        """What the last line says if the share was complete, see `close`."""
        self._path, self._header = path, dict(header)
        self._file: io.FileIO | None = None

    def __enter__(self) -> ResultFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._path.open("ab", buffering=0))
            _lock(file, self._path)
            with self._path.open("rb") as lines:
                whole = self._read(lines)
            if file.seek(0, os.SEEK_END) > whole:
                file.truncate(whole)
            self._file = file
            if not whole:
                self._append({"header": self._header})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, row: Row) -> None:
        """Append the results of an image, which is then done."""
        assert row["file"] not in self.done, f"{row['file']} is done already"
        self._append(row)
        self.done.add(row["file"])

    def close(self, end: Mapping[str, Any]) -> None:
        """Note that the share is complete.

        Args:
            end: counts of images: those of all shares, and those of this one that are done.
        """
        assert self._file is not None
        self._append({"end": dict(end)})
        os.fsync(self._file.fileno())

    def _append(self, row: Row) -> None:
        assert self._file is not None
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        append_whole(self._file, line, self._path)  # to the system, which keeps it when the process is killed

    def _read(self, file: IO[bytes]) -> int:
        """Note what is done, and return the number of bytes in whole lines."""
        whole = 0
        for row, end in read_rows(file, self._path):
            if not whole:
                compare_headers(self._path, row.get("header"), self._header)
            elif "end" in row:
                self.end = row["end"]
            else:
                self.done.add(row["file"])
                self.end = None
            whole = end
        return whole


def compare_headers(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    """Compare the settings in a file of results with those of a job.

    Raises:
        DataError: there are none.
        ConfigError: they differ.
    """
    if not isinstance(found, dict):
        raise DataError(f"expected the results of a share in {path}, found another file; name another folder")
    plain = json.loads(json.dumps(expected))
    different = sorted(name for name in plain | found if plain.get(name) != found.get(name))
    if different:
        raise ConfigError(
            f"expected the settings that {path} was begun with, found another value of {', '.join(different)}; name "
            "another --output_dir, or start again without that file"
        )


@dataclass(frozen=True)
class LinesAbout:
    """What a file of JSON lines says about itself."""

    header: Row | None
    """Settings; None: the file has none."""
    end: Row | None
    """Counts at the end; None: the share is not complete."""
    in_order: bool
    """Whether the rows of images are sorted by name."""


def lines_about(path: Path) -> LinesAbout:
    """Read a file of JSON lines once.

    Raises:
        DataError: it is damaged.
    """
    header, end, last, in_order = None, None, ("", ""), True
    with path.open("rb") as file:
        for row, _ in read_rows(file, path):
            header = header or row.get("header")
            end = row.get("end")
            if "file" in row:
                order = name_order(row["file"])
                in_order, last = in_order and last < order, order
    return LinesAbout(header, end, in_order)


def sorted_lines(path: Path, *, in_order: bool) -> Iterator[Row]:
    """Read the rows of images from a file of JSON lines, sorted by name.

    Args:
        path: the file.
        in_order: whether they are sorted in the file; else their names and positions are kept in memory.
    """
    with path.open("rb") as file:
        starts, start = [], 0
        for row, end in read_rows(file, path):
            if "file" in row and in_order:
                yield row
            elif "file" in row:
                starts.append((name_order(row["file"]), start))
            start = end
        for _, start in sorted(starts):
            file.seek(start)
            yield json.loads(file.readline().decode("utf-8", "surrogateescape"))


def name_order(name: str) -> tuple[str, str]:
    """The order of images by their names: folder by folder, as they are listed."""
    folder, _, file = name.rpartition("/")
    return folder, file


def read_rows(file: IO[bytes], path: Path) -> Iterator[tuple[Row, int]]:
    """Read whole lines of a file of results from its start, with the number of bytes until the end of each.

    Raises:
        DataError: a line before the last one is damaged.
    """
    file.seek(0)
    end = 0
    broken = ""
    for number, line in enumerate(file, start=1):
        if broken:
            raise DataError(broken)
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
            if not line.endswith(b"\n") or not isinstance(row, dict):
                raise ValueError("torn")
        except ValueError:
            broken = (
                f"expected results as JSON in line {number} of {path}, but it is damaged; remove that line and start "
                "the share again"
            )
            continue
        end += len(line)
        yield row, end


def _lock(file: io.FileIO, path: Path) -> None:
    """Lock a file until it is closed or the process ends.

    Raises:
        ConfigError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where nothing keeps two processes from the same share
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"expected one process per share, but another one is writing {path}; give each its own --shard i/n"
        ) from error
    except OSError:  # a file system without locks
        return
