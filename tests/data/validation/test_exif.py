"""The whole annotation file decides whether boxes refer to images as stored or upright."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset

FIRST, SECOND = (5, 6, 15, 18), (29, 2, 37, 9)
"""Boxes in the 40 x 30 pixels of images as stored."""
Boxes = dict[int, Sequence[tuple[int, ...]]]


def save(path: Path, orientation: int, size: tuple[int, int] = (40, 30)) -> tuple[Boxes, tuple[int, int]]:
    """Save an image with two white boxes; where they lie as stored (0) and upright (1), and the upright size."""
    actual: Boxes = {0: [], 1: []}
    path.parent.mkdir(parents=True, exist_ok=True)
    upright_size = size
    for box in (FIRST, SECOND, None):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        for x1, y1, x2, y2 in (FIRST, SECOND) if box is None else (box,):
            pixels[y1:y2, x1:x2] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
        if box is not None:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("L")
            upright_size = upright.size
            ys, xs = np.nonzero(np.asarray(upright) > 127)
            actual[0] = [*actual[0], box]
            actual[1] = [*actual[1], (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)]
    return actual, upright_size


def write(root: Path, data_format: str, name: str, boxes: Sequence[tuple[int, ...]], listed: tuple[int, int]) -> None:
    """Labels of one image, which is `listed` (width, height) large for the tool that wrote them."""
    width, height = listed
    if data_format == "coco":
        path = root / "train.json"
        empty: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dent"}]}
        content = json.loads(path.read_text()) if path.is_file() else empty
        number = len(content["images"]) + 1
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        content["annotations"] += [
            {
                "id": 10 * number + k,
                "image_id": number,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
            for k, (x1, y1, x2, y2) in enumerate(boxes)
        ]
        path.write_text(json.dumps(content))
    elif data_format == "voc":
        box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
        objects = "".join(f"<object><name>dent</name>{box.format(*b)}</object>" for b in boxes)
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (root / "images" / name).with_suffix(".xml").write_text(f"<annotation>{size}{objects}</annotation>")
    else:
        centers = [((x1 + x2) / 2 / width, (y1 + y2) / 2 / height) for x1, y1, x2, y2 in boxes]
        sides = [((x2 - x1) / width, (y2 - y1) / height) for x1, y1, x2, y2 in boxes]
        lines = [f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for (x, y), (w, h) in zip(centers, sides, strict=True)]
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / name).with_suffix(".txt").write_text("\n".join(lines))
        (root / "classes.txt").write_text("dent")


def is_right(report: CheckReport, expected: dict[str, Sequence[tuple[int, ...]]]) -> None:
    """Every box lies on its pixels, and so does its polygon."""
    for image in report.splits["train"].images:
        for obj, box in zip(image.objects, expected[image.file_name], strict=True):
            assert obj.box == pytest.approx(box, abs=1e-3)
            if obj.segmentation:
                corners = np.reshape(obj.segmentation, (-1, 2))
                assert (*corners.min(0), *corners.max(0)) == pytest.approx(box)


def details(report: CheckReport) -> set[str]:
    return {finding.detail for finding in report.findings if finding.kind == "image_rotated"}


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("data_format", ["coco", "voc", "yolo"])
def test_undecided_images_follow_the_others(tmp_path: Path, data_format: str, upright: bool) -> None:
    """All eight orientations, and a square one: mirrored, half-turned and square images have one size both ways."""
    expected = {}
    for number, orientation in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 6]):
        name = f"{number}.png"
        boxes, size = save(tmp_path / "images" / name, orientation, (40, 40) if number == 8 else (40, 30))
        stored = (40, 40) if number == 8 else (40, 30)
        write(tmp_path, data_format, name, boxes[upright], size if upright else stored)
        expected[name] = boxes[1]
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    is_right(report, expected)
    assert report.counts() == {"image_rotated": 8}
    (detail,) = details(report)
    assert detail.startswith("boxes kept: " if upright else "boxes rotated with it: ")
    assert ("the upright image" if upright else "the image as stored") in detail


def test_boxes_outweigh_listed_sizes(tmp_path: Path) -> None:
    """A script listed the size as stored; the boxes were drawn on what browsers show."""
    expected = {}
    for number, orientation in enumerate([6, 8, 3, 5]):
        name = f"{number}.png"
        boxes, _ = save(tmp_path / "images" / name, orientation)
        write(tmp_path, "coco", name, boxes[1], (40, 30))
        expected[name] = boxes[1]
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    is_right(report, expected)
    (detail,) = details(report)
    assert detail.startswith("boxes kept: the boxes of ")
    assert detail.endswith("rotated images fit the upright image alone")


def test_images_that_contradict_each_other_count_each_by_its_own_size(tmp_path: Path) -> None:
    expected = {}
    for number, orientation in enumerate([6, 6, 8, 8, 3]):
        name = f"{number}.png"
        boxes, size = save(tmp_path / "images" / name, orientation)
        upright = number % 2 == 1 or orientation == 3
        write(tmp_path, "voc", name, boxes[upright][:1], size if upright else (40, 30))
        expected[name] = boxes[1][:1]
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    is_right(report, expected)
    assert all("so the listed size of each decides" in detail for detail in details(report))


def test_without_evidence_boxes_are_about_the_upright_image(tmp_path: Path) -> None:
    boxes, _ = save(tmp_path / "images" / "0.png", 3)
    write(tmp_path, "coco", "0.png", boxes[1], (40, 30))
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    is_right(report, {"0.png": boxes[1]})
    assert details(report) == {"boxes kept: it is unclear whether they were drawn on the image as stored"}


def test_an_undecided_split_follows_the_other(tmp_path: Path) -> None:
    expected = {}
    for number, orientation in enumerate([6, 1, 3]):
        name = f"{number}.png"
        boxes, _ = save(tmp_path / "images" / name, orientation)
        write(tmp_path, "coco", name, boxes[0], (40, 30))
        expected[name] = boxes[1]
    content = json.loads((tmp_path / "train.json").read_text())
    for split_name, numbers in (("train", (1, 2)), ("val", (3,))):
        images = [image for image in content["images"] if image["id"] in numbers]
        rows = [row for row in content["annotations"] if row["image_id"] in numbers]
        (tmp_path / f"{split_name}.json").write_text(json.dumps(content | {"images": images, "annotations": rows}))
    report = check_dataset(open_dataset(tmp_path))
    (image,) = report.splits["val"].images
    assert image.objects[0].box == expected["2.png"][0]


def test_a_stored_image_that_was_resized_is_turned_and_scaled(tmp_path: Path) -> None:
    boxes, _ = save(tmp_path / "images" / "0.png", 6)
    double = [tuple(2 * value for value in box) for box in boxes[0]]
    write(tmp_path, "coco", "0.png", double, (80, 60))
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    is_right(report, {"0.png": boxes[1]})
    assert report.counts() == {"image_size_differs": 1, "image_rotated": 1}


def test_each_annotation_file_decides_for_itself(tmp_path: Path) -> None:
    """Two files for one split: one about images as stored, one about upright ones."""
    expected = {}
    for number, orientation in enumerate([6, 3, 6, 3]):
        upright = number > 1
        root = tmp_path / ("a", "b")[upright]
        boxes, size = save(root / "images" / f"{number}.png", orientation)
        write(root, "coco", f"{number}.png", boxes[upright], size if upright else (40, 30))
        expected[f"{number}.png"] = boxes[1]
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    assert len(report.splits["train"]) == 4
    for image in report.splits["train"].images:
        assert [obj.box for obj in image.objects] == [pytest.approx(box) for box in expected[image.path.name]]
