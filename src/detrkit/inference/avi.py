"""The index of an AVI file, which tells the frames that a damaged file has lost.

Frames of other containers have time stamps of their own. Those of AVI are counted, so after a loss all later frames
would move up; the index, which is written at the end of the file, has the position of every frame.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct("<4sI")
_ENTRY = struct.Struct("<4sIII")


def intact_frames(path: Path) -> list[bool]:
    """Whether each frame of the first video stream begins where the index says, in order.

    Empty without such an index: the file is no AVI, was cut off, or is so large that it has another kind.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"AVI ":
            return []
        movi = 0
        while len(header := file.read(8)) == 8:
            name, size = _HEADER.unpack(header)
            here = file.tell()
            if name == b"LIST" and file.read(4) == b"movi":
                movi = here
            elif name == b"idx1" and movi:
                return _checked(file, movi, file.read(size))
            file.seek(here + size + size % 2)
    return []


def _checked(file: BinaryIO, movi: int, index: bytes) -> list[bool]:
    entries = list(_ENTRY.iter_unpack(index[: len(index) // 16 * 16]))
    frames = [entry for entry in entries if entry[0][2:] in (b"dc", b"db")]
    if not frames:
        return []
    base = 0 if entries[0][2] > movi else movi  # positions count from the list of frames, or from the start of the file
    intact = []
    for name, _, position, size in frames:
        if name != frames[0][0]:
            continue
        file.seek(base + position)
        intact.append(file.read(8) == _HEADER.pack(name, size))
    return intact
