"""The check of packed data: their records were checked when they were packed, so that only the files are left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from detrkit.data.formats.raw import RawDataset
from detrkit.data.records import Split, select_images
from detrkit.data.shards.packed_images import PackedImages
from detrkit.data.shards.packed_index import open_pack
from detrkit.data.validation.image_probe import ImageInfo, probe_images
from detrkit.data.validation.value_extents import Extent
from detrkit.errors import ShardError


def packed_splits(raw: RawDataset) -> dict[str, Split]:
    """The checked splits of packed data."""
    return {name: split.checked for name, split in raw.splits.items() if split.checked is not None}


def read_packed(
    raw: RawDataset, splits: dict[str, Split], *, decode_all: bool, progress: Callable[[], object] | None = None
) -> tuple[dict[str, Split], dict[Path, ImageInfo]]:
    """Read all images of packed data, and compare them with their checksums.

    Args:
        raw: the packed data; its findings take the defects of images.
        splits: the splits.
        decode_all: decode every image, and compare every other byte of the shards, too.
        progress: called once per image, from any thread.

    Returns:
        The splits without images that cannot be decoded, and the properties of all images.

    Raises:
        ShardError: a file cannot be read, or is not what was written.
    """
    if decode_all:
        verify_shards(raw.source)
    infos: dict[Path, ImageInfo] = {}
    kept = {}
    for name, split in splits.items():
        paths = [image.path for image in split.images]
        probed = probe_images(paths, decode_all=decode_all, values=decode_all, progress=progress)
        for path, info in zip(paths, probed, strict=True):
            for kind in (info.problem,) if info.problem else info.marks:
                raw.findings.add(kind, path, detail=info.detail if info.problem else "")
        usable = [index for index, info in enumerate(probed) if not info.problem]
        kept[name] = replace(split, images=select_images(split.images, usable)) if len(usable) < len(paths) else split
        infos |= zip(paths, probed, strict=True)
    return kept, infos


def deep_infos(splits: Iterable[Split]) -> dict[Path, ImageInfo]:
    """The images of more than 8 bits per channel, with the values that were measured when they were packed."""
    infos: dict[Path, ImageInfo] = {}
    for split in splits:
        images = split.images
        if isinstance(images, PackedImages) and images.split.facts["deep"]:
            extents = images.split.columns["extent"]
            rows = np.arange(len(images.split)) if images.rows is None else images.rows
            for row in rows[~np.isnan(extents[rows, 4])].tolist():
                low, high, usual_low, usual_high, whole = extents[row].tolist()
                extent = None if np.isnan(low) else Extent(low, high, usual_low, usual_high, bool(whole))
                infos[images.split.image_path(row)] = ImageInfo(deep=True, extent=extent)
    return infos


def packed_groups(splits: Mapping[str, Split]) -> dict[Path, int]:
    """Number of the group of each image that looks like others, as found when they were packed."""
    groups: dict[Path, int] = {}
    for split in splits.values():
        if isinstance(split.images, PackedImages):
            packed = split.images.split
            for row in np.flatnonzero(packed.columns["group"] >= 0).tolist():
                groups[packed.image_path(row)] = int(packed.columns["group"][row])
    return groups


def verify_shards(root: str) -> None:
    """Compare every byte of the shards in a local folder with the checksums that were written.

    Raises:
        ShardError: a shard was changed.
    """
    pack = open_pack(root)
    if not pack.storage.is_local:
        return
    for facts in pack.manifest["splits"].values():
        for shard in facts["shards"]:
            path = Path(pack.root) / shard["name"]
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                raise ShardError(
                    f"expected the shard {path} as it was packed, found another checksum; copy it again, or pack the "
                    "data again"
                )
