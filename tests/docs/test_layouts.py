"""Each folder tree in docs/your-own-data.md is built as drawn, and found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.registry import FORMATS
from detrkit.data.validation.validate import check_dataset

from .pages import ROOT, Page

TREES = [block for block in Page(ROOT / "docs/your-own-data.md").blocks if block.info.startswith("text ")]
XML = """<annotation><size><width>40</width><height>30</height></size>
<object><name>dent</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object>
</annotation>"""


def build(paths: list[Path]) -> None:
    """Write a file of the kind that each path says, about the images among them that it belongs to."""
    some_images = [path for path in paths if path.suffix.lower() == ".jpg"]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".jpg":
            noise = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        elif path.suffix == ".png" and path.parent.name == "images":
            Image.effect_noise((40, 30), 50).convert("RGB").save(path)
        elif path.suffix == ".png":  # a mask: id 1, as gray and as RGB
            ids = np.zeros((30, 40, 3), np.uint8)
            ids[6:25, 5:20, 0] = 1
            Image.fromarray(ids if any("panoptic" in part for part in path.parts) else ids[..., 0]).save(path)
        elif path.suffix == ".json" and path.stem.startswith("panoptic"):
            path.write_text(json.dumps(panoptic(belonging(path, paths, some_images))), encoding="utf-8")
        elif path.name == "notes.json":
            path.write_text(json.dumps({"categories": [{"id": 0, "name": "dent"}, {"id": 1, "name": "scratch"}]}))
        elif path.suffix == ".json" and any(path.stem == write_image.stem for write_image in some_images):
            shape = {"label": "dent", "points": [[5, 6], [20, 25]], "shape_type": "rectangle"}
            size = {"imagePath": f"{path.stem}.jpg", "imageHeight": 30, "imageWidth": 40}
            path.write_text(json.dumps({"shapes": [shape], **size}), encoding="utf-8")
        elif path.suffix == ".json" and path.stem.startswith("via"):
            rect = {"name": "rect", "x": 5, "y": 6, "width": 15, "height": 19}
            region = {"shape_attributes": rect, "region_attributes": {"type": "dent"}}
            name = next(write_image.name for write_image in some_images if write_image.parent == path.parent)
            path.write_text(json.dumps({name: {"filename": name, "size": 9, "regions": [region]}}), encoding="utf-8")
        elif path.suffix == ".json" and path.stem.startswith("project"):
            names = [f"/data/upload/1/{write_image.name}" for write_image in some_images]
            value = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["dent"]}
            result = [{"type": "rectanglelabels", "original_width": 40, "original_height": 30, "value": value}]
            tasks = [{"id": k, "data": {"image": n}, "annotations": [{"result": result}]} for k, n in enumerate(names)]
            path.write_text(json.dumps(tasks), encoding="utf-8")
        elif path.name == "annotations.xml":
            box = '<box label="dent" xtl="5" ytl="6" xbr="20" ybr="25"/>'
            rows = [f'<image name="{i.name}" width="40" height="30">{box}</image>' for i in some_images]
            text = f"<annotations><version>1.1</version>{''.join(rows)}</annotations>"
            path.write_text(text, encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(coco(belonging(path, paths, some_images))), encoding="utf-8")
        elif path.suffix.lower() == ".xml":
            path.write_text(XML, encoding="utf-8")
        elif path.suffix == ".yaml":
            path.write_text("train: images/train\nval: images/val\nnames: [dent, scratch]\n", encoding="utf-8")
        elif path.name == "obj.data":
            path.write_text(
                "train = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n", encoding="utf-8"
            )
        elif path.name in ("classes.txt", "obj.names", "_darknet.labels", "label_list.txt", "labels.txt"):
            path.write_text("dent\nscratch\n", encoding="utf-8")
        elif path.name in ("train.txt", "valid.txt") and path.parent.name == "DATA":
            path.write_text(line_of_list(belonging(path, paths, some_images)[0], paths), encoding="utf-8")
        elif "ImageSets" in path.parts:
            path.write_text(belonging(path, paths, some_images)[0].stem + "\n", encoding="utf-8")
        else:
            path.write_text("1 0.5 0.5 0.2 0.4\n", encoding="utf-8")


def line_of_list(write_image: Path, paths: list[Path]) -> str:
    """A line of Darknet's lists, or of PaddleDetection's, which name the annotations as well."""
    xml = [path for path in paths if path.suffix == ".xml" and path.stem == write_image.stem]
    folder = "" if xml else "data/"
    return " ".join(folder + "/".join(path.parts[-2:]) for path in [write_image, *xml]) + "\n"


def belonging(path: Path, paths: list[Path], some_images: list[Path]) -> list[Path]:
    """The images of one list: the k-th of them for the k-th list, or all for a single one."""
    lists = [p for p in paths if p.suffix == path.suffix and p.suffix in (".json", ".txt") and p.stem != "label_list"]
    return some_images if len(lists) == 1 else [some_images[lists.index(path)]]


def coco(some_images: list[Path]) -> dict[str, object]:
    return {
        "images": [{"id": k, "file_name": p.name, "width": 40, "height": 30} for k, p in enumerate(some_images, 1)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 7, "bbox": [5, 6, 15, 19], "area": 285, "iscrowd": 0}
            for k in range(1, len(some_images) + 1)
        ],
        "categories": [{"id": 7, "name": "dent"}],
    }


def panoptic(some_images: list[Path]) -> dict[str, object]:
    content = coco(some_images)
    segment = {"id": 1, "category_id": 7, "bbox": [5, 6, 15, 19], "area": 285, "iscrowd": 0}
    content["annotations"] = [
        {"image_id": k, "file_name": f"{p.stem}.png", "segments_info": [segment]} for k, p in enumerate(some_images, 1)
    ]
    content["categories"] = [{"id": 7, "name": "dent", "isthing": 1}]
    return content


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.info.split()[1]}, line {tree.line}")
def test_the_tree_is_found(tree, tmp_path: Path) -> None:
    build([tmp_path / line for line in tree.code.splitlines()])
    report = check_dataset(open_dataset(tmp_path / "DATA"))
    assert report.format == tree.info.split()[1]
    assert {name: len(split.images) for name, split in report.splits.items()} == {"train": 1, "val": 1}
    assert all(len(image.objects) >= 1 for split in report.splits.values() for image in split.images)
    assert {"dropped", "repaired", "unused"}.isdisjoint(finding.action for finding in report.findings)


def test_every_format_has_trees() -> None:
    # packed data are no layout that somebody draws: `detrkit pack` writes them
    assert {tree.info for tree in TREES} == {f"text {row.name}" for row in FORMATS} - {"text packed"}
