"""Sample a few of many files, and read only the first bytes of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEAD = 1 << 16
"""Bytes read from the beginning of a file, and from its end."""
POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a git-lfs pointer, which stands in place of a file that was not downloaded."""


def sample_of(paths: Sequence[Path], count: int = 32) -> list[Path]:
    """Choose at most `count` files: one of each folder, then others evenly spaced over the list."""
    firsts = list({path.parent: path for path in reversed(paths)}.values())[::-1]
    return list(dict.fromkeys([*firsts, *paths[:: max(1, len(paths) // count)]]))[:count]


def head_of(path: Path, *, tail: bool = False) -> bytes:
    """Read the first bytes of a file, with `tail` also the last, without zero bytes (UTF-16); empty if unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if tail:
                file.seek(max(len(head), path.stat().st_size - HEAD))
                head += file.read(HEAD)
    except OSError:
        return b""
    return head.replace(b"\0", b"")
