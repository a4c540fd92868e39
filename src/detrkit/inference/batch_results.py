"""Results of a batch job: a file of JSON lines per share, which an interrupted job continues.

The first line has the settings, then each image has a line, and the last line says that the share is complete. Lines
are appended, so whatever ends the process, all lines but the last are whole; a torn one is cut off and its image done
again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from detrkit.errors import ConfigError, DataError

VERSION = 1
"""Of the format."""

Row = dict[str, Any]
"""The results of an image: `file`, `height`, `width` and `detections`; or `file` and `error`."""


class ResultFile:
    """Appends the results of a share; used as a context. Only one process at a time may have it open.

    Args:
        path: file to write, or to continue.
        header: settings of the job, which must be those of the file.

    Raises:
        ConfigError: another process has it open, or it was written with other settings.
        DataError: it is no such file, or is damaged before its last line.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.done: set[str] = set()
        """Names of images that have a line."""
        self.end: Row | None = None
        """What the last line says if the share was complete, see `close`."""
        self._path, self._header = path, dict(header)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ResultFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._path.open("a+b"))
            _lock(file, self._path)
            whole = self._read(file)
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

    def close(self, listing: Mapping[str, Any]) -> None:
        """Note that the share is complete.

        Args:
            listing: counts of all images of the sources.
        """
        assert self._file is not None
        self._append({"end": dict(listing) | {"done": len(self.done)}})
        os.fsync(self._file.fileno())

    def _append(self, row: Row) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
        self._file.flush()  # to the system, which keeps it when the process is killed

    def _read(self, file: IO[bytes]) -> int:
        """Note what is done, and return the number of bytes in whole lines."""
        whole = 0
        for row, end in read_rows(file, self._path):
            if not whole:
                self._compare(row.get("header"))
            elif "end" in row:
                self.end = row["end"]
            else:
                self.done.add(row["file"])
                self.end = None
            whole = end
        return whole

    def _compare(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise DataError(f"expected the results of a share in {self._path}, found another file; name another folder")
        plain = json.loads(json.dumps(self._header))
        different = sorted(name for name in plain | header if plain.get(name) != header.get(name))
        if different:
            raise ConfigError(
                f"expected the settings that {self._path} was begun with, found another value of "
                f"{', '.join(different)}; name another --output_dir, or start again without that file"
            )


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


def _lock(file: IO[bytes], path: Path) -> None:
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
