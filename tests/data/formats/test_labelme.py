"""labelme's json files: where their images are, what their shapes become, and what is wrong with them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import ReadOptions, Source
from detrkit.data.files.unused import list_unused
from detrkit.data.formats.labelme import detect_labelme, load_labelme
from detrkit.data.formats.raw import RawDataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from detrkit.ops.masks import decode_segmentation
from tests.data.conftest import boxes, write_image

RECTANGLE = {"label": "scratch", "points": [[5, 6], [15, 18]], "group_id": None, "shape_type": "rectangle", "flags": {}}
POLYGON = RECTANGLE | {"shape_type": "polygon", "points": [[5, 6], [15, 6], [15, 18]]}


def write(path: Path, *shapes: Any, **changes: Any) -> Path:
    """A json file as labelme writes it, of an image of 40 x 30 pixels beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.2.1", "flags": {}, "shapes": list(shapes), "imagePath": path.stem + ".png"}
    content |= {"imageData": None, "imageHeight": 30, "imageWidth": 40}
    path.write_text(json.dumps({k: v for k, v in (content | changes).items() if v != "absent"}))
    return path


def read(root: Path, **image_dirs: Path) -> CheckReport:
    """What the check makes of a data set; every file in it is used or named."""
    source = Source(FileIndex(root), ReadOptions(image_dirs={"train": None, "val": None, **image_dirs}))
    assert detect_labelme(source)
    splits = load_labelme(source)
    list_unused(source, splits.values(), "it belongs to nothing that was read")
    return check_dataset(RawDataset("labelme", str(root), splits, source.findings, source.notes))


def one(tmp_path: Path, *shapes: Any, **changes: Any) -> CheckReport:
    """A data set with one sound image, and one with these shapes."""
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    write(tmp_path / "a.json", RECTANGLE)
    write(tmp_path / "b.json", *shapes, **changes)
    return read(tmp_path)


def names(report: CheckReport, split: str = "train") -> list[str]:
    return [image.file_name for image in report.splits[split].images]


def last(report: CheckReport) -> Any:
    (actual,) = report.splits["train"].images[-1].objects
    return actual


@pytest.mark.parametrize(
    ("shape", "box", "area"),
    [
        (RECTANGLE, (5, 6, 15, 18), 120),
        (RECTANGLE | {"points": [[15, 6], [5, 18]]}, (5, 6, 15, 18), 120),
        (RECTANGLE | {"points": [[5, 6], [15, 6], [15, 18], [5, 18]]}, (5, 6, 15, 18), 120),
        (POLYGON, (5, 6, 15, 18), 60),
        ({k: v for k, v in POLYGON.items() if k != "shape_type"}, (5, 6, 15, 18), 60),
        (RECTANGLE | {"shape_type": "circle", "points": [[15, 15], [18, 19]]}, (10, 10, 20, 20), 25 * np.pi),
        (
            RECTANGLE | {"shape_type": "rotation", "points": [[10, 5], [15, 10], [10, 15], [5, 10]], "direction": 0.8},
            (5, 5, 15, 15),
            50,
        ),
    ],
)
def test_shapes_become_boxes_and_polygons(tmp_path: Path, shape: dict[str, Any], box: Any, area: float) -> None:
    report = one(tmp_path, shape)
    assert report.counts() == {}
    assert last(report).box == pytest.approx(box)
    assert last(report).area == pytest.approx(area, rel=0.002)
    assert bool(last(report).segmentation) == (shape.get("shape_type") != "rectangle")
    assert ("upright" in "".join(report.notes)) == (shape.get("shape_type") == "rotation")


def test_polygons_of_one_group_are_one_object(tmp_path: Path) -> None:
    other = POLYGON | {"points": [[20, 20], [30, 20], [30, 25]]}
    shapes = [POLYGON | {"group_id": 1}, other | {"group_id": 1}, other | {"group_id": 2}, other | {"label": "dent"}]
    report = one(tmp_path, *shapes, RECTANGLE | {"group_id": 1})
    actual = report.splits["train"].images[1].objects
    assert [o.box for o in actual] == [(5, 6, 30, 25), (20, 20, 30, 25), (20, 20, 30, 25), (5, 6, 15, 18)]
    assert [len(o.segmentation or []) for o in actual] == [2, 1, 1, 0]


def as_png(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_mask_becomes_polygons(tmp_path: Path) -> None:
    pixels = np.zeros((13, 11), np.uint8)
    pixels[2:5, 3:7] = 1
    pixels[4, 6] = 0
    actual = last(one(tmp_path, RECTANGLE | {"shape_type": "mask", "mask": as_png(pixels)}))
    assert (actual.box, round(actual.area)) == ((8, 8, 12, 11), 11)
    whole = np.zeros((30, 40), bool)
    whole[6:19, 5:16] = pixels
    assert np.array_equal(decode_segmentation(actual.segmentation, 30, 40).numpy(), whole)


@pytest.mark.parametrize(
    "mask", ["no png", None, as_png(np.ones((50, 50), np.uint8)), as_png(np.zeros((13, 11), np.uint8))]
)
def test_a_malformed_mask_leaves_its_box(tmp_path: Path, mask: Any) -> None:
    report = one(tmp_path, RECTANGLE | {"shape_type": "mask", "mask": mask})
    assert report.counts() == {"segmentation_malformed": 1}
    assert (last(report).box, last(report).segmentation) == ((5, 6, 16, 19), None)


def test_shapes_without_area_are_no_objects(tmp_path: Path) -> None:
    dots = [RECTANGLE | {"shape_type": kind} for kind in ("point", "line", "linestrip", "cuboid", 7)]
    report = one(tmp_path, RECTANGLE, *dots)
    assert report.counts() == {"shape_no_object": 5}
    assert len(boxes(report)) == 2


def test_an_image_all_of_whose_shapes_are_dropped_is_no_negative(tmp_path: Path) -> None:
    report = one(tmp_path, RECTANGLE | {"shape_type": "point"})
    assert report.counts() == {"shape_no_object": 1, "image_shapes_unusable": 1}
    assert names(report) == ["a.png"]


def test_an_image_without_shapes_is_a_negative(tmp_path: Path) -> None:
    report = one(tmp_path)
    assert report.counts() == {}
    assert names(report) == ["a.png", "b.png"]


def test_an_image_without_a_json_file_is_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "c.png")
    report = one(tmp_path, RECTANGLE)
    assert report.counts() == {"image_unlabeled": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version": "5.2.1", "shapes": [{"label": "a"',
        b"[]",
        b'{"a": 1}',
        b'{"shapes": 3, "imagePath": "b.png"}',
        b'{"shapes": [' * 3000 + b'"imagePath": 1',
        b"\xff\xfe\x00\x00\x01",
        b'{"shapes": [3], "imagePath": 7, "imageHeight": [1]}',
        b'{"shapes": [{"label": [], "num_points": 5}], "imagePath": "b.png"}',
        b'{"shapes": [{"label": "a", "points": [[NaN, 1], [2, 3]], "shape_type": "rectangle"}], "imagePath": "b.png"}',
        b'{"shapes": [{"label": "a", "points": [[1e999, 1], [2, 3]]}], "imagePath": "b.png"}',
        b'{"shapes": [{"label": "a", "points": [[%s, 1], [2, 3]]}], "imagePath": "b.png"}' % (b"9" * 5000),
        b'{"shapes": [{"label": "a", "points": []}], "imagePath": "b.png"}',
        b'{"shapes": [{"label": "a", "points": [{"x": 1}]}], "imagePath": "b.png"}',
    ],
)
def test_a_json_file_that_cannot_be_read_leaves_its_image_out(tmp_path: Path, content: bytes) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    write(tmp_path / "a.json", RECTANGLE)
    (tmp_path / "b.json").write_bytes(content)
    report = read(tmp_path)
    assert report.counts() == {"json_malformed": 1}
    assert names(report) == ["a.png"]


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"label": None}, {"category_unknown": 1, "image_object_lost": 1}),
        ({"label": {"a": 1}}, {"category_unknown": 1, "image_object_lost": 1}),
        ({"label": 7}, {}),
        ({"label": "\ud800"}, {}),
        ({"points": [["5", "6"], ["15", 18]]}, {"number_as_text": 1}),
        ({"points": [[5, 6]]}, {"box_empty": 1, "image_object_lost": 1}),
        ({"group_id": [1], "flags": 3, "shape_type": "polygon"}, {"segmentation_malformed": 1}),
        ({"difficult": True}, {"difficult": 1}),
        ({"shape_type": ["a"]}, {"shape_no_object": 1, "image_shapes_unusable": 1}),
        ({"shape_type": "circle", "points": [[5, 6]]}, {"shape_no_object": 1, "image_shapes_unusable": 1}),
    ],
)
def test_odd_fields_of_a_shape(tmp_path: Path, change: dict[str, Any], kinds: dict[str, int]) -> None:
    assert one(tmp_path, RECTANGLE | change).counts() == kinds


@pytest.mark.parametrize(
    ("json_name", "image_name", "image_path"),
    [
        ("b.json", "b.png", "C:\\Users\\ann\\set\\b.png"),
        ("b.json", "b.png", 7),
        ("b.json", "b.png", "bad\0name.png"),
        ("b.json", "b.png", "before_renaming.png"),
        ("labels/b.json", "images/b.png", "..\\images\\b.png"),
        ("labels/b.json", "images/b.png", "absent"),
        ("labels/b.json", "images/b.png", "/home/ann/IMG_7.png"),
        ("labels/b_done.json", "images/b.png", "b.png"),
        ("labels/b_done.json", "images/sub/b.png", "../../other/sub/b.png"),
        ("train/labels/b.json", "train/images/b.png", "b.png"),
    ],
)
def test_the_image_of_a_json_file(tmp_path: Path, json_name: str, image_name: str, image_path: Any) -> None:
    write_image(tmp_path / image_name)
    write_image(tmp_path / "elsewhere/x.png")
    write(tmp_path / "elsewhere/x.json", RECTANGLE)
    if "train" in json_name:  # the nearer one of two of the name
        (tmp_path / "elsewhere/x.json").unlink()
        write_image(tmp_path / "val/images/b.png", seed=2)
        write(tmp_path / "val/labels/b.json", RECTANGLE)
    write(tmp_path / json_name, RECTANGLE, imagePath=image_path)
    report = read(tmp_path)
    assert image_name in names(report)
    assert not {"image_missing", "image_ambiguous"} & set(report.counts())
    assert ("another image" in "".join(report.notes)) == (image_path == "before_renaming.png")


def test_images_of_another_ending_twice_and_nowhere(tmp_path: Path) -> None:
    for name in ("a", "b", "one/d", "two/d"):
        write_image(tmp_path / f"{name}.png")
    write(tmp_path / "a.json", RECTANGLE, imagePath="a.jpg")
    write(tmp_path / "labels/b.json", RECTANGLE, imagePath="b.jpg")
    write(tmp_path / "labels/c.json", RECTANGLE)
    write(tmp_path / "labels/d.json", RECTANGLE)
    write(tmp_path / "old/a.json", imagePath="../a.png")
    report = read(tmp_path)
    assert names(report) == ["a.png", "b.png"]
    assert report.counts() == {
        "annotations_unused": 1,
        "image_unused": 2,
        "image_ambiguous": 1,
        "image_other_ending": 2,
        "image_missing": 1,
    }


def test_an_image_inside_its_json_file_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write(tmp_path / "a.json", RECTANGLE, imageData="iVBORw0KGgo=")
    write(tmp_path / "b.json", RECTANGLE, imageData="iVBORw0KGgo=")
    assert read(tmp_path).counts() == {"image_embedded": 1}
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"images of 2 only inside them \(imageData\)"):
        read(tmp_path)


def test_splits_follow_folders_and_classes_follow_lists(tmp_path: Path) -> None:
    for name, label in (("train/a", "scratch"), ("valid/b", "dent"), ("test/c", "hole"), ("new/d", "dent")):
        write_image(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.json", RECTANGLE | {"label": label})
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nscratch\nhole\n")
    report = read(tmp_path)
    assert (names(report), names(report, "val")) == (["train/a.png"], ["valid/b.png"])
    assert report.splits["train"].categories.names == ("scratch", "hole", "dent")
    assert "dent are not in it and come last" in "".join(report.notes)
    counts = report.counts()
    assert (counts["set_aside"], counts["image_unused"], counts["annotations_unused"]) == (2, 1, 1)


def test_a_list_of_other_names_is_no_order(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    report = one(tmp_path, RECTANGLE | {"label": "dent"})
    assert report.splits["train"].categories.names == ("dent", "scratch")


def test_named_folders_of_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed, split_name in enumerate(("train", "val")):
        write_image(tmp_path / f"{split_name}_images" / "a.png", seed=seed)
        write(data / split_name / "a.json", RECTANGLE)
        write_image(tmp_path / f"{split_name}_images" / f"{split_name}_b.png")
        write(data / f"{split_name}_b.json", RECTANGLE)
    report = read(data, train=tmp_path / "train_images", val=tmp_path / "val_images")
    assert (len(report.splits["train"]), len(report.splits["val"])) == (2, 2)
    assert report.counts() == {"leakage_name": 1}


def test_a_file_without_shapes_is_reported_even_without_an_image(tmp_path: Path) -> None:
    write(tmp_path / "c.json", shapes="absent")
    assert one(tmp_path, RECTANGLE).counts() == {"json_malformed": 1}


def test_json_files_of_others_are_not_labelmes(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "shapes.json").write_text('{"shapes": []}')
    assert detect_labelme(Source(FileIndex(tmp_path))) == ""


def test_nothing_that_can_be_used_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a.json", 3)
    with pytest.raises(DataError, match="expected labelme json files with images"):
        read(tmp_path)
