"""What a checked data set is made of: ObjectRecord, ImageRecord, Split.

Records are what readers and `check_dataset` hand to training and evaluation: plain data with slots, small enough for
the 860,000 objects of COCO. Nothing in them needs checking again. Masks that lie in files are named by `FileMask` and
decoded when they are asked for, an image at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detrkit.data.decode.mask_files import FileMask, MaskFiles
from detrkit.ops.masks import encode_rle
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories


@dataclass(slots=True)
class ObjectRecord:
    """One labelled object of one image."""

    id: int
    """Annotation id, unique in its split."""
    category_id: int
    """The data set's own id; `Categories.index_of_id` gives the class index."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the upright image, with x1 < x2 and y1 < y2. Inside the image, except that an
    overhang of less than half a pixel, which rounding leaves in COCO's own files, stays as official evaluation sees
    it: clamp before training on it."""
    area: float | None
    """Pixels of the object: the file's value (that of the mask, where there is one), else that of the box."""
    crowd: bool
    """Not one object but a region of many, or one too hard to label (`difficult` in Pascal VOC): not trained on, and
    neither rewarded nor punished in evaluation."""
    segmentation: Any | None
    """COCO polygons (lists of x, y, x, y, ... in pixels), RLE (`{"size": [h, w], "counts": ...}`), a `FileMask`, or
    None."""
    where: str
    """The record in the annotation file, for messages: `annotations[17]`, `line 3`."""


@dataclass(slots=True)
class ImageRecord:
    """One image whose file exists, was found readable and has this size."""

    id: int
    """The data set's own id, or 1, 2, ... where its format has none; unique in its split."""
    path: Path
    file_name: str
    """The name that the data set uses: relative, with forward slashes, never leading out of its folder."""
    height: int
    """Pixels, after the EXIF rotation, checked against the file."""
    width: int
    """Pixels, after the EXIF rotation, checked against the file."""
    objects: list[ObjectRecord]
    """In panoptic data the segments, things and stuff; each has a `FileMask` of `panoptic`."""
    panoptic: Path | None = None
    """The COCO panoptic PNG, whose pixels hold the ids of segments, or 0 (void); None for other data."""

    @property
    def has_trainable(self) -> bool:
        """Whether it has an object that is trained on and counted: crowds are neither."""
        return any(not obj.crowd for obj in self.objects)


@dataclass(frozen=True)
class Split:
    """One side of a data set, ready to be loaded."""

    name: str
    """`train` or `val`."""
    images: list[ImageRecord]
    categories: Categories
    """The same for all splits of a data set."""
    source: str
    """The file or folder it was read from, for messages."""
    value_range: ValueRange | None = None
    """Values that become black and white in images of more than 8 bits; the same for all splits. None: there are no
    such images, or no range is known and that of their type counts."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        """Whether an object that counts has a mask, so that masks can be measured."""
        return any(obj.segmentation and not obj.crowd for image in self.images for obj in image.objects)

    def to_coco(self, *, masks: bool = True) -> dict[str, Any]:
        """The truth as a COCO instances dictionary: original ids, `bbox` as x, y, w, h in pixels.

        What the official evaluation takes. Of panoptic data it holds the things alone, as categories too: average
        precision counts objects, and stuff has none.

        Args:
            masks: with `segmentation`, if any object of the split has one; those without get their box as polygon, as
                in training. Masks in files become RLE here, which reads those files, one image at a time.

        Raises:
            DataError: a file with masks cannot be read any more.
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
    """The segmentations of objects of an image as polygons or RLE."""
    files = MaskFiles(image.height, image.width)
    shapes: list[Any] = []
    for obj in objects:
        if isinstance(obj.segmentation, FileMask):
            shapes.append(encode_rle(torch.from_numpy(files.mask(obj.segmentation))))
        else:
            x1, y1, x2, y2 = obj.box
            shapes.append(obj.segmentation or [[x1, y1, x2, y1, x2, y2, x1, y2]])
    return shapes
