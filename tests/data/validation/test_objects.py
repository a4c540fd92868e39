"""Defects of single objects, of classes and of the whole: the finding with file and record, and the treatment."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.findings import ACTIONS, actions_table
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from tests.conftest import ROOT
from tests.data.conftest import boxes, counts, only


def test_a_sound_data_set_has_no_findings(coco: Any) -> None:
    report = coco.check(decode_all=True)
    assert report.findings == []
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]
    assert [len(split) for split in report.splits.values()] == [1, 1]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("box_empty", {"bbox": [5, 5, 0, 4]}),
        ("box_empty", {"bbox": [5, 5, 4, -3]}),
        ("box_empty", {"bbox": [5, 5, 1e-30, 4]}),
        ("box_off_image", {"bbox": [40, 5, 3, 4]}),
        ("box_off_image", {"bbox": [5, -9, 3, 4]}),
        ("image_of_object_missing", {"image_id": 8}),
        ("image_of_object_missing", {"image_id": "absent"}),
        ("annotation_twice", {"bbox": [5, 6, 10, 12]}),
    ],
)
def test_an_object_that_is_dropped(coco: Any, kind: str, change: dict[str, Any]) -> None:
    coco.add(**change)
    report = coco.check()
    only(report, kind)
    assert report.findings[0].record == "annotations[2]"
    assert report.findings[0].file.endswith("train.json")
    assert len(boxes(report)) == 2


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("box_not_finite", {"bbox": [5, 5, math.nan, 4]}),
        ("box_not_finite", {"bbox": [5, math.inf, 3, 4]}),
        ("box_not_finite", {"bbox": [5, 10**400, 3, 4]}),
        ("box_not_finite", {"bbox": [5, 5, "nan", 4]}),
        ("box_malformed", {"bbox": [5, 5, 3]}),
        ("box_malformed", {"bbox": "5 5 3 4"}),
        ("box_malformed", {"bbox": [5, 5, "wide", 4]}),
        ("box_malformed", {"bbox": [5, 5, None, 4]}),
        ("box_malformed", {"bbox": "absent"}),
        ("category_unknown", {"category_id": 4}),
        ("category_unknown", {"category_id": "absent"}),
        ("category_unknown", {"category_id": "dent"}),
        ("category_unknown", {"category_id": [3]}),
    ],
)
def test_an_object_that_cannot_be_understood_takes_its_image_along(
    coco: Any, make_image: Callable[..., Path], kind: str, change: dict[str, Any]
) -> None:
    make_image(coco.root / "images" / "bad.png", seed=9)
    coco.train["images"].append({"id": 8, "file_name": "bad.png", "width": 40, "height": 30})
    coco.add(image_id=8)
    coco.add(image_id=8, **change)
    report = coco.check()
    assert counts(report) == {kind: 1, "image_object_lost": 1}
    first, second = report.findings[:2]
    assert (first.kind, first.record) == (kind, "annotations[3]")
    assert first.file.endswith("train.json")
    assert (second.detail, second.dropped_objects) == (f"1 {kind}", 1)
    assert second.file == str(coco.root / "images" / "bad.png")
    assert len(boxes(report)) == 2


@pytest.mark.parametrize(
    ("kind", "change", "box", "area"),
    [
        ("box_outside", {"bbox": [30, 20, 20, 20], "area": 400}, (30, 20, 40, 30), 100),
        ("box_outside", {"bbox": [-5, -0.5, 10, 10], "area": 100}, (0, 0, 5, 9.5), 47.5),
        ("area_absent", {"area": "absent"}, (1, 1, 7, 7), 36),
        ("area_absent", {"area": math.nan}, (1, 1, 7, 7), 36),
        ("area_absent", {"area": -1}, (1, 1, 7, 7), 36),
        ("area_absent", {"area": "large"}, (1, 1, 7, 7), 36),
        ("number_as_text", {"bbox": ["1", "1", "6", "6.0"]}, (1, 1, 7, 7), 36),
        ("annotation_id_twice", {"number": 1}, (1, 1, 7, 7), 36),
        ("annotation_id_absent", {"number": "absent"}, (1, 1, 7, 7), 36),
        ("annotation_id_absent", {"number": 0}, (1, 1, 7, 7), 36),
        ("annotation_id_absent", {"number": "ab-12"}, (1, 1, 7, 7), 36),
        ("crowd", {"iscrowd": 1}, (1, 1, 7, 7), 36),
        ("segmentation_malformed", {"segmentation": [[1, 1, 7, 7]]}, (1, 1, 7, 7), 36),
        ("segmentation_malformed", {"segmentation": "mask"}, (1, 1, 7, 7), 36),
        ("segmentation_malformed", {"segmentation": [[1, 1, 7, math.nan, 2, 2]]}, (1, 1, 7, 7), 36),
        ("segmentation_malformed", {"segmentation": {"size": [9, 9], "counts": "abc"}}, (1, 1, 7, 7), 36),
    ],
)
def test_an_object_that_is_mended(
    coco: Any, kind: str, change: dict[str, Any], box: tuple[float, ...], area: float
) -> None:
    coco.add(**change)
    report = coco.check()
    only(report, kind)
    actual = report.splits["train"].images[0].objects
    assert actual[2].box == box
    assert actual[2].area == area
    assert actual[2].segmentation is None
    assert actual[2].crowd == (kind == "crowd")
    assert len({o.id for o in actual}) == 3
    assert min(o.id for o in actual) > 0


def test_an_overhang_of_less_than_half_a_pixel_is_rounding(coco: Any) -> None:
    coco.add(bbox=[30, 20, 10.4, 10.01])
    report = coco.check()
    assert report.findings == []
    assert boxes(report)[2] == pytest.approx((30, 20, 40.4, 30.01))


def test_only_the_broken_polygon_of_a_mask_is_dropped(coco: Any) -> None:
    good = [1, 1, 7, 1, 7, 7]
    coco.add(segmentation=[good, [1, 1, 2, 2]])
    report = coco.check()
    only(report, "segmentation_malformed")
    assert report.splits["train"].images[0].objects[2].segmentation == [good]


def test_equal_boxes_with_different_masks_both_stay(coco: Any) -> None:
    coco.add(segmentation=[[1, 1, 7, 1, 7, 7]])
    coco.add(segmentation=[[1, 1, 1, 7, 7, 7]])
    assert coco.check().findings == []


def test_a_category_name_twice_stays_apart(coco: Any) -> None:
    for content in coco.content.values():
        content["categories"].append({"id": 12, "name": "dent"})
    coco.add(category_id=12)
    report = coco.check()
    only(report, "category_name_twice", 2)
    assert report.splits["train"].categories.names == ("scratch", "dent", "dent (12)")


def test_categories_without_names_or_listed_twice(coco: Any) -> None:
    for content in coco.content.values():
        content["categories"][1] = {"id": "9"}
        content["categories"].append(content["categories"][0])
    report = coco.check()
    assert report.counts() == {"category_name_absent": 2, "category_listed_twice": 2}
    assert report.splits["train"].categories.to_plain() == [{"id": 3, "name": "scratch"}, {"id": 9, "name": "9"}]


def test_categories_are_taken_from_the_objects_where_there_are_none(coco: Any) -> None:
    for content in coco.content.values():
        del content["categories"]
    report = coco.check()
    assert report.counts() == {"categories_absent": 2, "categories_differ": 1}
    assert report.splits["train"].categories.ids == (3, 9)


def test_splits_with_different_categories_share_all_of_them(coco: Any) -> None:
    coco.content["val"]["categories"] = [{"id": 9, "name": "dent"}, {"id": 1, "name": "hole"}]
    coco.content["val"]["annotations"][0]["category_id"] = 1
    report = coco.check()
    assert report.counts() == {"categories_differ": 2, "category_not_in_train": 1}
    assert report.splits["train"].categories == report.splits["val"].categories
    assert report.splits["val"].categories.ids == (3, 9, 1)


@pytest.mark.parametrize("other", [[{"id": 3, "name": "dent"}], [{"id": 4, "name": "scratch"}]])
def test_splits_with_contradicting_categories_are_an_error(coco: Any, other: list[dict[str, Any]]) -> None:
    coco.content["val"]["categories"] = other
    coco.write()
    with pytest.raises(DataError, match="same categories in all splits"):
        open_dataset(coco.root)


def test_one_id_with_two_names_is_an_error(coco: Any) -> None:
    coco.train["categories"].append({"id": 3, "name": "rust"})
    coco.write()
    with pytest.raises(DataError, match="one name for category id 3"):
        open_dataset(coco.root)


def test_a_class_without_objects_keeps_its_place(coco: Any) -> None:
    for content in coco.content.values():
        content["categories"].insert(0, {"id": 0, "name": "defects", "supercategory": "none"})
    report = coco.check()
    only(report, "category_unused")
    assert report.splits["train"].categories.ids == (0, 3, 9)


def test_more_objects_than_queries(coco: Any) -> None:
    report = coco.check(num_queries=1)
    only(report, "objects_exceed_queries")
    assert report.statistics["train"]["images_with_more_objects_than_queries"] == 1


def test_leakage_by_content_and_by_name(coco: Any, make_image: Callable[..., Path]) -> None:
    train_image = coco.root / "images" / "train.png"
    (coco.root / "images" / "val.png").write_bytes(train_image.read_bytes())
    only(coco.check(), "leakage_content")
    make_image(coco.root / "images" / "val" / "train.png", seed=5)
    coco.content["val"]["images"][0]["file_name"] = "val/train.png"
    only(coco.check(), "leakage_name")


def test_no_usable_image_is_an_error(coco: Any) -> None:
    for path in (coco.root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"expected images for train .*1 image_unreadable.*an empty file"):
        coco.check()


def test_no_usable_object_is_an_error(coco: Any) -> None:
    coco.train["annotations"] = [coco.box(1, bbox=[1, 1, 0, 0])]
    with pytest.raises(DataError, match=r"expected images for train.*1 box_empty.*1 image_object_lost"):
        coco.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n{"id": 1,}', r"train.json, found a mistake at line 2"),
        ('{"images": []', r"a mistake at line 1"),
        ("", r"a mistake at line 1"),
        ('{"images": {}, "annotations": []}', r"expected a list under 'images'"),
        ('{"images": [], "annotations": []}', r"expected images under 'images'"),
        ('{"annotations": [], "categories": []}', r"expected a list under 'images'.*annotations, categories"),
        ('[{"image_id": 1}]', r"a list of detections is a COCO results file"),
        ('{"images": [{"id": 1, "file_name": "x.png"}], "categories": [{"name": "a"}]}', r"none such as 'x.png'"),
        ("[" * 100_000, r"expected JSON"),
        ("\ud800", r"expected JSON"),
    ],
)
def test_malformed_json_is_an_error_with_file_and_line(coco: Any, text: str, message: str) -> None:
    coco.write()
    path = coco.root / "train.json"
    path.write_bytes(text.encode("utf-16-le", "surrogatepass") if "\ud800" in text else text.encode())
    with pytest.raises(DataError, match=message):
        open_dataset(coco.root, train_json="train.json", val_json="val.json")


def test_a_category_without_id_is_an_error(coco: Any) -> None:
    coco.train["categories"].append({"name": "hole"})
    coco.write()
    with pytest.raises(DataError, match=r"integer id and a name in categories\[2\]"):
        open_dataset(coco.root)


def test_a_hundred_thousand_boxes_take_seconds(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    import json

    rng = np.random.default_rng(0)
    first = make_image(tmp_path / "images" / "0.jpg", 640, 480)
    for number in range(1, 2000):
        os.link(first, tmp_path / "images" / f"{number}.jpg")
    xywh = np.concatenate([rng.integers(0, 400, (100_000, 2)), rng.uniform(1, 80, (100_000, 2))], axis=1).tolist()
    annotations = [
        {"id": i + 1, "image_id": i % 2000, "category_id": i % 80, "bbox": box, "area": 9.0, "iscrowd": 0}
        for i, box in enumerate(xywh)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(2000)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(80)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    begin = time.perf_counter()
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    assert time.perf_counter() - begin < 15  # 2 s on an idle core
    assert report.statistics["train"]["objects"] == 100_000
    assert report.findings == []


def test_every_kind_of_finding_is_brought_about_by_a_test() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests/data").rglob("test_*.py"))
    assert [kind for kind in ACTIONS if f'"{kind}"' not in sources] == []


def test_the_table_of_treatments_names_every_kind() -> None:
    table = actions_table()
    assert all(f"| `{kind}` |" in table for kind in ACTIONS)
    assert len(table.splitlines()) == len(ACTIONS) + 2
