"""The records of a packed split: made of the columns of its index when they are needed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from detrkit.data.decode.mask_files import FileMask
from detrkit.data.records import ImageRecord, ObjectRecord, StoredRecords
from detrkit.data.shards.packed_index import PackedSplit
from detrkit.data.split_arrays import Ints, SplitArrays
from detrkit.structures import Categories


class PackedImages(StoredRecords):
    """Images of a packed split as a sequence of records, each made anew when it is asked for.

    Args:
        split: the columns.
        categories: classes of the data set.
        rows: the images that belong to the sequence, int64 [n]; None: all.
    """

    def __init__(self, split: PackedSplit, categories: Categories, rows: Ints | None = None) -> None:
        self.split, self.categories, self.rows = split, categories, rows

    def __len__(self) -> int:
        return len(self.split) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> PackedImages: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | PackedImages:
        """A record, or the images of a slice as another sequence."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self), dtype=np.int64)[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        row = index % len(self) if self.rows is None else int(self.rows[index])
        return self._record(row)

    def __iter__(self) -> Iterator[ImageRecord]:
        return map(self._record, range(len(self.split)) if self.rows is None else self.rows.tolist())

    def select(self, indices: Ints) -> PackedImages:
        """The images of these indices, in this order."""
        return PackedImages(self.split, self.categories, indices if self.rows is None else self.rows[indices])

    def item_row(self, index: int, classes: Sequence[int], *, with_masks: bool) -> dict[str, Any]:
        """See `StoredRecords`; without the detour over records, since it is needed for every image."""
        row = index if self.rows is None else int(self.rows[index])
        columns, at = self.split.columns, self.split.rows("objects", row)
        # lists, since most images have few objects, for which calls of numpy take longest
        labels = [classes[k] for k in columns["class_index"][at].tolist()]
        boxes, areas, crowd = (columns[name][at].tolist() for name in ("box", "area", "crowd"))
        kept = [k for k, label in enumerate(labels) if label >= 0 and not crowd[k]]
        item: dict[str, Any] = {
            "id": int(columns["image_id"][row]),
            "path": self.split.image_text(row),
            "size": (int(columns["height"][row]), int(columns["width"][row])),
            "labels": [labels[k] for k in kept],
            "boxes": [boxes[k] for k in kept],
            "area": [None if math.isnan(areas[k]) else areas[k] for k in kept],
        }
        if with_masks:
            shapes = self._shapes(row, at.stop - at.start)
            item["segmentations"] = [shapes[k] for k in kept]
            masks = self.split.rows("masks", row)
            item["files"] = [str(self.split.mask_path(row, k)) for k in range(masks.stop - masks.start)]
        return item

    def arrays(self) -> SplitArrays:
        """The numbers of all records: the columns themselves, or copies of the chosen rows."""
        columns = self.split.columns
        images: Any = slice(None)
        objects: Any = slice(None)
        ends = columns["objects_end"]
        if self.rows is not None:
            images = self.rows
            begins = np.concatenate([[0], ends[:-1]])[self.rows]
            numbers = ends[self.rows] - begins
            ends = np.cumsum(numbers)
            objects = np.repeat(begins - (ends - numbers), numbers) + np.arange(ends[-1] if len(ends) else 0)
        return SplitArrays(
            heights=columns["height"][images],
            widths=columns["width"][images],
            ends=ends,
            class_indices=columns["class_index"][objects],
            boxes=columns["box"][objects],
            areas=columns["area"][objects],
            crowd=columns["crowd"][objects],
            masked=columns["masked"][objects],
        )

    def names(self) -> list[str]:
        """See `StoredRecords`."""
        rows = range(len(self.split)) if self.rows is None else self.rows.tolist()
        return [self.split.file_name(row) for row in rows]

    def statistics(self) -> Mapping[str, Any] | None:
        """See `StoredRecords`."""
        stored: Mapping[str, Any] | None = self.split.facts.get("statistics")
        return stored if self.rows is None else None

    def digests(self) -> npt.NDArray[np.uint8]:
        """See `StoredRecords`."""
        column = self.split.columns["digest"]
        return column if self.rows is None else column[self.rows]

    def _record(self, row: int) -> ImageRecord:
        columns = self.split.columns
        panoptic = int(columns["panoptic"][row])
        return ImageRecord(
            int(columns["image_id"][row]),
            self.split.image_path(row),
            self.split.file_name(row),
            int(columns["height"][row]),
            int(columns["width"][row]),
            self._objects(row),
            None if panoptic < 0 else self.split.mask_path(row, panoptic),
        )

    def _objects(self, row: int) -> list[ObjectRecord]:
        columns, at = self.split.columns, self.split.rows("objects", row)
        shapes = self._shapes(row, at.stop - at.start)
        values = (columns[name][at].tolist() for name in ("object_id", "class_index", "box", "area", "crowd"))
        return [
            ObjectRecord(
                number,
                self.categories.ids[class_index],
                (box[0], box[1], box[2], box[3]),
                None if math.isnan(area) else area,
                crowd,
                self._segmentation(row, shape),
                f"objects[{k}] of {row:09}.json",
            )
            for k, (number, class_index, box, area, crowd, shape) in enumerate(zip(*values, shapes, strict=True))
        ]

    def _shapes(self, row: int, number: int) -> list[Any]:
        """The segmentations of the objects of an image as JSON has them."""
        text: bytes = self.split.columns["shapes"][self.split.rows("shapes", row)].tobytes()
        return json.loads(text) if text else [None] * number

    def _segmentation(self, row: int, shape: Any) -> Any:
        if isinstance(shape, dict) and "file" in shape:
            return FileMask(self.split.mask_path(row, shape["file"]), shape["value"])
        return shape
