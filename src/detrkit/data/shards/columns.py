"""Columns of the index of a packed split: numpy files that are written row by row and mapped into memory to read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from detrkit.errors import ShardError

Column = npt.NDArray[Any]

IMAGE_COLUMNS: dict[str, tuple[str, int]] = {
    "image_id": ("<i8", 1),
    "height": ("<i4", 1),
    "width": ("<i4", 1),
    "shard": ("<i4", 1),
    "image_offset": ("<i8", 1),
    "image_length": ("<i8", 1),
    "image_crc": ("<u4", 1),
    "image_suffix": ("<u2", 1),
    "panoptic": ("<i4", 1),
    "group": ("<i4", 1),
    "digest": ("u1", 16),
    "extent": ("<f8", 5),
    "name_end": ("<i8", 1),
    "objects_end": ("<i8", 1),
    "masks_end": ("<i8", 1),
    "shapes_end": ("<i8", 1),
}
"""One row per image. `..._end`: end of its rows of the other columns, which begin where those of the image before end.

panoptic: number of the mask file that is its panoptic map, or -1. group: number of its group of images that look
alike, or -1. digest: see `image_digest`. extent: values of an image of more than 8 bits (see `Extent`), or NaN.
"""
OBJECT_COLUMNS: dict[str, tuple[str, int]] = {
    "object_id": ("<i8", 1),
    "class_index": ("<i4", 1),
    "box": ("<f8", 4),
    "area": ("<f8", 1),
    "crowd": ("?", 1),
    "masked": ("?", 1),
}
"""One row per object. area: NaN if the record has none. masked: whether it has a segmentation."""
MASK_COLUMNS: dict[str, tuple[str, int]] = {
    "mask_offset": ("<i8", 1),
    "mask_length": ("<i8", 1),
    "mask_crc": ("<u4", 1),
    "mask_suffix": ("<u2", 1),
}
"""One row per mask file, in the shard of its image."""
TEXT_COLUMNS: dict[str, tuple[str, int]] = {"names": ("u1", 1), "shapes": ("u1", 1)}
"""names: file names. shapes: a JSON list per image, of the segmentations of its objects; empty if none has one."""
COLUMNS = IMAGE_COLUMNS | OBJECT_COLUMNS | MASK_COLUMNS | TEXT_COLUMNS

_BUFFERED = 1 << 20


class ColumnWriter:
    """Writes one numpy file of which the number of rows is known at the end.

    Args:
        path: the file to write.
        kind: data type, and number of values per row.
    """

    def __init__(self, path: Path, kind: tuple[str, int]) -> None:
        self.dtype, self.values = np.dtype(kind[0]), kind[1]
        self.path, self.rows = path, 0
        self._file: IO[bytes] = path.open("wb")
        self._buffer = bytearray()
        self._write_header()

    def _write_header(self) -> None:
        """Write a header of constant length: numpy leaves room for any number of rows."""
        shape = (self.rows,) if self.values == 1 else (self.rows, self.values)
        head = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, head)

    def add(self, rows: Any) -> None:
        """Append rows: values, or bytes of a text column."""
        data = rows if isinstance(rows, bytes) else np.asarray(rows, self.dtype).tobytes()
        self._buffer += data
        self.rows += len(data) // (self.dtype.itemsize * self.values)
        if len(self._buffer) > _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._buffer)
        self._buffer.clear()

    def close(self) -> dict[str, int]:
        """Finish the file; returns its rows, bytes and checksum."""
        self._flush()
        self._file.seek(0)
        self._write_header()
        self._file.close()
        return {"rows": self.rows, "bytes": self.path.stat().st_size, "crc32": crc_of(self.path)}


def crc_of(path: Path) -> int:
    """CRC-32 of a file, read piece by piece."""
    crc = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return crc


def open_column(path: Path, facts: dict[str, int], kind: tuple[str, int]) -> Column:
    """Map a numpy file into memory, after a check of its size and checksum.

    Raises:
        ShardError: it is missing, or not what was written.
    """
    again = "pack the data again"
    try:
        found = path.stat().st_size
        if found != facts["bytes"]:
            raise ShardError(f"expected {facts['bytes']} bytes in {path}, found {found}; {again}")
        if crc_of(path) != facts["crc32"]:
            raise ShardError(f"expected the file {path} as it was packed, found another checksum; {again}")
        # the view of a plain array, which is faster to index
        column: Column = (
            np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) if facts["rows"] else _empty(kind)
        )
    except OSError as error:
        raise ShardError(f"expected a part of the index at {path}, found none ({error.strerror}); {again}") from None
    return column


def _empty(kind: tuple[str, int]) -> Column:
    """A column without rows, which cannot be mapped."""
    return np.zeros((0,) if kind[1] == 1 else (0, kind[1]), np.dtype(kind[0]))
