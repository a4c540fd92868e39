"""Crowds are no objects, unless they are all there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.auto_settings import suggest_settings
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from tests.data.conftest import only, write_image

MASK = {"size": [30, 40], "counts": [100, 50, 1050]}


def test_crowds_with_masks_are_objects_where_there_is_nothing_else(coco: Any) -> None:
    for content in coco.content.values():
        for row in content["annotations"]:
            row |= {"iscrowd": 1, "segmentation": MASK}
    report = coco.check(masks=True)
    only(report, "crowd_as_object", 2)
    assert report.statistics["train"]["objects"] == 2
    assert report.statistics["train"]["crowds"] == 0
    assert "2 of 2 objects" in report.findings[0].detail
    coco.train["annotations"][0]["iscrowd"] = 0
    report = coco.check(masks=True)
    assert report.counts()["crowd_as_object"] == 1  # val
    assert report.statistics["train"]["crowds"] == 1


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_nothing_but_crowds_without_masks_is_refused(coco: Any, mark: str) -> None:
    for row in coco.train["annotations"]:
        row |= {"iscrowd": 0, mark: 1, "segmentation": []}
    with pytest.raises(DataError, match=r"expected objects to train on in .*, found only 2 crowds, .* set iscrowd"):
        coco.check()


def test_nothing_but_difficult_objects_is_refused(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", seed=number)
        write_voc(tmp_path / f"{number}.xml", f"{number}.png", ("dent", 5, 6, 15, 18, 1))
    with pytest.raises(DataError, match=r"found only 3 objects marked difficult, .* set difficult to 0"):
        check_dataset(open_dataset(tmp_path))


def test_ignored_objects_are_crowds(coco: Any) -> None:
    coco.train["annotations"][1]["ignore"] = 1
    coco.add(category_id=9)
    report = coco.check()
    only(report, "crowd")
    assert [obj.crowd for obj in report.splits["train"].images[0].objects] == [False, True, False]


def test_a_val_split_or_class_of_crowds_alone_is_reported(coco: Any) -> None:
    coco.content["val"]["annotations"][0]["iscrowd"] = 1
    coco.train["annotations"][1]["iscrowd"] = 1
    counts = coco.check().counts()
    assert counts == {"category_mostly_crowds": 1, "val_without_objects": 1, "crowd": 2}
    coco.content["val"]["annotations"] = []
    report = coco.check()
    assert [f.detail for f in report.findings if f.kind == "val_without_objects"] == ["none at all"]
    assert [f.detail for f in report.findings if f.kind == "category_mostly_crowds"] == ["dent: 1 of 1 objects"]


def test_masks_of_crowds_alone_do_not_count(coco: Any) -> None:
    coco.train["annotations"][1] |= {"iscrowd": 1, "segmentation": MASK}
    with pytest.raises(DataError, match=r"expected masks of the objects in .*, found only boxes"):
        coco.check(masks=True)
    report = coco.check(decode_all=True)
    assert not report.splits["train"].has_masks
    assert "mask_absent" not in report.counts()
    assert all("segmentation" not in row for row in report.splits["train"].to_coco()["annotations"])


def test_proposals_count_no_crowds(coco: Any) -> None:
    write_image(coco.root / "images" / "crowd.png", seed=5)
    coco.train["images"].insert(0, {"id": 1, "file_name": "crowd.png", "width": 40, "height": 30})
    coco.train["annotations"] += [
        coco.box(number, image_id=1, iscrowd=1, bbox=[number % 30, number // 30, 2, 2]) for number in range(100, 150)
    ]
    split = coco.check().splits["train"]
    without = replace(split, images=[image for image in split.images if image.has_trainable])
    assert [image.file_name for image in without.images] == ["train.png"]
    assert suggest_settings(split).num_queries == suggest_settings(without).num_queries == 20
    assert suggest_settings(split).image_size == suggest_settings(without).image_size
