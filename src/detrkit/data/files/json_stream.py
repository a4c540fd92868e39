"""Read the lists of a JSON file one element at a time, so that memory stays flat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from detrkit.errors import DataError

_CHUNK = 1 << 20
"""Characters that are read at a time."""
_LARGEST = 1 << 26
"""Characters of the largest element; a longer one is taken for a mistake in the file."""
_SPACE = " \t\r\n"


def stream_lists(
    path: Path, advance: Callable[[int], object] = lambda characters: None
) -> Iterator[tuple[str, Any, str]]:
    """Read a JSON object whose values are lists, as a COCO file.

    Python's own parser reads each element, since it is compiled.

    Args:
        path: the file, UTF-8.
        advance: called with the number of characters that were read, from time to time.

    Yields:
        The key of a list, an element and its text. A value that is no list is one element.

    Raises:
        DataError: the file cannot be read, is no JSON object or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _elements(_Reader(file, path, advance))
    except UnicodeDecodeError as error:
        raise DataError(
            f"expected UTF-8 in the large file {path}, found other bytes: {error}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _elements(reader: _Reader) -> Iterator[tuple[str, Any, str]]:
    reader.take("{")
    if reader.peek() == "}":
        return
    while True:
        key, _ = reader.value()
        reader.take(":")
        if reader.peek() != "[":
            yield key, *reader.value()
        else:
            reader.take("[")
            mark = reader.take("]") if reader.peek() == "]" else ","
            while mark == ",":
                yield key, *reader.value()
                mark = reader.take(",]")
        if reader.take(",}") == "}":
            return


class _Reader:
    """A text file, parsed value by value."""

    def __init__(self, file: IO[str], path: Path, advance: Callable[[int], object]) -> None:
        self._file, self._path, self._advance = file, path, advance
        self._text, self._at, self._before, self._ended = "", 0, 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill()

    def take(self, expected: str) -> str:
        """Read the next character, one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            raise self._mistake(f"{found!r} in place of {' or '.join(expected)}" if found else "its end")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """Read a value; returns it with its text."""
        if not self.peek():
            raise self._mistake("its end")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._ended or len(self._text) - self._at > _LARGEST:
                    raise self._mistake(str(getattr(error, "msg", error))) from None
            else:
                if end < len(self._text) or self._ended:  # else a number may go on
                    text = self._text[self._at : end]
                    self._at = end
                    return value, text
            self._fill()

    def _fill(self) -> None:
        """Read on; each time as much as is waiting, so that a large element is not parsed many times."""
        self._before += self._at
        rest = self._text[self._at :]
        more = self._file.read(max(_CHUNK, len(rest)))
        self._advance(len(more))
        self._text, self._at, self._ended = rest + more, 0, not more

    def _mistake(self, found: str) -> DataError:
        return DataError(
            f"expected JSON in {self._path}, found a mistake at character {self._before + self._at}: {found}; the file "
            "may be cut short, write or copy it again"
        )
