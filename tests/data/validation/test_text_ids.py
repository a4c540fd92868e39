"""Ids that are text, and file names that are no text: every object stays with its image."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli import main
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.prediction_files import find_images, read_detections
from tests.data.conftest import counts, write_image


def write(root: Path, ids: list[Any], refs: list[Any]) -> None:
    """A json file of images with one box each, whose left edge is the number of its image."""
    rows = [{"id": actual, "file_name": f"{k}.png", "width": 40, "height": 30} for k, actual in enumerate(ids)]
    boxes = [
        {"id": k + 1, "image_id": ref, "category_id": 1, "bbox": [k, 6, 10, 12], "area": 120, "iscrowd": 0}
        for k, ref in enumerate(refs)
    ]
    for k in range(len(ids)):
        write_image(root / f"{k}.png", seed=k)
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "dent"}]}
    (root / "labels.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("ids", "refs", "unusual"),
    [
        (["1_23", "12_3", "123"], ["1_23", "12_3", "123"], 2),
        (["1", "01", "001"], ["1", "01", "001"], 2),
        ([1, "01", "2"], [1, "01", 2], 1),
        (["01", "001"], ["01", "001"], 2),
        (["000007", "000008"], [7, "8"], 0),
        ([7, 8], ["000007", "08"], 0),
        ([" 7", "8 "], ["7", 8], 0),
        ([2**70, str(2**71)], [2**70, str(2**71)], 2),
    ],
)
def test_objects_stay_with_the_images_of_their_ids(
    tmp_path: Path, ids: list[Any], refs: list[Any], unusual: int
) -> None:
    write(tmp_path, ids, refs)
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    lefts = {image.file_name: [obj.box[0] for obj in image.objects] for image in report.splits["train"].images}
    assert lefts == {f"{k}.png": [k] for k in range(len(ids))}
    assert counts(report) == ({"image_id_not_integer": unusual} if unusual else {})


@pytest.mark.parametrize("text", ["1_2", "", "x", "1.5", "٣", "9" * 5000])
def test_text_that_is_no_integer_is_no_id(text: str) -> None:
    assert as_id(text) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not text")
def test_non_utf8_names_are_read_held_out_and_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder, ending in (("images", ".png"), ("labels", ".txt")):
        for seed in range(5):
            path = write_image(tmp_path / folder / "x.png", seed=seed)
            if ending == ".txt":
                path.write_text("0 0.5 0.5 0.5 0.5\n")
            path.rename(tmp_path / folder / (os.fsdecode(b"pr\xfcf%d" % seed) + ending))
    (tmp_path / "classes.txt").write_text("dent\n")
    report = check_dataset(open_dataset(tmp_path))
    assert {name: len(split) for name, split in report.splits.items()} == {"train": 4, "val": 1}
    (tmp_path / "classes.txt").rename(tmp_path / "images" / os.fsdecode(b"\xfc.png"))  # a finding with such a name
    assert main(["check", str(tmp_path)]) == 0
    assert not capfd.readouterr().err


def test_detections_with_ids_that_differ_in_zeros_stay_apart(tmp_path: Path) -> None:
    write(tmp_path, ["1", "01", "001"], ["1", "01", "001"])
    raw = open_dataset(tmp_path, val_fraction=0)
    check_dataset(raw)  # which gives ids to images without any
    images = raw.splits["train"].images
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": i, "score": 0.5} for i in ("001", "1", "01", 1)]))
    rows = find_images(read_detections(tmp_path / "d.json"), images, where="d.json")
    named = {as_id(image.id): image.path.name for image in images}
    assert [named[row["image_id"]] for row in rows] == ["2.png", "0.png", "1.png", "0.png"]
