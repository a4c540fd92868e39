"""Attributes of objects, which records do not hold, are said to be unused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import detrkit
from detrkit.data.formats.detect import open_dataset
from tests.data.conftest import write_image

BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 32}],
        "annotations": [
            BOX | {"attributes": {"depth": "deep", "occluded": False, "rotation": 0.0}},
            BOX | {"id": 2, "attributes": {"depth": "flat", "occluded": True}},
            BOX | {"id": 3, "attributes": {"depth": ""}},
        ],
        "categories": [{"id": 1, "name": "pit"}],
    }
)
SHAPE = {"label": "pit", "shape_type": "rectangle", "points": [[2, 2], [12, 12]], "flags": {"occluded": False}}
LABELME = json.dumps(
    {
        "version": "5.4.1",
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 32,
        "imageWidth": 32,
        "shapes": [SHAPE, SHAPE | {"flags": {"depth": True}}, SHAPE | {"flags": {"depth": True, "occluded": True}}],
    }
)
VOC_OBJECT = (
    "<object><name>pit</name><pose>Unspecified</pose><truncated>0</truncated>{}"
    "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object>"
)
DEPTH = "<attributes><attribute><name>depth</name><value>deep</value></attribute></attributes>"
VOC = (
    "<annotation><filename>a.png</filename><size><width>32</width><height>32</height><depth>3</depth></size>"
    f"{VOC_OBJECT.format('')}{VOC_OBJECT.format(DEPTH)}{VOC_OBJECT.format(f'<occluded>1</occluded>{DEPTH}')}"
    "</annotation>"
)
CVAT_BOX = '<box label="pit" occluded="{}" xtl="2" ytl="2" xbr="12" ybr="12">{}</box>'
CVAT_DEPTH = '<attribute name="depth">deep</attribute>'
CVAT = (
    '<annotations><version>1.1</version><image id="0" name="a.png" width="32" height="32">'
    f"{CVAT_BOX.format(0, '')}{CVAT_BOX.format(0, CVAT_DEPTH)}{CVAT_BOX.format(1, CVAT_DEPTH)}</image></annotations>"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [("labels.json", COCO), ("a.json", LABELME), ("a.xml", VOC), ("annotations.xml", CVAT)],
    ids=["coco", "labelme", "voc", "cvat"],
)
def test_attributes_of_objects_are_noted(tmp_path: Path, name: str, content: str) -> None:
    write_image(tmp_path / "data" / "a.png", 32, 32)
    (tmp_path / "data" / name).write_text(content, encoding="utf-8")
    note = "attributes of objects are not used: depth (2), occluded (1)"
    assert note in open_dataset(tmp_path / "data").notes
    assert note in detrkit.convert_data(tmp_path / "data", tmp_path / "out", "coco").notes


def test_a_note_names_few_of_many_attributes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 32, 32)
    content = json.loads(COCO)
    content["annotations"][0]["attributes"] = {f"a{k}": k + 1 for k in range(12)}
    (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    (note,) = (text for text in open_dataset(tmp_path).notes if "attributes" in text)
    assert note.endswith(" and 6 more")


def test_objects_without_attributes_need_no_note(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 32, 32)
    (tmp_path / "labels.json").write_text(COCO.replace("deep", "").replace("flat", "").replace("true", "0"))
    assert not any("attributes" in text for text in open_dataset(tmp_path).notes)
