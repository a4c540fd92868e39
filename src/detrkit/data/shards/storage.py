"""Read files and ranges of files, from a local folder or from anything that fsspec opens (http, s3, gs, ...)."""

from __future__ import annotations

import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detrkit.errors import ShardError

ATTEMPTS = 5
"""Times that a request is made before the run gives up."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; each further wait is twice as long."""
TIMEOUT = 60.0
"""Seconds after which a request without an answer has failed."""

_PIECE = 1 << 24
"""Bytes that are copied at a time."""

_BINARY = getattr(os, "O_BINARY", 0)
"""Of Windows, which else changes line breaks."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")
"""A scheme of at least two letters: `C:/` is a drive of Windows."""


def is_address(text: str) -> bool:
    """Whether a text is an address such as https://host/folder, rather than a path."""
    return _ADDRESS.match(text) is not None


def as_address(path: str | Path) -> str:
    """The text of a path, or of an address that was made a `Path`, which leaves one slash of two: `http:/host`."""
    return _ADDRESS.sub(r"\1://", str(path), count=1)


class Storage:
    """The files of one folder, local or remote.

    Local files are opened for every range: that costs microseconds, and survives forks, threads and replaced files. A
    remote range is requested up to `ATTEMPTS` times, with growing waits.

    Args:
        root: the folder, a path or an address.
    """

    def __init__(self, root: str) -> None:
        self.root = as_address(root).rstrip("/") or "/"
        self.is_local = not is_address(self.root)

    def locate(self, name: str) -> str:
        """Path or address of a file."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            ShardError: it cannot be read.
        """
        return self._read(name, None, None)

    def read_range(self, name: str, start: int, length: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Read a range of bytes and check it.

        Args:
            name: name of the file in the folder.
            start: first byte.
            length: number of bytes.
            is_right: whether bytes of that length are those that were written.

        Raises:
            ShardError: the range cannot be read, or other bytes are there.
        """

        def fault(data: bytes) -> str:
            if len(data) < length:
                return f"{len(data)} bytes there: the file is shorter than when it was packed"
            if len(data) > length:
                return f"{len(data)} bytes: the server does not answer requests for ranges"
            return "" if is_right(data) else "bytes with another checksum: the file was changed or damaged"

        if self.is_local:  # for every image, so without the detour over attempts
            try:
                data = _read_local(self.locate(name), start, length)
            except OSError:
                data = b""
            if len(data) == length and is_right(data):
                return data
        return self._read(name, start, length, fault)

    def copy(self, name: str, length: int, crc: int, target: Path) -> None:
        """Copy a file to a local path, which appears when it is complete.

        Raises:
            ShardError: it cannot be read, or is not what was written.
        """
        handle, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        found = 0
        try:
            with os.fdopen(handle, "wb") as file:
                for start in range(0, length, _PIECE):
                    data = self.read_range(name, start, min(_PIECE, length - start), lambda data: True)
                    found = zlib.crc32(data, found)
                    file.write(data)
            if found != crc:
                raise ShardError(
                    f"expected {self.locate(name)} as it was packed, found another checksum; copy the data there again"
                )
            Path(aside).replace(target)
        finally:
            Path(aside).unlink(missing_ok=True)

    def _read(
        self, name: str, start: int | None, length: int | None, fault: Callable[[bytes], str] = lambda data: ""
    ) -> bytes:
        expected = self.locate(name) if length is None else f"{length} bytes at {start} of {self.locate(name)}"
        begin, attempts, found = time.monotonic(), 1 if self.is_local else ATTEMPTS, ""
        for attempt in range(attempts):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                where = self.locate(name)
                data = _read_local(where, start, length) if self.is_local else self._fetch(where, start, length)
            except FileNotFoundError:
                found = "no such file"
                break
            except ShardError:
                raise
            except Exception as error:  # of any file system of fsspec
                found = _words(error)
            else:
                found = fault(data)
                if not found:
                    return data
        tries = f" in {attempts} attempts over {time.monotonic() - begin:.0f} s" if attempts > 1 and attempt else ""
        what = "look at the folder, or pack the data again" if self.is_local else "look at the server and the network"
        raise ShardError(f"expected {expected}, found {found}{tries}; {what}")

    def _fetch(self, address: str, start: int | None, length: int | None) -> bytes:
        system = _file_system(self.root)
        end = None if start is None or length is None else start + length
        patience: dict[str, Any] = {"timeout": TIMEOUT} if hasattr(system, "loop") else {}
        return bytes(system.cat_file(address, start=start, end=end, **patience))


def _read_local(path: str, start: int | None, length: int | None) -> bytes:
    """Read a range of a file, or all of it; less than the range if the file ends before.

    Raises:
        OSError: it cannot be read.
    """
    if start is None or length is None:
        return Path(path).read_bytes()
    file = os.open(path, os.O_RDONLY | _BINARY)  # a file object would ask for size, kind and position
    try:
        os.lseek(file, start, os.SEEK_SET)
        data = os.read(file, length)
        while len(data) < length and (more := os.read(file, length - len(data))):
            data += more
        return data
    finally:
        os.close(file)


def _file_system(address: str) -> Any:
    """The file system of an address. fsspec keeps it, and makes another one in a forked process.

    Raises:
        ShardError: there is none for the scheme, or its package is not installed.
    """
    import fsspec

    scheme = address.partition("://")[0].lower()
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ShardError(f"cannot read {address}: {error}") from None
    except ValueError as error:
        raise ShardError(f"cannot read {address}: {error}; see the file systems that fsspec opens") from None


def _words(error: Exception) -> str:
    """An exception in words."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer within {TIMEOUT:.0f} s"
    return f"{kind}: {error}" if str(error) else kind
