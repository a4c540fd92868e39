"""The index of a packed data set: `pack.json` and the columns of each split.

    DATA/pack.json                    version, classes, and the list of shards and columns of each split
    DATA/index/train.height.npy ...   columns, see `columns`
    DATA/train-000000.tar ...         shards: 000000000.jpg, 000000000.json, 000000000.mask0.png, ...

The key of an image, nine digits, is its row in the columns of its split. So `DATA/train-000000.tar/000000000.jpg` says
which file is meant, and is used as the path of the image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detrkit.data.shards.columns import COLUMNS, Column, open_column
from detrkit.data.shards.storage import Storage, as_address
from detrkit.errors import ShardError

MANIFEST = "pack.json"
KIND = "detrkit pack"
"""The entry `format` of the manifest."""
PACK_VERSION = 1
"""Version of the layout. Files of another version are refused."""

_HEAD = 256
"""Bytes at the start of the manifest that name its format."""
_PACK_AGAIN = "pack the data again with detrkit pack DATA OUTPUT"


@dataclass(frozen=True)
class PackedSplit:
    """The columns of one split, mapped into memory; a pickled copy maps them again."""

    root: str
    name: str
    facts: dict[str, Any]
    """The entry of the split in the manifest."""
    suffixes: tuple[str, ...]
    """Endings of the members of all shards, which the columns number."""
    columns: dict[str, Column]

    def __len__(self) -> int:
        return int(self.facts["images"])

    def __reduce__(self) -> Any:
        return _reopen, (self.root, self.name)

    def rows(self, kind: str, row: int) -> slice:
        """Rows that belong to an image, in the columns of a kind: `name`, `objects`, `masks` or `shapes`."""
        ends = self.columns[f"{kind}_end"]
        return slice(int(ends[row - 1]) if row else 0, int(ends[row]))

    def shard_name(self, row: int) -> str:
        """Name of the shard of an image."""
        return str(self.facts["shards"][int(self.columns["shard"][row])]["name"])

    def file_name(self, row: int) -> str:
        """Name of an image in the data set, as in `ImageRecord`."""
        name: bytes = self.columns["names"][self.rows("name", row)].tobytes()
        return name.decode("utf-8", "surrogateescape")

    def image_path(self, row: int) -> Path:
        """Path of an image: that of its shard, and its name in it."""
        return Path(self.image_text(row))

    def image_text(self, row: int) -> str:
        """The same as text."""
        suffix = self.suffixes[int(self.columns["image_suffix"][row])]
        return f"{self.root}/{self.shard_name(row)}/{row:09}{suffix}"

    def mask_path(self, row: int, number: int) -> Path:
        """Path of a mask file of an image."""
        suffix = self.suffixes[int(self.columns["mask_suffix"][self.rows("masks", row).start + number])]
        return Path(f"{self.root}/{self.shard_name(row)}/{row:09}.mask{number}{suffix}")


class PackedData:
    """A packed data set that is open for reading.

    Args:
        root: its folder, a path or an address.

    Raises:
        ShardError: there is none, it is of another version, or a file is missing or not what was written.
    """

    def __init__(self, root: str) -> None:
        self.storage = Storage(root)
        self.root = self.storage.root
        content = self.storage.read(MANIFEST)
        self.manifest = _parse(content, self.storage.locate(MANIFEST))
        folder = Path(self.root) if self.storage.is_local else _download(self.storage, content, self.manifest)
        suffixes = tuple(self.manifest["suffixes"])
        self.splits = {
            name: open_split(self.root, name, facts, suffixes, folder)
            for name, facts in self.manifest["splits"].items()
        }
        if self.storage.is_local:
            self._check_shards()

    def _check_shards(self) -> None:
        """Compare the sizes of all shards with those that were written."""
        for facts in self.manifest["splits"].values():
            for shard in facts["shards"]:
                path = Path(self.root) / shard["name"]
                found = path.stat().st_size if path.is_file() else None
                if found is None:
                    raise ShardError(f"expected the shard {path}, found no such file; bring it back, or {_PACK_AGAIN}")
                if found != shard["bytes"]:
                    raise ShardError(
                        f"expected {shard['bytes']} bytes in the shard {path}, found {found}; copy it again, or "
                        f"{_PACK_AGAIN}"
                    )

    def read_member(self, shard: str, member: str) -> bytes:
        """Read an image or mask file of a shard.

        Raises:
            ShardError: it cannot be read, or is not what was written.
        """
        split, row = self.splits.get(shard.rpartition("-")[0]), int(member[:9]) if member[:9].isdigit() else -1
        if split is None or not 0 <= row < len(split):
            raise ShardError(f"expected an image of {self.root}, found no {shard}/{member} in its index")
        kind, at = "image", row
        if member[9:14] == ".mask":
            kind, at = "mask", split.rows("masks", row).start + int(PurePosixPath(member[14:]).stem)
        offset, length, crc = (int(split.columns[f"{kind}_{name}"][at]) for name in ("offset", "length", "crc"))
        return self.storage.read_range(shard, offset, length, lambda data: zlib.crc32(data) == crc)


def open_split(root: str, name: str, facts: dict[str, Any], suffixes: tuple[str, ...], folder: Path) -> PackedSplit:
    """Map the columns of a split into memory.

    Args:
        root: folder or address of the data set.
        name: name of the split.
        facts: its entry in the manifest.
        suffixes: endings of members.
        folder: the local folder of `index`.

    Raises:
        ShardError: a column is missing, or not what was written.
    """
    columns = {
        column: open_column(folder / "index" / f"{name}.{column}.npy", facts["columns"][column], COLUMNS[column])
        for column in facts["columns"]
    }
    return PackedSplit(root, name, facts, suffixes, columns)


_opened: dict[str, tuple[int, PackedData]] = {}
"""Root -> the process that opened it, and the data. Forked processes share the memory of the columns."""


def open_pack(root: str | Path, *, again: bool = False) -> PackedData:
    """Open a packed data set, once per folder.

    Args:
        root: its folder, a path or an address.
        again: read the index again, which may have changed since.

    Raises:
        ShardError: see `PackedData`.
    """
    key = as_address(root)
    if again or key not in _opened:
        _opened[key] = os.getpid(), PackedData(key)
    return _opened[key][1]


def _reopen(root: str, name: str) -> PackedSplit:
    return open_pack(root).splits[name]


def is_packed(folder: Path) -> bool:
    """Whether a local folder holds packed data."""
    path = folder / MANIFEST
    if not path.is_file():
        return False
    with path.open("rb") as manifest:
        return KIND.encode() in manifest.read(_HEAD)


def packed_files(folder: str | Path) -> list[tuple[Path, str]]:
    """Path and name of each image of packed data.

    Raises:
        ShardError: see `PackedData`.
    """
    splits = open_pack(folder, again=True).splits.values()
    return [(split.image_path(row), split.file_name(row)) for split in splits for row in range(len(split))]


def is_member(path: Path) -> bool:
    """Whether a path is that of a file in a shard."""
    return path.parent.suffix == ".tar" and not path.parent.is_dir()


def read_file(path: str | Path) -> bytes:
    """Read a file, or a file in a shard of a packed data set.

    Raises:
        OSError: the file cannot be read.
        ShardError: the file in a shard cannot be read, or is not what was written.
    """
    shard, name = os.path.split(path)  # of text, which takes a tenth of the time of a path
    if shard.endswith(".tar"):
        root, shard_name = os.path.split(shard)
        _, opened = _opened.get(root, (0, None))
        if opened is not None or not Path(shard).is_dir():
            return (opened or open_pack(root)).read_member(shard_name, name)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - for every image
        return file.readall()


def open_file(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file to read, or a file in a shard, which is read as a whole; see `read_file`."""
    return io.BytesIO(read_file(path)) if is_member(path) else path.open("rb")


def _parse(content: bytes, where: str) -> dict[str, Any]:
    """Read the manifest."""
    try:
        manifest = json.loads(content)
        is_pack = manifest["format"] == KIND
        version = manifest["version"]
    except (ValueError, KeyError, TypeError):
        is_pack, version = False, None
    if not is_pack:
        raise ShardError(f"expected the index of a packed data set in {where}, found something else; {_PACK_AGAIN}")
    if version != PACK_VERSION:
        raise ShardError(
            f"expected version {PACK_VERSION} of packed data in {where}, found {version}; {_PACK_AGAIN} by this "
            "version of detrkit, or use the version that wrote it"
        )
    return dict(manifest)


def _download(storage: Storage, content: bytes, manifest: dict[str, Any]) -> Path:
    """Copy the columns of a remote index to the cache folder of the user, once for all processes and runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "detrkit" / "packs" / hashlib.sha256(storage.root.encode() + content).hexdigest()[:24]
    (folder / "index").mkdir(parents=True, exist_ok=True)
    for name, facts in manifest["splits"].items():
        for column, expected in facts["columns"].items():
            target = folder / "index" / f"{name}.{column}.npy"
            if target.is_file() and target.stat().st_size == expected["bytes"]:
                continue
            storage.copy(f"index/{target.name}", expected["bytes"], expected["crc32"], target)
    return folder
