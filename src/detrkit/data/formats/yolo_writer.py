"""Write YOLO labels in the layout of Ultralytics: `data.yaml`, `images/SPLIT/` and `labels/SPLIT/`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

import yaml

from detrkit.data.formats.label_writer import LabelWriter, plain_number
from detrkit.data.formats.outlines import polygons_of, single_polygon
from detrkit.data.records import ImageRecord
from detrkit.files import open_text

_DIGITS = 8
"""Decimals of relative coordinates: a ten-thousandth of a pixel in 10,000."""


class YoloWriter(LabelWriter):
    """Writes YOLO data sets; see `LabelWriter`.

    Each line is a class and a box, or in data with masks a class and one polygon, as tools want them to be alike. So an
    object of several parts, or with holes, has its outlines joined by cuts of width 0.
    """

    title = "YOLO"
    losses: ClassVar = {
        "crowd": "crowds and objects marked difficult, which YOLO does not have and which are left out",
        "joined": "objects of several polygons, which were joined by cuts of width 0, as YOLO has one per object",
        "box": "objects whose box is not that around their polygon (by more than 1 px), which is all that YOLO keeps",
        "no_mask": "objects without a mask, whose box became a polygon, as the others have polygons",
        "score": "scores, which YOLO labels do not have; they are in detections.json",
        "ids": "category ids that YOLO, which numbers classes from 0, cannot hold; names and order are kept",
    }

    def image_path(self, name: str, split: str) -> str:
        """`images/SPLIT/NAME`."""
        return f"images/{split}/{name}"

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the label file of an image, empty if it has no objects."""
        width, height = image.width, image.height
        lines = []
        for obj in image.objects:
            if obj.crowd:
                self.lose("crowd")
                continue
            x1, y1, x2, y2 = _inside(obj.box, width, height)
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            if self.masks:
                polygon = self._polygon(image, obj.segmentation, (x1, y1, x2, y2))
                values = [value / (height if k % 2 else width) for k, value in enumerate(polygon)]
            numbers = " ".join(plain_number(min(max(value, 0.0), 1.0), _DIGITS) for value in values)
            lines.append(f"{self.index_of_id[obj.category_id]} {numbers}\n")
            self.objects += 1
        if scores:
            self.lose("score", len(scores))
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - a name, not a path
        with open_text(self.folder / "labels" / split / f"{stem}.txt") as file:
            file.writelines(lines)

    def close(self) -> None:
        """Write `data.yaml`."""
        self.lose_ids()
        content = {split: f"images/{split}" for split in ("train", "val") if split in self.images}
        with open_text(self.folder / "data.yaml") as file:
            yaml.safe_dump(
                content | {"names": dict(enumerate(self.categories.names))}, file, sort_keys=False, allow_unicode=True
            )

    def _polygon(self, image: ImageRecord, segmentation: object, box: tuple[float, float, float, float]) -> list[float]:
        """The polygon of an object in pixels; that of its box if it has no mask."""
        files = self.files_of(image)
        polygons = polygons_of(segmentation, files, self.tolerance)
        polygon = single_polygon(polygons, files, self.tolerance)
        x1, y1, x2, y2 = box
        if not polygon:
            self.lose("no_mask")
            return [x1, y1, x2, y1, x2, y2, x1, y2]
        if len(polygons) > 1:
            self.lose("joined")
        around = (min(polygon[0::2]), min(polygon[1::2]), max(polygon[0::2]), max(polygon[1::2]))
        if max(abs(a - b) for a, b in zip(around, box, strict=True)) > 1:
            self.lose("box")
        return polygon


def _inside(box: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float]:
    """Clip a box to its image; rounding errors of up to half a pixel occur, which YOLO's tools refuse."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
