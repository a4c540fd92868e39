"""Write Pascal VOC: `Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt` and `labelmap.txt`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar
from xml.etree import ElementTree as ET

from detrkit.data.formats.label_writer import LabelWriter, plain_number, xml_text
from detrkit.data.records import ImageRecord
from detrkit.errors import DataError
from detrkit.files import open_text
from detrkit.structures import Categories


class VocWriter(LabelWriter):
    """Writes Pascal VOC data sets, with crowds as objects marked `difficult`; see `LabelWriter`.

    Corners are written as they are, in pixels from the upper left corner, without the one-pixel shift of the original
    VOC, as most tools write and read them. The order of the classes is that of `labelmap.txt`, which CVAT and Datumaro
    need. Scores are attributes of the objects, as CVAT writes attributes.
    """

    title = "Pascal VOC"
    flat = True
    losses: ClassVar = {
        "masks": "masks, which are left out, since xml files of Pascal VOC hold boxes; use coco or yolo to keep them",
        "ids": "category ids that Pascal VOC, which has names alone, cannot hold; names and order are kept",
    }

    def __init__(self, folder: Path, categories: Categories, *, masks: bool, tolerance: float = 0.0) -> None:
        super().__init__(folder, categories, masks=masks, tolerance=tolerance)
        self._class_names = [_text(name) for name in categories.names]
        if len(set(self._class_names)) < len(self._class_names):
            twice = next(name for name in self._class_names if self._class_names.count(name) > 1)
            raise DataError(
                f"expected class names that differ in more than blanks, found {twice!r} twice; rename one of the two, "
                "or write another format than voc"
            )
        self._lists: dict[str, IO[str]] = {}

    def image_path(self, name: str, split: str) -> str:
        """`JPEGImages/NAME`."""
        return f"JPEGImages/{name}"

    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the xml file of an image."""
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - a name, not a path
        root = ET.Element("annotation")
        _add(root, "folder", "JPEGImages")
        _add(root, "filename", name)
        size = ET.SubElement(root, "size")
        for side, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            _add(size, side, str(value))
        _add(root, "segmented", "0")
        for k, obj in enumerate(image.objects):
            element = ET.SubElement(root, "object")
            _add(element, "name", self._class_names[self.index_of_id[obj.category_id]])
            _add(element, "pose", "Unspecified")
            _add(element, "truncated", "0")
            _add(element, "difficult", str(int(obj.crowd)))
            box = ET.SubElement(element, "bndbox")
            for corner, number in zip(("xmin", "ymin", "xmax", "ymax"), obj.box, strict=True):
                _add(box, corner, plain_number(number))
            if scores:
                attribute = ET.SubElement(ET.SubElement(element, "attributes"), "attribute")
                _add(attribute, "name", "score")
                _add(attribute, "value", plain_number(scores[k]))
            if obj.segmentation:
                self.lose("masks")
            self.objects += 1
        ET.indent(root)
        with open_text(self.folder / "Annotations" / f"{stem}.xml") as file:
            file.write(ET.tostring(root, encoding="unicode") + "\n")
        if split not in self._lists:
            self._lists[split] = open_text(self.folder / "ImageSets" / "Main" / f"{split}.txt")
        self._lists[split].write(f"{stem}\n")

    def close(self) -> None:
        """Complete the lists of images and write the list of classes."""
        for file in self._lists.values():
            file.close()
        self.lose_ids()
        with open_text(self.folder / "labelmap.txt") as file:
            file.write("# label:color_rgb:parts:actions\n")
            if "background" not in self._class_names:
                file.write("background:0,0,0::\n")
            for k, name in enumerate(self._class_names, start=1):
                file.write(f"{name}:{','.join(map(str, voc_color(k)))}::\n")


def voc_color(number: int) -> tuple[int, int, int]:
    """Color of a class in Pascal VOC: its bits, lowest first, spread over the highest bits of red, green and blue."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def _text(name: str) -> str:
    """A class name that XML and a line of a list can hold."""
    return " ".join(xml_text(name).split()) or "_"


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = xml_text(text)
