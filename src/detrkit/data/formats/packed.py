"""Packed data: shards of images and annotations, with an index, as `detrkit pack` writes them."""

from __future__ import annotations

from pathlib import Path

from detrkit.data.files.source import Source
from detrkit.data.formats.raw import RawDataset, RawSplit
from detrkit.data.records import Split
from detrkit.data.shards.packed_images import PackedImages
from detrkit.data.shards.packed_index import MANIFEST, is_packed, open_pack
from detrkit.errors import DataError, ShardError
from detrkit.structures import Categories


def detect_packed(source: Source) -> str:
    """Name the index, if the folder, or the folder of the file, holds one."""
    file = source.options.file
    named = file is None or file.name == MANIFEST
    return MANIFEST if named and is_packed(source.root) else ""


def load_packed(source: Source) -> dict[str, RawSplit]:
    """Open the index of a folder.

    Raises:
        ShardError: a file is missing or is not what was written.
    """
    return open_splits(str(source.root))


def open_splits(root: str | Path) -> dict[str, RawSplit]:
    """Open the index of a folder or address: the splits with their checked records.

    Raises:
        ShardError: see `PackedData`.
    """
    pack = open_pack(root, again=True)
    categories = Categories.from_plain(pack.manifest["categories"])
    where = pack.storage.locate(MANIFEST)
    splits = {}
    for name, columns in pack.splits.items():
        if not len(columns):
            raise ShardError(f"expected images in {name} of {where}, found none; pack the data again")
        split = Split(name, PackedImages(columns, categories), categories, where)
        splits[name] = RawSplit(name, [], categories, "xyxy", where, True, checked=split)
    if not splits:
        raise ShardError(f"expected the splits of a data set in {where}, found none; pack the data again")
    return splits


def expect_panoptic(dataset: RawDataset) -> None:
    """Raise an error if packed data have images without a panoptic map.

    Raises:
        DataError: they have.
    """
    for raw_split in dataset.splits.values():
        images = raw_split.checked.images if raw_split.checked else ()
        if isinstance(images, PackedImages) and (images.split.columns["panoptic"] < 0).any():
            raise DataError(
                f"expected a panoptic map of each image in {raw_split.source}, found images without; pack COCO "
                "panoptic data (--data_format coco_panoptic), or use --task instance or detect"
            )
