"""Write CVAT for images 1.1: `annotations.xml`, `labels.json` and `images/`.

Format: docs.cvat.ai/docs/manual/advanced/xml_format. CVAT matches images by their names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO
from xml.etree import ElementTree as ET

import numpy as np
from torch import Tensor

from detrkit.data.formats.label_writer import LabelWriter, plain_number, xml_text
from detrkit.data.formats.outlines import has_one_outline, mask_of, polygons_of
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.files import open_text


class CvatWriter(LabelWriter):
    """Writes a box, a polygon or, for an object of several parts or with holes, a mask per object; see `LabelWriter`.

    Scores are the text attribute `score`. `labels.json` has the classes with that attribute, for the tab "Raw" of the
    labels of a project; CVAT drops attributes that its labels do not have.
    """

    title = "CVAT"

    _file: IO[str] | None = None

    def image_path(self, name: str, split: str) -> str:
        """`images/NAME`."""
        return f"images/{name}"

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the element of an image."""
        number = self.images[split] - 1
        root = ET.Element("image", id=str(number), name=name, width=str(image.width), height=str(image.height))
        for k, obj in enumerate(image.objects):
            tag, values = self._shape(image, obj)
            common = {"label": xml_text(self.class_name(obj)), "source": "auto" if scores else "manual"}
            shape = ET.SubElement(root, tag, common | {"occluded": "0"} | values | {"z_order": "0"})
            if scores:
                ET.SubElement(shape, "attribute", name="score").text = plain_number(scores[k])
            self.objects += 1
        ET.indent(root, level=1)
        self._opened().write("  " + ET.tostring(root, encoding="unicode") + "\n")

    def close(self) -> None:
        """Complete `annotations.xml` and write the labels of the project."""
        file = self._opened()
        file.write("</annotations>\n")
        file.close()
        score = {"name": "score", "input_type": "text", "mutable": False, "values": [""]}
        rows = [{"name": xml_text(name), "attributes": [score]} for name in self.categories.names]
        with open_text(self.folder / "labels.json") as labels:
            json.dump(rows, labels, ensure_ascii=False, indent=1)

    def _opened(self) -> IO[str]:
        """`annotations.xml`, whose head has the classes."""
        if self._file is None:
            self._file = open_text(self.folder / "annotations.xml")
            meta = ET.Element("meta")
            labels = ET.SubElement(ET.SubElement(meta, "task"), "labels")
            for name in self.categories.names:
                label = ET.SubElement(labels, "label")
                ET.SubElement(label, "name").text = xml_text(name)
                attribute = ET.SubElement(ET.SubElement(label, "attributes"), "attribute")
                for tag, text in (("name", "score"), ("mutable", "False"), ("input_type", "text")):
                    ET.SubElement(attribute, tag).text = text
            ET.indent(meta, level=1)
            head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  '
            self._file.write(head + ET.tostring(meta, encoding="unicode") + "\n")
        return self._file

    def _shape(self, image: ImageRecord, obj: ObjectRecord) -> tuple[str, dict[str, str]]:
        """The tag and the place of an object."""
        x1, y1, x2, y2 = map(plain_number, obj.box)
        box = {"xtl": x1, "ytl": y1, "xbr": x2, "ybr": y2}
        files = self.files_of(image)
        parts = polygons_of(obj.segmentation, files, self.tolerance)
        mask = mask_of(obj.segmentation, files) if parts else None
        if mask is None or not mask.any():
            return "box", box
        if len(parts) > 1 or not (isinstance(obj.segmentation, list) or has_one_outline(mask)):
            return "mask", _mask(mask)
        points = zip(parts[0][0::2], parts[0][1::2], strict=True)
        return "polygon", {"points": ";".join(f"{plain_number(x)},{plain_number(y)}" for x, y in points)}


def _mask(mask: Tensor) -> dict[str, str]:
    """Run lengths of a mask, bool [H, W], row by row inside its box, beginning with the pixels outside of it."""
    rows, columns = (mask.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
    flat = np.concatenate([[False], part.ravel()])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], starts, [part.size]]))
    place = {"left": columns[0], "top": rows[0], "width": part.shape[1], "height": part.shape[0]}
    return {"rle": ", ".join(map(str, runs.tolist()))} | {key: str(value) for key, value in place.items()}
