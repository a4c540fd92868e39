"""Shares of the images of a batch job: which process, of how many, detects objects in which image.

The share of an image is a function of its name alone, so the processes need not talk to each other, and an image keeps
its share when others are added.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.shards.packed_index import is_packed, packed_files
from detrkit.errors import ConfigError, DataError
from detrkit.inference.sources import as_path, is_several


@dataclass(frozen=True)
class Share:
    """One of several processes that divide images among them."""

    number: int = 1
    """Of this process, from 1."""
    count: int = 1
    """Number of processes."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse the setting `--shard`.

        Raises:
            ConfigError: it is not i/n with i in 1..n.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(
                f"expected --shard i/n with i from 1 to n, such as 1/8 for the first of eight, found {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def file_stem(self) -> str:
        """Name of the file of results without its ending."""
        return f"results-{self.number:05d}-of-{self.count:05d}"

    def holds(self, name: str) -> bool:
        """Whether an image is of this share, by its name."""
        return _hash(name) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class BatchImage:
    """An image of a batch job."""

    name: str
    """Its path in its source, with forward slashes; the same on machines that have the source at another place."""
    path: str
    """Where it lies."""


@dataclass
class Listing:
    """What the sources of a batch job hold, counted while they are read."""

    images: int = 0
    """Images of all shares."""
    checksum: int = 0
    """Sum of hashes of their names, modulo 2^64; it does not depend on their order."""
    mine: int = 0
    """Images of this share."""

    def to_plain(self) -> dict[str, int | str]:
        """The images of all shares as JSON has them."""
        return {"images": self.images, "checksum": f"{self.checksum:016x}"}


def images_of_share(sources: Sequence[str], share: Share, listing: Listing) -> Iterator[BatchImage]:
    """List the images of a share, folder by folder and sorted by name; `listing` counts those of all shares.

    Args:
        sources: images, folders (with their subfolders), packed data and globs. With several, the names of images in a
            folder begin with that of the folder.
        share: which of the images to give.
        listing: is filled.

    Raises:
        DataError: there is no image, or two have the same name.
    """
    given = [as_path(source) for source in sources]
    seen: dict[str, str] = {}
    for image in _images(given):
        listing.images += 1
        listing.checksum = (listing.checksum + _hash(image.name)) % 2**64
        if not share.holds(image.name):
            continue
        other = seen.setdefault(image.name, image.path)
        if other is not image.path:
            raise DataError(
                f"expected images with different names, found {other} and {image.path}; name the folder above both as "
                "the source, or give one of them another name"
            )
        listing.mine += 1
        yield image
    if not listing.images:
        raise DataError(f"expected images in {', '.join(map(str, given))}, found none; look at the path")


def _hash(name: str) -> int:
    """64 bits of a hash of a name, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _images(sources: Sequence[Path]) -> Iterator[BatchImage]:
    for source in sources:
        above = f"{source.resolve().name}/" if len(sources) > 1 else ""
        if is_packed(source):
            for file, name in packed_files(source):
                yield BatchImage(above + name, str(file))
        elif not is_several(source):
            yield BatchImage(source.name, str(source))
        elif source.is_dir():
            start = len(str(source).rstrip(os.sep)) + 1 if str(source) != "." else 0
            for path in FileIndex(source).files:
                if path.lower().endswith(IMAGE_SUFFIXES):
                    yield BatchImage(above + path[start:].replace(os.sep, "/"), path)
        else:
            for path in sorted(glob.glob(str(source), recursive=True)):  # noqa: PTH207
                if path.lower().endswith(IMAGE_SUFFIXES):
                    yield BatchImage(path.replace(os.sep, "/"), path)
