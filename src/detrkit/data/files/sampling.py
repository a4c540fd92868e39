"""A cheap look at a data set: a few files out of many, and the beginnings of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEAD = 1 << 16
"""Bytes at the beginning of a file, and at its end, that are looked at."""
POINTER = b"version https://git-lfs.github.com/spec/"
"""What a file begins with that git-lfs has left in place of another."""


def sample_of(paths: Sequence[Path], count: int = 32) -> list[Path]:
    """At most `count` of the files: one of each folder, then others from the beginning to the end."""
    firsts = list({path.parent: path for path in reversed(paths)}.values())[::-1]
    return list(dict.fromkeys([*firsts, *paths[:: max(1, len(paths) // count)]]))[:count]


def head_of(path: Path, *, tail: bool = False) -> bytes:
    """The beginning of a file, with `tail` also its end, without the zeros of UTF-16; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if tail:
                file.seek(max(len(head), path.stat().st_size - HEAD))
                head += file.read(HEAD)
    except OSError:
        return b""
    return head.replace(b"\0", b"")
