"""COCO files in the spellings that tools write: boxes, polygons, ids, key points, files that are something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.prediction_files import find_images
from tests.data.conftest import boxes, write_image


def test_boxes_from_masks_and_numeric_names(coco: Any) -> None:
    for content in coco.content.values():
        content["categories"][0]["name"] = 0
    for number, box in enumerate(("absent", [], [0, 0, 0, 0], None)):
        coco.add(number=10 + number, bbox=box, segmentation=[[1, 1, 7, 1, 7, 7, 1, 7 + number]], area=36)
    report = coco.check()
    assert report.counts() == {"box_from_mask": 4}
    assert boxes(report)[2:] == [(1, 1, 7, 7 + number) for number in range(4)]
    assert report.splits["train"].categories.names[0] == "0"


@pytest.mark.parametrize(
    "shape",
    [
        [1, 1, 7, 1, 7, 7],
        [[1, 1], [7, 1], [7, 7]],
        [{"x": 1, "y": 1}, {"x": 7, "y": 1}, {"x": 7, "y": 7}],
        [["1", "1", "7", "1", "7", "7"]],
        "[[1, 1, 7, 1, 7, 7]]",
    ],
)
def test_spellings_of_polygons(coco: Any, shape: Any) -> None:
    coco.add(segmentation=shape)
    assert coco.check().splits["train"].images[0].objects[-1].segmentation == [[1, 1, 7, 1, 7, 7]]


def test_ids_of_more_than_64_bits(coco: Any) -> None:
    for row, key in ((coco.train["images"][0], "id"), *((a, "image_id") for a in coco.train["annotations"])):
        row[key] = 2**70
    coco.train["annotations"][0]["id"] = 2**80
    report = coco.check()
    assert report.counts() == {"image_id_not_integer": 1, "annotation_id_absent": 1}
    assert all(obj.id < 2**63 for image in report.splits["train"].images for obj in image.objects)


def test_detections_with_ids_that_are_text_find_their_images(coco: Any) -> None:
    for row, key in ((coco.train["images"][0], "id"), *((a, "image_id") for a in coco.train["annotations"])):
        row[key] = "scan 7"
    coco.write()
    raw = open_dataset(coco.root)
    report = check_dataset(raw)
    (image,) = report.splits["train"].images
    rows = find_images([{"image_id": "scan 7"}, {"image_id": image.id}], raw.splits["train"].images, where="x.json")
    assert [row["image_id"] for row in rows] == [image.id, image.id]


def test_key_point_files_are_noted(coco: Any) -> None:
    for row in coco.train["annotations"]:
        row |= {"keypoints": [1, 2, 2], "num_keypoints": 1}
    coco.write()
    (coco.root / "val.json").unlink()
    (coco.root / "train.json").rename(coco.root / "person_keypoints_train.json")
    raw = open_dataset(coco.root)
    assert "person_keypoints_train.json holds key points; its boxes are used" in raw.notes[0]


def test_annotations_of_other_tasks_are_noted_and_not_refused(coco: Any) -> None:
    coco.write()
    images = coco.train["images"]
    segments = [{"image_id": 7, "file_name": "train.png", "segments_info": [{"id": 1, "category_id": 3}]}]
    for name, rows in (("captions_train", [{"image_id": 7, "caption": "x"}]), ("panoptic_train", segments)):
        (coco.root / f"{name}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    write_image(coco.root / "panoptic_train" / "train.png")
    report = check_dataset(open_dataset(coco.root, strict=True))
    assert (report.format, report.counts()) == ("coco", {"other_task": 3})


def test_the_keys_of_a_file_may_come_late_and_decide(coco: Any) -> None:
    coco.content = {split_name: {"info": "x" * (1 << 21), **content} for split_name, content in coco.content.items()}
    coco.write()
    (coco.root / "notes.json").write_text('{"categories": [], "info": {}}')
    assert open_dataset(coco.root).format == "coco"


def test_the_next_format_is_tried_after_a_failure(coco: Any) -> None:
    for name in ("train", "val"):
        (coco.root / "labels").mkdir(exist_ok=True)
        (coco.root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (coco.root / "labels.json").write_text('{"images": [{"file_name"')
    raw = open_dataset(coco.root, val_fraction=0)
    assert raw.format == "yolo"
    assert any(note.startswith("not read as COCO: expected JSON in ") for note in raw.notes)
