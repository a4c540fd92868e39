"""Write shards: tar files of images and what belongs to them, by the naming of WebDataset."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any


class _Hashed(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self.hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def close(self) -> None:
        if not self.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        super().close()


class TarWriter:
    """Writes members to shards `NAME-000000.tar`, `NAME-000001.tar`, ...

    The same members make the same bytes: time, owner and mode of all are constant.

    Args:
        folder: an existing folder.
        name: name of the split.
        shard_bytes: size at which the next image begins a new shard.
    """

    def __init__(self, folder: Path, name: str, shard_bytes: int) -> None:
        self.folder, self.name, self.shard_bytes = folder, name, shard_bytes
        self.shards: list[dict[str, Any]] = []
        """Name, bytes, images and checksum of each finished shard."""
        self._file: _Hashed | None = None
        self._tar: tarfile.TarFile | None = None
        self._images = 0

    @property
    def number(self) -> int:
        """Number of the present shard, from 0."""
        return len(self.shards)

    def begin_image(self) -> None:
        """Begin the members of an image, which lie in one shard."""
        if self._tar is not None and self._tar.offset >= self.shard_bytes:
            self._finish()
        self._images += 1

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a member.

        Returns:
            Offset of its bytes in the shard, their number and their CRC-32.
        """
        if self._tar is None:
            self._file = _Hashed(self.folder / self._shard_name)
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(data))
        return offset, len(data), zlib.crc32(data)

    def close(self) -> None:
        """Finish the last shard."""
        if self._tar is not None:
            self._finish()

    @property
    def _shard_name(self) -> str:
        return f"{self.name}-{self.number:06}.tar"

    def _finish(self) -> None:
        assert self._tar is not None
        assert self._file is not None
        self._tar.close()
        size = self._file.tell()
        self._file.close()
        facts = {"bytes": size, "images": self._images, "sha256": self._file.hash.hexdigest()}
        self.shards.append({"name": self._shard_name, **facts})
        self._tar, self._file, self._images = None, None, 0
