"""Write shards: tar files of images and what belongs to them, by the naming of WebDataset."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any


class TarWriter:
    """Writes members to shards `NAME-000000.tar`, `NAME-000001.tar`, ...

    The same members make the same bytes: time, owner and mode of all are constant. `tarfile` makes the headers; its
    `addfile` would take twice the time for small files.

    Args:
        folder: an existing folder.
        name: name of the split.
        shard_bytes: size at which the next image begins a new shard.
    """

    def __init__(self, folder: Path, name: str, shard_bytes: int) -> None:
        self.folder, self.name, self.shard_bytes = folder, name, shard_bytes
        self.shards: list[dict[str, Any]] = []
        """Name, bytes, images and checksum of each finished shard."""
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._size = self._images = 0

    @property
    def number(self) -> int:
        """Number of the present shard, from 0."""
        return len(self.shards)

    def begin_image(self) -> None:
        """Begin the members of an image, which lie in one shard."""
        if self._file is not None and self._size >= self.shard_bytes:
            self._finish()
        self._images += 1

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a member.

        Returns:
            Offset of its bytes in the shard, their number and their CRC-32.
        """
        if self._file is None:
            self._file = (self.folder / self._shard_name).open("wb")
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = self._size
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset, len(data), zlib.crc32(data)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> None:
        """Finish the last shard."""
        if self._file is not None:
            self._finish()

    @property
    def _shard_name(self) -> str:
        return f"{self.name}-{self.number:06}.tar"

    def _finish(self) -> None:
        end = self._size + 2 * tarfile.BLOCKSIZE  # two empty blocks, and whole records of twenty
        self._write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self._size))
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        facts = {"bytes": self._size, "images": self._images, "sha256": self._hash.hexdigest()}
        self.shards.append({"name": self._shard_name, **facts})
        self._file, self._hash = None, hashlib.sha256()
        self._size = self._images = 0
