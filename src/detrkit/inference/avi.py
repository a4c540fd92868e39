"""The index of an AVI file: which of its frames can still be found where it says they are.

The frames of other containers have time stamps of their own. Those of AVI are counted, so where a damaged file has lost
some, all later ones would move up; its index, which is written at the end, says which they are.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct("<4sI")
_ENTRY = struct.Struct("<4sIII")


def frames_found(path: Path) -> list[bool]:
    """For each frame of the first video stream, in order, whether a chunk begins where the index has it.

    Empty where there is no such index: the file is no AVI, was cut off, or is so large that it has another kind.
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
    base = 0 if entries[0][2] > movi else movi  # places are counted from the list of frames, or from the file's start
    found = []
    for name, _, place, size in frames:
        if name != frames[0][0]:
            continue
        file.seek(base + place)
        found.append(file.read(8) == _HEADER.pack(name, size))
    return found
