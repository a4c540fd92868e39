"""What a checked data set is made of: ObjectRecord, ImageRecord, Split.

Records are what readers and `check_dataset` hand to training and evaluation: plain data with slots, small enough for
the 860,000 objects of COCO. Nothing in them needs checking again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.structures import Categories


@dataclass(slots=True)
class ObjectRecord:
    """One labelled object of one picture."""

    id: int
    """Annotation id, unique in its split."""
    category_id: int
    """The data set's own id; `Categories.index_of_id` gives the class index."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the upright picture, with x1 < x2 and y1 < y2. Inside the picture, except that an
    overhang of less than half a pixel, which rounding leaves in COCO's own files, stays as official evaluation sees
    it: clamp before training on it."""
    area: float | None
    """Pixels of the object: the file's value (that of the mask, where there is one), else that of the box."""
    crowd: bool
    """Not one object but a region of many, or one too hard to label (`difficult` in Pascal VOC): not trained on, and
    neither rewarded nor punished in evaluation."""
    segmentation: Any | None
    """COCO polygons (lists of x, y, x, y, ... in pixels) or RLE (`{"size": [h, w], "counts": ...}`), or None."""
    where: str
    """The record in the annotation file, for messages: `annotations[17]`, `line 3`."""


@dataclass(slots=True)
class ImageRecord:
    """One picture whose file exists, was found readable and has this size."""

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

    def __len__(self) -> int:
        return len(self.images)

    def to_coco(self) -> dict[str, Any]:
        """The truth as a COCO instances dictionary: original ids, `bbox` as x, y, w, h in pixels.

        What the official evaluation takes. `segmentation` is there for the objects that have one.
        """
        annotations: list[dict[str, Any]] = []
        for image in self.images:
            for found in image.objects:
                x1, y1, x2, y2 = found.box
                row = {
                    "id": found.id,
                    "image_id": image.id,
                    "category_id": found.category_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) if found.area is None else found.area,
                    "iscrowd": int(found.crowd),
                }
                if found.segmentation is not None:
                    row["segmentation"] = found.segmentation
                annotations.append(row)
        return {
            "info": {"description": self.source},
            "images": [
                {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in self.images
            ],
            "annotations": annotations,
            "categories": self.categories.to_plain(),
        }
