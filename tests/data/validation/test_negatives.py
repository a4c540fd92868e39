"""An object that was dropped never makes its image one without objects: in every format, in train and val."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import write_image

XML = "<annotation><filename>{}.png</filename>{}</annotation>"
OBJECT = "<object>{}<bndbox><xmin>{}</xmin><ymin>6</ymin><xmax>15</xmax><ymax>18</ymax></bndbox></object>"
CAT = "<name>cat</name>"


def coco(root: Path, rows: list[dict[str, Any]]) -> None:
    good = {"category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
    content = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in enumerate("ab")],
        "annotations": [{"id": k + 1, "image_id": 1, **good, **row} for k, row in enumerate(rows)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    content["annotations"].append({"id": 99, "image_id": 0, **good})
    (root / "labels.json").write_text(json.dumps(content))


def voc(root: Path, objects: str) -> None:
    (root / "a.xml").write_text(XML.format("a", OBJECT.format(CAT, 5)))
    (root / "b.xml").write_text(XML.format("b", objects))


def yolo(root: Path, lines: str) -> None:
    (root / "classes.txt").write_text("cat\n")
    (root / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "b.txt").write_text(lines)


def labelme(root: Path, shapes: list[dict[str, Any]]) -> None:
    good = {"label": "cat", "points": [[5, 6], [15, 18]], "shape_type": "rectangle"}
    for name, rows in (("a", [{}]), ("b", shapes)):
        content = {"imagePath": f"{name}.png", "imageHeight": 30, "imageWidth": 40, "imageData": None}
        (root / f"{name}.json").write_text(json.dumps(content | {"shapes": [good | row for row in rows]}))


def via(root: Path, attributes: list[dict[str, str]]) -> None:
    shape = {"name": "rect", "x": 5, "y": 6, "width": 10, "height": 12}
    rows = {}
    for name, some in (("a", [{"type": "cat"}, {"type": "cat"}]), ("b", attributes)):
        regions = [{"shape_attributes": shape, "region_attributes": one} for one in some]
        rows[f"{name}.png9"] = {"filename": f"{name}.png", "size": 9, "regions": regions, "file_attributes": {}}
    (root / "via_region_data.json").write_text(json.dumps(rows))


LOST: list[tuple[str, Callable[[Path, Any], None], Any, str]] = [
    ("coco unknown class beside a good one", coco, [{}, {"category_id": 7}], "1 category_unknown"),
    ("coco malformed", coco, [{"bbox": [[5, 6], [15, 18]]}], "1 box_malformed"),
    ("coco not finite", coco, [{"bbox": [5, 6, 1e12, 12]}], "1 box_not_finite"),
    ("coco all empty", coco, [{"bbox": [5, 6, 0, 12]}, {"bbox": [5, 6, 3, 0]}], "2 box_empty"),
    ("coco all off the image", coco, [{"bbox": [50, 6, 4, 4]}], "1 box_off_image"),
    ("coco crowd of no class", coco, [{"iscrowd": 1, "category_id": 9}], "1 category_unknown"),
    ("voc no name", voc, OBJECT.format(CAT, 5) + OBJECT.format("", 5), "1 category_unknown"),
    ("voc no box", voc, f"<object>{CAT}</object>", "1 box_malformed"),
    ("voc nan", voc, OBJECT.format(CAT, "nan"), "1 box_not_finite"),
    ("voc comma", voc, OBJECT.format(CAT, "5,5"), "1 box_malformed"),
    ("yolo number too high", yolo, "0 0.5 0.5 0.2 0.2\n3 0.2 0.2 0.2 0.2\n", "1 category_unknown"),
    ("yolo number below 0", yolo, "-1 0.2 0.2 0.2 0.2\n", "1 category_unknown"),
    ("yolo nan", yolo, "0 nan 0.2 0.2 0.2\n", "1 box_not_finite"),
    ("yolo all empty", yolo, "0 0.5 0.5 0 0.2\n", "1 box_empty"),
    ("labelme no label", labelme, [{}, {"label": ""}], "1 category_unknown"),
    ("labelme one point", labelme, [{"points": [[5, 6]]}], "1 box_empty"),
    ("via no class", via, [{"type": "cat"}, {"Type": "cat"}], "1 category_unknown"),
]


@pytest.mark.parametrize(("write", "given", "detail"), [row[1:] for row in LOST], ids=[row[0] for row in LOST])
def test_the_image_of_a_dropped_object_is_left_out(
    tmp_path: Path, write: Callable[[Path, Any], None], given: Any, detail: str
) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    write(tmp_path, given)
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    assert [image.path.name for image in report.splits["train"].images] == ["a.png"]
    (finding,) = (f for f in report.findings if f.kind == "image_object_lost")
    assert (finding.file, finding.detail) == (str(tmp_path / "b.png"), detail)


STAYS: list[tuple[str, Callable[[Path, Any], None], Any, int]] = [
    ("coco without annotations", coco, [], 0),
    ("coco one of two is empty", coco, [{}, {"bbox": [5, 6, 0, 12]}], 1),
    ("coco one of two is off the image", coco, [{}, {"bbox": [50, 6, 4, 4]}], 1),
    ("coco twice the same", coco, [{}, {}], 1),
    ("coco crowds alone", coco, [{"iscrowd": 1}], 1),
    ("voc without objects", voc, "", 0),
    ("yolo empty file", yolo, "", 0),
    ("labelme without shapes", labelme, [], 0),
]


@pytest.mark.parametrize(("write", "given", "count"), [row[1:] for row in STAYS], ids=[row[0] for row in STAYS])
def test_other_images_stay(tmp_path: Path, write: Callable[[Path, Any], None], given: Any, count: int) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    write(tmp_path, given)
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    images = {image.path.name: len(image.objects) for image in report.splits["train"].images}
    assert images == {"a.png": 1, "b.png": count}
    assert "image_object_lost" not in report.counts()


def of_two_splits(root: Path, lines: str) -> Path:
    """A YOLO data set: a good image per side, and two more of which the label files hold these lines."""
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cat]\n")
    for split_name in ("train", "val"):
        for name in ("good", "x", "y"):
            write_image(root / split_name / "images" / f"{split_name}{name}.png")
            label = root / split_name / "labels" / f"{split_name}{name}.txt"
            label.parent.mkdir(exist_ok=True)
            label.write_text(lines if name in "xy" else "0 0.5 0.5 0.2 0.2\n")
    return root


def images_of(report: CheckReport) -> dict[str, list[str]]:
    return {name: [image.path.name for image in split.images] for name, split in report.splits.items()}


def test_val_has_the_same_rule_and_a_note_counts_the_lost_images(tmp_path: Path) -> None:
    report = check_dataset(open_dataset(of_two_splits(tmp_path, "4 0.5 0.5 0.2 0.2\n")))
    assert images_of(report) == {"train": ["traingood.png"], "val": ["valgood.png"]}
    message = [note for note in report.notes if "are left out for objects that cannot be used" in note]
    assert [note.split(" are")[0] for note in message] == ["2 of 3 images of train", "2 of 3 images of val"]
    assert "1 category_unknown" in message[0]


def test_the_error_for_no_images_left_names_the_reason(tmp_path: Path) -> None:
    of_two_splits(tmp_path, "4 0.5 0.5 0.2 0.2\n")
    for path in tmp_path.glob("train/labels/*good.txt"):
        path.write_text("4 0.5 0.5 0.2 0.2\n")
    with pytest.raises(
        DataError, match=r"none usable among the 3 listed \(5 category_unknown, 5|3 category_unknown, 3"
    ):
        check_dataset(open_dataset(tmp_path))


def test_strict_refuses_it(tmp_path: Path) -> None:
    of_two_splits(tmp_path, "4 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"as strict asks, found 4 category_unknown, 4 image_object_lost"):
        check_dataset(open_dataset(tmp_path, strict=True))
