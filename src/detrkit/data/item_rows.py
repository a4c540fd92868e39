"""The part of each record that a `DetectionDataset` needs, kept so that worker processes share its memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detrkit.data.records import ImageRecord, StoredRecords
from detrkit.data.segmentation_json import pack_segmentation
from detrkit.structures import Categories

Row = dict[str, Any]
"""JSON-like data of an image: id, path, size, labels, boxes, area, and, where needed, tile, segmentations and files."""


class ItemRows:
    """Rows of the images of a split, by index.

    Records in a list become one block of bytes instead of many Python objects: forked workers share it, while the
    reference counts of objects would make them copy every page. Stored records are on disk, and stay there.

    Args:
        images: the records.
        categories: classes of the data.
        index_of: category id -> class index of the model; objects of other categories are left out, as are crowds.
        with_masks: whether rows have segmentations.
    """

    def __init__(
        self, images: Sequence[ImageRecord], categories: Categories, index_of: Mapping[int, int], *, with_masks: bool
    ) -> None:
        self._index_of, self._with_masks = index_of, with_masks
        self._classes = [index_of.get(category_id, -1) for category_id in categories.ids]
        self._images = images if isinstance(images, StoredRecords) else None
        listed = [] if self._images is not None else images
        rows = [json.dumps(self._row(image), separators=(",", ":")).encode() for image in listed]
        self._bytes = np.frombuffer(b"".join(rows), np.uint8)
        self._ends = np.cumsum([len(row) for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) if self._images is None else len(self._images)

    def __getitem__(self, index: int) -> Row:
        if self._images is not None:
            return self._images.item_row(index, self._classes, with_masks=self._with_masks)
        start = 0 if index == 0 else int(self._ends[index - 1])
        row: Row = json.loads(self._bytes[start : int(self._ends[index])].tobytes())
        return row

    def _row(self, image: ImageRecord) -> Row:
        objects = [obj for obj in image.objects if not obj.crowd and obj.category_id in self._index_of]
        row: Row = {
            "id": image.id,
            "path": str(image.path),
            "size": (image.height, image.width),
            "labels": [self._index_of[obj.category_id] for obj in objects],
            "boxes": [obj.box for obj in objects],
            "area": [obj.area for obj in objects],
        }
        if image.tile:
            row["tile"] = image.tile
        if self._with_masks:
            files: dict[str, int] = {}
            row["segmentations"] = [pack_segmentation(obj.segmentation, files) for obj in objects]
            row["files"] = list(files)
        return row
