"""Write the shards and columns of one split, image by image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrkit.data.fingerprint import image_digest
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.data.segmentation_json import pack_segmentation
from detrkit.data.shards.columns import COLUMNS, ColumnWriter
from detrkit.data.shards.packed_index import read_file
from detrkit.data.shards.tar_writer import TarWriter
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.errors import DataError
from detrkit.structures import Categories


class SplitWriter:
    """Writes images with their objects and mask files to shards, and the index of them to columns.

    Args:
        folder: the folder of the data set, which has a folder `index`.
        name: `train` or `val`.
        categories: classes of the data set.
        suffixes: endings of members, which all splits share; takes new ones.
        shard_bytes: see `TarWriter`.
    """

    def __init__(
        self, folder: Path, name: str, categories: Categories, suffixes: dict[str, int], shard_bytes: int
    ) -> None:
        self.name, self.categories, self.suffixes = name, categories, suffixes
        self.images, self.objects = 0, 0
        self.has_masks = False
        self.deep = False
        """Whether any image has more than 8 bits per channel."""
        self._names = dict(zip(categories.ids, categories.names, strict=True))
        self._index_of_id = categories.index_of_id
        self._tar = TarWriter(folder, name, shard_bytes)
        self._columns = {
            column: ColumnWriter(folder / "index" / f"{name}.{column}.npy", kind) for column, kind in COLUMNS.items()
        }

    def add(self, image: ImageRecord, info: ImageInfo, group: int = -1) -> None:
        """Write one image.

        Args:
            image: the record; its files are read.
            info: properties of the image file.
            group: number of its group of images that look alike, or -1.

        Raises:
            DataError: a file can no longer be read.
        """
        key, put = f"{self.images:09}", self._columns
        self._tar.begin_image()
        files: dict[str, int] = {}
        shapes = [pack_segmentation(obj.segmentation, files) for obj in image.objects]
        panoptic = -1 if image.panoptic is None else files.setdefault(str(image.panoptic), len(files))
        suffix = self._suffix(image.path)
        offset, length, crc = self._tar.add(f"{key}{suffix}", _read(image.path))
        put["shard"].add(self._tar.number)
        texts = ["null" if shape is None else _to_json(shape) for shape in shapes]
        record = self._as_json(image, shapes, texts, files, panoptic)
        self._tar.add(f"{key}.json", record.encode("utf-8", "backslashreplace"))
        for number, path in enumerate(map(Path, files)):
            ending = self._suffix(path)
            placed = self._tar.add(f"{key}.mask{number}{ending}", _read(path))
            for column, value in zip(("mask_offset", "mask_length", "mask_crc"), placed, strict=True):
                put[column].add(value)
            put["mask_suffix"].add(self.suffixes[ending])
        values = {
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "image_offset": offset,
            "image_length": length,
            "image_crc": crc,
            "image_suffix": self.suffixes[suffix],
            "panoptic": panoptic,
            "group": group,
        }
        for column, value in values.items():
            put[column].add(value)
        put["digest"].add(image_digest(image, self._names))
        put["extent"].add(_as_row(info))
        put["names"].add(image.file_name.encode("utf-8", "surrogateescape"))
        if any(shape is not None for shape in shapes):
            put["shapes"].add(f"[{','.join(texts)}]".encode())
        self._add_objects(image.objects, shapes)
        for column, of in (("name_end", "names"), ("objects_end", "box"), ("masks_end", "mask_crc")):
            put[column].add(put[of].rows)
        put["shapes_end"].add(put["shapes"].rows)
        self.images += 1
        self.objects += len(image.objects)
        self.deep = self.deep or info.deep

    def _add_objects(self, objects: Sequence[ObjectRecord], shapes: Sequence[Any]) -> None:
        if not objects:
            return
        put = self._columns
        put["object_id"].add([obj.id for obj in objects])
        put["class_index"].add([self._index_of_id[obj.category_id] for obj in objects])
        put["box"].add([obj.box for obj in objects])
        put["area"].add([math.nan if obj.area is None else obj.area for obj in objects])
        put["crowd"].add([obj.crowd for obj in objects])
        masked = [shape is not None for shape in shapes]
        put["masked"].add(masked)
        self.has_masks = self.has_masks or any(masked)

    def _suffix(self, path: Path) -> str:
        """The ending of a member, in lower case; `.img` for a file without one, or with one that is no plain text."""
        suffix = path.suffix.lower()
        suffix = suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ".img"
        self.suffixes.setdefault(suffix, len(self.suffixes))
        return suffix

    def _as_json(
        self, image: ImageRecord, shapes: Sequence[Any], texts: Sequence[str], files: dict[str, int], panoptic: int
    ) -> str:
        """The json member of an image, for other programs: detrkit reads the index.

        Args:
            image: the record.
            shapes: segmentation of each object.
            texts: the same as JSON, which takes longest to make.
            files: path of each mask file -> its number.
            panoptic: number of the panoptic map, or -1.
        """
        names = [f"mask{number}{Path(path).suffix.lower()}" for path, number in files.items()]
        objects = []
        for obj, shape, text in zip(image.objects, shapes, texts, strict=True):
            x1, y1, x2, y2 = obj.box
            row = {
                "id": obj.id,
                "category_id": obj.category_id,
                "category": self._names[obj.category_id],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if obj.area is None else obj.area,
                "iscrowd": int(obj.crowd),
            }
            if isinstance(shape, dict) and "file" in shape:
                text = _to_json({**shape, "file": names[shape["file"]]})
            objects.append(_with_entry(row, "segmentation", "" if shape is None else text))
        whole = {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
        whole |= {"panoptic": names[panoptic]} if panoptic >= 0 else {}
        return _with_entry(whole, "objects", f"[{','.join(objects)}]")

    def close(self) -> dict[str, Any]:
        """Finish the files; returns the entry of the split in the manifest."""
        self._tar.close()
        columns = {name: writer.close() for name, writer in self._columns.items()}
        return {
            "images": self.images,
            "objects": self.objects,
            "has_masks": self.has_masks,
            "deep": self.deep,
            "shards": self._tar.shards,
            "columns": columns,
        }


def _as_row(info: ImageInfo) -> list[float]:
    """The row of the column `extent`: the values of a deep image, which are NaN if they were not measured, and 1 or 0
    for whole numbers; NaN alone for an image of 8 bits."""
    extent = info.extent
    if extent is None:
        return [math.nan, math.nan, math.nan, math.nan, 1.0 if info.deep else math.nan]
    return [extent.low, extent.high, extent.usual_low, extent.usual_high, float(extent.whole)]


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _with_entry(row: dict[str, Any], key: str, text: str) -> str:
    """JSON of a dict with a last entry whose value is JSON already; empty: without it."""
    return f'{_to_json(row)[:-1]},"{key}":{text}}}' if text else _to_json(row)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}, which is to be packed: {error.strerror or error}") from None
