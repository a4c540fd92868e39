"""Write COCO instance annotations: `annotations/instances_SPLIT.json` and `images/SPLIT/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from detrkit.data.formats.label_writer import LabelWriter, Plain
from detrkit.data.formats.outlines import polygons_of, polygons_or_rle
from detrkit.data.records import ImageRecord
from detrkit.files import JsonRows, open_text
from detrkit.structures import Categories


class CocoWriter(LabelWriter):
    """Writes COCO data sets, with the ids of images, objects and categories kept; see `LabelWriter`.

    Polygons stay polygons. Other masks become RLE, or polygons where `tolerance` is above 0. Scores are the key `score`
    of each annotation, which COCO's tools ignore and CVAT and Datumaro read.
    """

    title = "COCO"

    def __init__(self, folder: Path, categories: Categories, *, masks: bool, tolerance: float = 0.0) -> None:
        super().__init__(folder, categories, masks=masks, tolerance=tolerance)
        self._files: dict[str, tuple[IO[str], JsonRows, list[Plain]]] = {}

    def image_path(self, name: str, split: str) -> str:
        """`images/SPLIT/NAME`."""
        return f"images/{split}/{name}"

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the annotations of an image."""
        files = self.files_of(image)
        _, rows, images = self._of_split(split)
        images.append({"id": image.id, "file_name": name, "height": image.height, "width": image.width})
        for k, obj in enumerate(image.objects):
            x1, y1, x2, y2 = obj.box
            shape = obj.segmentation
            if shape and self.tolerance > 0 and not obj.crowd:
                shape = polygons_of(shape, files, self.tolerance)
            row: Plain = {
                "id": obj.id,
                "image_id": image.id,
                "category_id": obj.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if obj.area is None else obj.area,
                "iscrowd": int(obj.crowd),
                "segmentation": polygons_or_rle(shape, files) if shape else [],
            }
            rows.add(row | ({"score": scores[k]} if scores else {}))
            self.objects += 1

    def close(self) -> None:
        """Complete the json files."""
        for file, rows, images in self._files.values():
            rest = {"images": images, "categories": self.categories.to_plain()}
            rows.close("\n],\n" + json.dumps(rest, ensure_ascii=False)[1:] + "\n")
            file.close()

    def _of_split(self, split: str) -> tuple[IO[str], JsonRows, list[Plain]]:
        """The json file of a split, its annotations, and its images."""
        if split not in self._files:
            file = open_text(self.folder / "annotations" / f"instances_{split}.json")
            self._files[split] = file, JsonRows(file, '{"annotations": ['), []
        return self._files[split]
