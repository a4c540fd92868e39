"""Write tasks of Label Studio with predictions: `tasks.json`, `label_config.xml` and `images/`.

Format: labelstud.io/guide/predictions. Images are named as files that Label Studio serves itself, with the folder of
`tasks.json` as its LOCAL_FILES_DOCUMENT_ROOT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote
from xml.etree import ElementTree as ET

from detrkit.data.formats.label_writer import LabelWriter, Plain
from detrkit.data.formats.outlines import polygons_of
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.files import JsonRows, open_text

IMAGE_URL = "/data/local-files/?d="
"""Address of files that Label Studio serves from its document root."""


class LabelStudioWriter(LabelWriter):
    """Writes a task per image, with a rectangle per object or a polygon per part of its mask; see `LabelWriter`.

    Scores are those of the regions; that of a prediction is their mean.
    """

    title = "Label Studio"
    losses: ClassVar = {
        "parts": "objects of several parts, which became one region per part",
    }

    _rows: JsonRows | None = None

    def image_path(self, name: str, split: str) -> str:
        """`images/NAME`."""
        return f"images/{name}"

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the task of an image."""
        if self._rows is None:
            self._file = open_text(self.folder / "tasks.json")
            self._rows = JsonRows(self._file, "[")
        regions: list[Plain] = []
        for k, obj in enumerate(image.objects):
            for value in self._values(image, obj):
                kind = "polygonlabels" if "points" in value else "rectanglelabels"
                regions.append(
                    {
                        "id": f"{image.id}-{len(regions) + 1}",
                        "type": kind,
                        "from_name": "label" if self.masks == ("points" in value) else "box",
                        "to_name": "image",
                        "original_width": image.width,
                        "original_height": image.height,
                        "image_rotation": 0,
                        "value": value | {kind: [self.class_name(obj)]},
                        **({"score": scores[k]} if scores else {}),
                    }
                )
            self.objects += 1
        mean = sum(scores) / len(scores) if scores else 0.0
        prediction = {"model_version": "detrkit", "score": mean, "result": regions}
        url = IMAGE_URL + quote(self.image_path(name, split))
        self._rows.add({"data": {"image": url}, "predictions": [prediction]})

    def close(self) -> None:
        """Complete `tasks.json` and write the labeling configuration of the project."""
        if self._rows is not None:
            self._rows.close("\n]\n")
            self._file.close()
        view = ET.Element("View")
        ET.SubElement(view, "Image", name="image", value="$image")
        self._control(view, "PolygonLabels" if self.masks else "RectangleLabels", "label")
        if self.masks:
            self._control(view, "RectangleLabels", "box")
        ET.indent(view)
        with open_text(self.folder / "label_config.xml") as file:
            file.write(ET.tostring(view, encoding="unicode") + "\n")

    def _control(self, view: ET.Element, tag: str, name: str) -> None:
        control = ET.SubElement(view, tag, name=name, toName="image")
        for class_name in self.categories.names:
            ET.SubElement(control, "Label", value=class_name)

    def _values(self, image: ImageRecord, obj: ObjectRecord) -> list[Plain]:
        """The places of an object's regions, in percent of the image."""
        width, height = image.width, image.height
        parts = polygons_of(obj.segmentation, self.files_of(image), self.tolerance)
        if len(parts) > 1:
            self.lose("parts")
        if parts:
            pairs = [zip(part[0::2], part[1::2], strict=True) for part in parts]
            return [
                {"points": [[100 * x / width, 100 * y / height] for x, y in some], "closed": True} for some in pairs
            ]
        x1, y1, x2, y2 = obj.box
        sides = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
        return [{"x": 100 * x1 / width, "y": 100 * y1 / height, **sides, "rotation": 0}]
