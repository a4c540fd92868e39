"""Records of a checked data set: ObjectRecord, ImageRecord, Split.

`check_dataset` makes them, and training and evaluation rely on them without further checks. They are plain data with
slots, small enough for the 860,000 objects of COCO; those of packed data are made when they are needed. Masks in files
are referenced by `FileMask` and decoded when they are needed, one image at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.decode.mask_files import FileMask, MaskFiles
from detrkit.data.split_arrays import Ints, SplitArrays
from detrkit.ops.masks import encode_rle
from detrkit.ops.tiles import Tile
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories


@dataclass(slots=True)
class ObjectRecord:
    """One annotated object of one image."""

    id: int
    """Annotation id, unique in its split."""
    category_id: int
    """Category id of the data set; `Categories.index_of_id` gives the class index."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the upright image, with x1 < x2 and y1 < y2. It lies inside the image, up to half a
    pixel: rounding errors of COCO's own files are kept, as the official evaluation uses them. Clamp before training."""
    area: float | None
    """Area in pixels: the value of the file (usually that of the mask), else that of the box."""
    crowd: bool
    """A region of many objects, or an object marked `difficult` in Pascal VOC: not trained on, and ignored in
    evaluation."""
    segmentation: Any | None
    """COCO polygons (lists of x, y, x, y, ... in pixels), RLE (`{"size": [h, w], "counts": ...}`), a `FileMask`, or
    None. In records of tiles it is that of the whole image."""
    where: str
    """The record in the annotation file, for messages: `annotations[17]`, `line 3`."""


@dataclass(slots=True)
class ImageRecord:
    """One image, or one tile of an image; its file exists, is readable and has this size."""

    id: int
    """Image id of the data set, or 1, 2, ... if its format has none; unique in its split."""
    path: Path
    file_name: str
    """Name in the data set: relative, with forward slashes and without `..`."""
    height: int
    """Pixels, after the EXIF rotation, checked against the file."""
    width: int
    """Pixels, after the EXIF rotation, checked against the file."""
    objects: list[ObjectRecord]
    """In panoptic data the segments of things and stuff, each with a `FileMask` of `panoptic`."""
    panoptic: Path | None = None
    """The COCO panoptic PNG, whose pixels are segment ids or 0 (void); None for other data."""
    tile: Tile | None = None
    """The part of the image that this record is of; `height`, `width` and boxes are then those of the tile, in its own
    pixels. None: the whole image."""

    @property
    def has_trainable(self) -> bool:
        """Whether the image has an object that is no crowd."""
        return any(not obj.crowd for obj in self.objects)


class StoredRecords(Sequence[ImageRecord]):
    """Records that are made when they are asked for, of columns in files that take no memory."""

    @abstractmethod
    def select(self, indices: Ints) -> StoredRecords:
        """The records of these indices, in this order."""

    @abstractmethod
    def item_row(self, index: int, classes: Sequence[int], *, with_masks: bool) -> dict[str, Any]:
        """The part of a record that training needs, see `ItemRows`.

        Args:
            index: number of the record.
            classes: class index of the model for each class index of the data; -1: the model has no such class.
            with_masks: whether to add segmentations.
        """

    @abstractmethod
    def arrays(self) -> SplitArrays:
        """The numbers of all records."""

    @abstractmethod
    def names(self) -> list[str]:
        """The file name of each image."""

    @abstractmethod
    def statistics(self) -> Mapping[str, Any] | None:
        """What `split_statistics` returns of these images, if it is stored; None: it is not."""

    @abstractmethod
    def digests(self) -> npt.NDArray[np.uint8]:
        """The share of each image in the fingerprint of the split, uint8 [n, 16], see `image_digest`."""


def select_images(images: Sequence[ImageRecord], indices: Sequence[int] | Ints) -> Sequence[ImageRecord]:
    """The images of these indices, in this order."""
    if isinstance(images, StoredRecords):
        return images.select(np.asarray(indices, np.int64))
    return [images[index] for index in indices]


@dataclass(frozen=True)
class Split:
    """One checked split of a data set, train or val."""

    name: str
    """`train` or `val`."""
    images: Sequence[ImageRecord]
    """A list, or `StoredRecords` of packed data."""
    categories: Categories
    """The same for all splits of a data set."""
    source: str
    """The file or folder that it was loaded from, for messages."""
    value_range: ValueRange | None = None
    """Values that become 0 and 255 in images of more than 8 bits; the same for all splits. None: there are no such
    images, or the range is unknown and that of their data type is used."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        """Whether any object that is no crowd has a mask, so that masks can be evaluated."""
        return bool(self.arrays.masked[~self.arrays.crowd].any())

    @cached_property
    def arrays(self) -> SplitArrays:
        """The numbers of all records as arrays."""
        if isinstance(self.images, StoredRecords):
            return self.images.arrays()
        objects = [obj for image in self.images for obj in image.objects]
        index_of_id = self.categories.index_of_id
        return SplitArrays(
            heights=np.array([image.height for image in self.images], np.int64),
            widths=np.array([image.width for image in self.images], np.int64),
            ends=np.cumsum([len(image.objects) for image in self.images], dtype=np.int64),
            class_indices=np.array([index_of_id[obj.category_id] for obj in objects], np.int64),
            boxes=np.array([obj.box for obj in objects], np.float64).reshape(-1, 4),
            areas=np.array([np.nan if obj.area is None else obj.area for obj in objects], np.float64),
            crowd=np.array([obj.crowd for obj in objects], bool),
            masked=np.array([bool(obj.segmentation) for obj in objects], bool),
        )

    def to_coco(self, *, masks: bool = True) -> dict[str, Any]:
        """The ground truth as a COCO instances dictionary, with original ids and `bbox` as x, y, w, h in pixels.

        The official evaluation takes it. Of panoptic data it contains only the things and their categories, since
        average precision counts objects.

        Args:
            masks: add `segmentation`, if any object of the split has one; objects without one get their box as
                polygon, as in training. Masks in files become RLE, which reads these files one image at a time.

        Raises:
            DataError: a mask file can no longer be read.
        """
        masks = masks and self.has_masks
        stuff = {i for i, thing in zip(self.categories.ids, self.categories.isthing, strict=False) if not thing}
        annotations: list[dict[str, Any]] = []
        for image in self.images:
            things = [obj for obj in image.objects if obj.category_id not in stuff]
            shapes = _as_coco(image, things) if masks else [None] * len(things)
            for obj, shape in zip(things, shapes, strict=True):
                x1, y1, x2, y2 = obj.box
                row = {
                    "id": obj.id,
                    "image_id": image.id,
                    "category_id": obj.category_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) if obj.area is None else obj.area,
                    "iscrowd": int(obj.crowd),
                }
                if shape is not None:
                    row["segmentation"] = shape
                annotations.append(row)
        return {
            "info": {"description": self.source},
            "images": [
                {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in self.images
            ],
            "annotations": annotations,
            "categories": [row for row in self.categories.to_plain() if row["id"] not in stuff],
        }


def _as_coco(image: ImageRecord, objects: list[ObjectRecord]) -> list[Any]:
    """Convert the segmentations of objects of an image to polygons or RLE."""
    files = MaskFiles(image.height, image.width)
    shapes: list[Any] = []
    for obj in objects:
        if isinstance(obj.segmentation, FileMask):
            shapes.append(encode_rle(torch.from_numpy(files.mask(obj.segmentation))))
        else:
            x1, y1, x2, y2 = obj.box
            shapes.append(obj.segmentation or [[x1, y1, x2, y1, x2, y2, x1, y2]])
    return shapes
