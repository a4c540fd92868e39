"""Write labelme annotations, which AnyLabeling and X-AnyLabeling open as well: a json file beside each image."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from detrkit.data.formats.label_writer import LabelWriter, Plain
from detrkit.data.formats.outlines import polygons_of
from detrkit.data.records import ImageRecord
from detrkit.files import open_text

_VERSION = "5.5.0"
"""Version of labelme whose file format is written."""


class LabelmeWriter(LabelWriter):
    """Writes a rectangle per object, or a polygon per part of its mask; see `LabelWriter`.

    Parts of one object share their `group_id`. Scores are the key `score` of each shape, which labelme keeps and
    X-AnyLabeling shows. `labels.txt` has the classes in their order (`labelme --labels labels.txt`).
    """

    title = "labelme"

    def image_path(self, name: str, split: str) -> str:
        """`NAME`."""
        return name

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the json file of an image."""
        files = self.files_of(image)
        shapes: list[Plain] = []
        for k, obj in enumerate(image.objects):
            x1, y1, x2, y2 = obj.box
            parts = polygons_of(obj.segmentation, files, self.tolerance)
            corners = [list(map(list, zip(part[0::2], part[1::2], strict=True))) for part in parts]
            for points in corners or [[[x1, y1], [x2, y2]]]:
                shapes.append(
                    {
                        "label": self.class_name(obj),
                        "points": points,
                        "group_id": k + 1 if len(parts) > 1 else None,
                        "description": "",
                        "shape_type": "polygon" if parts else "rectangle",
                        "flags": {},
                        "difficult": obj.crowd,
                        **({"score": scores[k]} if scores else {}),
                    }
                )
            self.objects += 1
        content: Plain = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - a name, not a path
        with open_text(self.folder / f"{stem}.json") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)

    def close(self) -> None:
        """Write `labels.txt`."""
        with open_text(self.folder / "labels.txt") as file:
            file.writelines(f"{name}\n" for name in self.categories.names)
