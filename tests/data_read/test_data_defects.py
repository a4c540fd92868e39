"""Every kind of defect: a data set that has exactly it, the finding with file and record, and the treatment."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data.check import CheckReport, check_dataset
from detrkit.data.find import open_dataset
from detrkit.data.findings import TREATMENTS, treatments_table
from detrkit.errors import DataError

MET: set[str] = set()
"""Kinds that some test here brought about; the last test holds that none is missing."""


def only(report: CheckReport, kind: str, count: int = 1) -> None:
    """The report has this finding and no other."""
    MET.add(kind)
    assert report.counts() == {kind: count}
    assert all(finding.file and finding.message for finding in report.findings)


def boxes(report: CheckReport, split: str = "train") -> list[tuple[float, ...]]:
    return [found.box for image in report.splits[split].images for found in image.objects]


def test_a_sound_data_set_has_no_findings(coco: Any) -> None:
    report = coco.check(thorough=True)
    assert report.findings == []
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]
    assert [len(split) for split in report.splits.values()] == [1, 1]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("box_empty", {"bbox": [5, 5, 0, 4]}),
        ("box_empty", {"bbox": [5, 5, 4, -3]}),
        ("box_empty", {"bbox": [5, 5, 1e-30, 4]}),
        ("box_not_finite", {"bbox": [5, 5, math.nan, 4]}),
        ("box_not_finite", {"bbox": [5, math.inf, 3, 4]}),
        ("box_not_finite", {"bbox": [5, 10**400, 3, 4]}),
        ("box_not_finite", {"bbox": [5, 5, "nan", 4]}),
        ("box_off_image", {"bbox": [40, 5, 3, 4]}),
        ("box_off_image", {"bbox": [5, -9, 3, 4]}),
        ("box_malformed", {"bbox": [5, 5, 3]}),
        ("box_malformed", {"bbox": "5 5 3 4"}),
        ("box_malformed", {"bbox": [5, 5, "wide", 4]}),
        ("box_malformed", {"bbox": [5, 5, None, 4]}),
        ("box_malformed", {"bbox": "absent"}),
        ("category_unknown", {"category_id": 4}),
        ("category_unknown", {"category_id": "absent"}),
        ("category_unknown", {"category_id": "dent"}),
        ("category_unknown", {"category_id": [3]}),
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
    found = report.splits["train"].images[0].objects
    assert found[2].box == box
    assert found[2].area == area
    assert found[2].segmentation is None
    assert found[2].crowd == (kind == "crowd")
    assert len({o.id for o in found}) == 3
    assert min(o.id for o in found) > 0


def test_an_overhang_of_less_than_half_a_pixel_is_rounding(coco: Any) -> None:
    coco.add(bbox=[30, 20, 10.4, 10.01])
    report = coco.check()
    assert report.findings == []
    assert boxes(report)[2] == pytest.approx((30, 20, 40.4, 30.01))


def test_only_the_broken_polygon_of_a_mask_goes(coco: Any) -> None:
    good = [1, 1, 7, 1, 7, 7]
    coco.add(segmentation=[good, [1, 1, 2, 2]])
    report = coco.check()
    only(report, "segmentation_malformed")
    assert report.splits["train"].images[0].objects[2].segmentation == [good]


def test_equal_boxes_with_different_masks_both_stay(coco: Any) -> None:
    coco.add(segmentation=[[1, 1, 7, 1, 7, 7]])
    coco.add(segmentation=[[1, 1, 1, 7, 7, 7]])
    assert coco.check().findings == []


# Pictures


def test_pictures_that_are_dropped_with_their_objects(coco: Any, make_picture: Callable[..., Path]) -> None:
    broken = {
        "image_missing": None,
        "image_unreadable": b"this is text",
        "image_truncated": None,
        "image_too_small": None,
    }
    images = coco.root / "images"
    for number, (kind, content) in enumerate(broken.items(), start=20):
        path = images / f"{kind}.jpg"
        coco.train["images"].append({"id": number, "file_name": path.name, "width": 40, "height": 30})
        coco.add(image_id=number)
        if content is not None:
            path.write_bytes(content)
    whole = make_picture(images / "image_truncated.jpg", 200, 200)
    coco.train["images"][3] |= {"width": 200, "height": 200}
    whole.write_bytes(whole.read_bytes()[:-4000])
    make_picture(images / "image_too_small.jpg", 1, 1)
    (images / "empty.jpg").touch()
    coco.train["images"].append({"id": 30, "file_name": "empty.jpg", "width": 40, "height": 30})
    report = coco.check()
    assert report.counts() == {"image_missing": 1, "image_unreadable": 2, "image_truncated": 1, "image_too_small": 1}
    MET.update(broken)
    for finding in report.findings:
        assert Path(finding.file).parent == images
        assert finding.record.startswith("images[")
        assert finding.dropped_objects == (0 if finding.file.endswith("empty.jpg") else 1)
    assert len(report.splits["train"]) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_files_of_every_format(
    coco: Any, make_picture: Callable[..., Path], suffix: str, keep: float
) -> None:
    path = make_picture(coco.root / "images" / f"cut.{suffix}", 160, 120)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    coco.train["images"].append({"id": 20, "file_name": path.name, "width": 160, "height": 120})
    counts = coco.check().counts()
    assert set(counts) & {"image_truncated", "image_unreadable"}


@pytest.mark.parametrize(
    ("kinds", "name", "mode"),
    [
        ({"image_grey"}, "a.png", "L"),
        ({"image_grey"}, "a.jpg", "L"),
        ({"image_grey"}, "a.png", "1"),
        ({"image_cmyk"}, "a.jpg", "CMYK"),
        ({"image_palette"}, "a.png", "P"),
        ({"image_alpha"}, "a.png", "RGBA"),
        ({"image_grey", "image_alpha"}, "a.png", "LA"),
    ],
)
def test_kinds_of_pixels(coco: Any, make_picture: Callable[..., Path], kinds: set[str], name: str, mode: str) -> None:
    make_picture(coco.root / "images" / name, mode=mode)
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    assert report.counts() == dict.fromkeys([k for k in TREATMENTS if k in kinds], 1)
    MET.update(kinds)
    assert len(boxes(report)) == 2


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits(coco: Any, name: str) -> None:
    pixels = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(pixels).save(coco.root / "images" / name)
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    MET.add("image_16bit")
    assert report.counts() == {"image_grey": 1, "image_16bit": 1}


def test_sixteen_bits_in_three_channels(coco: Any) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(coco.root / "images" / "deep.png"), np.full((30, 40, 3), 40000, np.uint16))
    coco.train["images"][0]["file_name"] = "deep.png"
    only(coco.check(), "image_16bit")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animated_pictures(coco: Any, suffix: str) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    frames[0].save(coco.root / "images" / f"film.{suffix}", save_all=True, append_images=frames[1:])
    coco.train["images"][0]["file_name"] = f"film.{suffix}"
    report = coco.check(thorough=True)
    MET.add("image_animated")
    assert report.counts()["image_animated"] == 1
    assert len(report.splits["train"]) == 1


def test_a_size_that_disagrees_after_resizing_scales_the_boxes(coco: Any) -> None:
    coco.train["images"][0] |= {"width": 80, "height": 60}
    coco.add(bbox=[60, 40, 20, 20], area=300, segmentation=[[60, 40, 80, 40, 80, 60]])
    report = coco.check()
    only(report, "image_size_differs")
    image = report.splits["train"].images[0]
    assert (image.width, image.height) == (40, 30)
    assert boxes(report) == [(2.5, 3, 7.5, 9), (10, 5, 14, 9), (30, 20, 40, 30)]
    assert image.objects[2].area == 75
    assert image.objects[2].segmentation == [[30, 20, 40, 20, 40, 30]]


@pytest.mark.parametrize("size", [(30, 40), (500, 30), (20, 15)])
def test_a_size_that_disagrees_otherwise_is_only_replaced(coco: Any, size: tuple[int, int]) -> None:
    coco.train["images"][0] |= {
        "width": size[0],
        "height": size[1],
    }  # the last is of the same shape, but boxes leave it
    report = coco.check()
    only(report, "image_size_differs")
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]


@pytest.mark.parametrize("value", ["absent", 0, None, -3, "wide", math.nan])
def test_a_size_that_is_absent_is_read_from_the_file(coco: Any, value: Any) -> None:
    row = coco.train["images"][0]
    row["width"] = value
    coco.train["images"][0] = {k: v for k, v in row.items() if v != "absent"}
    report = coco.check()
    only(report, "image_size_absent")
    assert report.splits["train"].images[0].width == 40


def test_a_size_written_as_text(coco: Any) -> None:
    coco.train["images"][0]["width"] = "40"
    only(coco.check(), "number_as_text")


def test_the_same_picture_listed_twice_counts_once(coco: Any) -> None:
    coco.train["images"].append({**coco.train["images"][0], "id": 8})
    coco.add(image_id=8)
    report = coco.check()
    only(report, "image_listed_twice")
    assert len(boxes(report)) == 3
    assert [image.id for image in report.splits["train"].images] == [7]


def test_two_pictures_of_one_id(coco: Any, make_picture: Callable[..., Path]) -> None:
    make_picture(coco.root / "images" / "other.png")
    coco.train["images"].append({**coco.train["images"][0], "file_name": "other.png"})
    report = coco.check()
    only(report, "image_id_twice")
    assert [image.file_name for image in report.splits["train"].images] == ["train.png"]


def test_image_ids_that_are_text(coco: Any) -> None:
    coco.train["images"][0]["id"] = "scan-7"
    for row in coco.train["annotations"]:
        row["image_id"] = "scan-7"
    report = coco.check()
    only(report, "image_id_not_integer")
    assert isinstance(report.splits["train"].images[0].id, int)
    assert len(boxes(report)) == 2


@pytest.mark.parametrize(
    "name", ["../../secret/train.png", "/data/scans/train.png", "https://x.org/train.png", "C:\\d\\train.png"]
)
def test_file_names_never_leave_their_folder(coco: Any, name: str) -> None:
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    only(report, "image_name_leaves_folder")
    assert report.splits["train"].images[0].file_name == "train.png"
    assert len(boxes(report)) == 2


@pytest.mark.parametrize("row", [None, 7, "a.png", {"id": 4}, {"id": 4, "file_name": 12}, {"id": 4, "file_name": " "}])
def test_image_records_that_are_none(coco: Any, row: Any) -> None:
    coco.train["images"].append(row)
    only(coco.check(), "record_malformed")


@pytest.mark.parametrize("row", [None, 7, []])
def test_annotation_records_that_are_none(coco: Any, row: Any) -> None:
    coco.train["annotations"].append(row)
    only(coco.check(), "record_malformed")


# EXIF


def show_upright(orientation: int, tmp: Path, name: str) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Save a picture with one white box under an EXIF orientation; its stored size, and the box after PIL turned it."""
    from PIL import ImageOps

    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:18, 5:15] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp / name, exif=exif)
    with Image.open(tmp / name) as saved:
        upright = np.asarray(ImageOps.exif_transpose(saved).convert("L")) > 127
    ys, xs = np.nonzero(upright)
    return image.size, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_given_for_the_stored_size_are_turned(coco: Any, orientation: int) -> None:
    _, expected = show_upright(orientation, coco.root / "images", "turned.png")
    coco.train["images"][0]["file_name"] = "turned.png"
    coco.train["annotations"][0]["segmentation"] = [[5, 6, 15, 6, 15, 18, 5, 18]]
    report = coco.check()
    only(report, "image_rotated")
    image = report.splits["train"].images[0]
    assert (image.width, image.height) == (30, 40)
    assert image.objects[0].box == expected
    assert image.objects[0].area == 120
    polygon = np.reshape(image.objects[0].segmentation, (-1, 2))
    assert (*polygon.min(0), *polygon.max(0)) == expected


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turning_agrees_with_pil(tmp_path: Path, orientation: int) -> None:
    from detrkit.data.cleaning import turned
    from detrkit.data.image_files import look_at

    _, expected = show_upright(orientation, tmp_path, "turned.png")
    (facts,) = look_at([tmp_path / "turned.png"])
    assert facts.orientation == orientation
    assert turned(facts).box((5, 6, 15, 18)) == expected


def test_boxes_given_for_the_upright_size_stay(coco: Any) -> None:
    show_upright(6, coco.root / "images", "turned.png")
    coco.train["images"][0] |= {"file_name": "turned.png", "width": 30, "height": 40}
    report = coco.check()
    only(report, "image_rotated")
    assert boxes(report) == [(5, 6, 15, 18), (20, 10, 28, 18)]


def test_rle_of_a_turned_picture_is_left_out(coco: Any) -> None:
    show_upright(6, coco.root / "images", "turned.png")
    coco.train["images"][0]["file_name"] = "turned.png"
    coco.train["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [0, 1200]}
    assert coco.check().counts() == {"image_rotated": 1, "segmentation_malformed": 1}


# Classes


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
    MET.update({"category_name_absent", "category_listed_twice"})
    assert report.counts() == {"category_name_absent": 2, "category_listed_twice": 2}
    assert report.splits["train"].categories.to_plain() == [{"id": 3, "name": "scratch"}, {"id": 9, "name": "9"}]


def test_categories_are_taken_from_the_objects_where_there_are_none(coco: Any) -> None:
    for content in coco.content.values():
        del content["categories"]
    report = coco.check()
    MET.add("categories_absent")
    assert report.counts() == {"categories_absent": 2, "categories_differ": 1}
    assert report.splits["train"].categories.ids == (3, 9)


def test_splits_with_different_categories_share_all_of_them(coco: Any) -> None:
    coco.content["val"]["categories"] = [{"id": 9, "name": "dent"}, {"id": 1, "name": "hole"}]
    coco.content["val"]["annotations"][0]["category_id"] = 1
    report = coco.check()
    MET.update({"categories_differ", "category_not_in_train"})
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


# The whole


def test_more_objects_than_queries(coco: Any) -> None:
    report = coco.check(num_queries=1)
    only(report, "objects_exceed_queries")
    assert report.statistics["train"]["images_with_more_objects_than_queries"] == 1


def test_leakage_by_content_and_by_name(coco: Any, make_picture: Callable[..., Path]) -> None:
    train_image = coco.root / "images" / "train.png"
    (coco.root / "images" / "val.png").write_bytes(train_image.read_bytes())
    only(coco.check(), "leakage_content")
    make_picture(coco.root / "images" / "val" / "train.png", seed=5)
    coco.content["val"]["images"][0]["file_name"] = "val/train.png"
    only(coco.check(), "leakage_name")


def test_no_usable_picture_is_an_error(coco: Any) -> None:
    for path in (coco.root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"expected pictures for train .*1 image_unreadable.*an empty file"):
        coco.check()


def test_no_usable_object_is_an_error(coco: Any) -> None:
    coco.train["annotations"] = [coco.box(1, bbox=[1, 1, 0, 0])]
    with pytest.raises(DataError, match=r"expected objects in the training pictures.*1 box_empty"):
        coco.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n{"id": 1,}', r"train.json, found a mistake at line 2"),
        ('{"images": []', r"a mistake at line 1"),
        ("", r"a mistake at line 1"),
        ('{"images": {}, "annotations": []}', r"expected a list under 'images'"),
        ('{"images": [], "annotations": []}', r"expected pictures under 'images'"),
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


# VOC and YOLO


def voc(tmp_path: Path, make_picture: Callable[..., Path], write_voc: Callable[..., Path]) -> Path:
    root = tmp_path / "voc"
    make_picture(root / "JPEGImages" / "a.jpg")
    make_picture(root / "JPEGImages" / "b.jpg")
    write_voc(root / "Annotations" / "a.xml", "a.jpg", ("cat", 5, 6, 15, 18))
    write_voc(root / "Annotations" / "b.xml", "b.jpg", ("dog", 5, 6, 15, 18))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    return root


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>"""


@pytest.mark.parametrize("content", ["<annotation><object></annotation>", "", BOMB, BOMB.encode("utf-16"), "\x00\x01"])
def test_malformed_xml_is_dropped(
    tmp_path: Path, make_picture: Callable[..., Path], write_voc: Callable[..., Path], content: str | bytes
) -> None:
    root = voc(tmp_path, make_picture, write_voc)
    path = root / "Annotations" / "a.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = check_dataset(open_dataset(root, val_fraction=0))
    only(report, "xml_malformed")
    assert report.findings[0].file == str(path)
    assert report.findings[0].detail
    assert len(boxes(report)) == 1


def test_external_entities_are_not_read(
    tmp_path: Path, make_picture: Callable[..., Path], write_voc: Callable[..., Path]
) -> None:
    root = voc(tmp_path, make_picture, write_voc)
    (tmp_path / "secret").write_text("cat")
    text = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{tmp_path}/secret">]><annotation><filename>&s;</filename></annotation>'
    (root / "Annotations" / "a.xml").write_text(text)
    only(check_dataset(open_dataset(root, val_fraction=0)), "xml_malformed")


def test_voc_defects(tmp_path: Path, make_picture: Callable[..., Path], write_voc: Callable[..., Path]) -> None:
    root = voc(tmp_path, make_picture, write_voc)
    write_voc(
        root / "Annotations" / "a.xml",
        "a.jpg",
        ("cat", 5, 6, 15, 18),
        ("cat", 7, 6, 7, 18),
        ("dog", 20, 6, 30, 18, 1),
        ("", 20, 6, 30, 18),
        ("cat", "left", 6, 30, 18),
    )
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nb\n")
    report = check_dataset(open_dataset(root, val_fraction=0))
    MET.update({"difficult", "image_unlabelled"})
    expected = ("box_empty", "difficult", "category_unknown", "box_malformed", "image_unlabelled", "image_listed_twice")
    assert report.counts() == dict.fromkeys([k for k in TREATMENTS if k in expected], 1)
    first = report.splits["train"].images[0].objects
    assert [(o.box, o.crowd) for o in first] == [((5, 6, 15, 18), False), ((20, 6, 30, 18), True)]
    assert next(f.record for f in report.findings if f.kind == "box_empty") == "object 2"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.2", "txt_malformed"),
        ("0 0.5 0.5 0.2 0.2 0.9", "txt_malformed"),
        ("zero 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("0.5 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("nan 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("inf 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("2 0.5 0.5 0.2 0.2", "category_unknown"),
        ("-1 0.5 0.5 0.2 0.2", "category_unknown"),
        ("0 0.5 0.5 0 0.2", "box_empty"),
        ("0 nan 0.5 0.2 0.2", "box_not_finite"),
        ("0 1.5 0.5 0.2 0.2", "box_off_image"),
        ("0 0.95 0.5 0.2 0.2", "box_outside"),
        ("0 0.2 0.2 0.4 0.2", "txt_malformed"),
    ],
)
def test_yolo_lines(tmp_path: Path, make_picture: Callable[..., Path], line: str, kind: str) -> None:
    make_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    if line == "0 0.2 0.2 0.4 0.2":
        line = "0 0.2 0.2 0.4 0.2 0.3"  # a polygon cut short
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n\n{line}\n1 0.5 0.5 0.1 0.1\n")
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    only(report, kind)
    assert report.findings[0].file == str(tmp_path / "labels" / "a.txt")
    assert report.findings[0].record == "line 3"
    assert boxes(report)[0] == (10, 7.5, 30, 22.5)
    assert len(boxes(report)) == (3 if kind == "box_outside" else 2)


def test_a_label_file_that_is_no_text(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    for name in "ab":
        make_picture(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    only(check_dataset(open_dataset(tmp_path, val_fraction=0)), "txt_malformed")


# Size and completeness


def test_a_hundred_thousand_boxes_take_seconds(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    import json

    rng = np.random.default_rng(0)
    first = make_picture(tmp_path / "images" / "0.jpg", 640, 480)
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


def test_every_kind_of_finding_was_met() -> None:
    if len(MET) < 10:
        pytest.skip("needs the other tests of this file in the same process")
    assert set(TREATMENTS) - MET == set()


def test_the_table_of_treatments_names_every_kind() -> None:
    table = treatments_table()
    assert all(f"| `{kind}` |" in table for kind in TREATMENTS)
    assert len(table.splitlines()) == len(TREATMENTS) + 2
