"""Pascal VOC and YOLO data sets are found by themselves, in every layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from tests.data.conftest import sizes

# Pascal VOC


@pytest.fixture
def voc(tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]) -> Path:
    root = tmp_path / "voc"
    for name, label in (("a", "dog"), ("b", "cat"), ("c", "eel")):
        make_image(root / "JPEGImages" / f"{name}.jpg")
        write_voc(root / "Annotations" / f"{name}.xml", f"{name}.jpg", (label, 5, 6, 15, 18))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "dog_train.txt").write_text("a 1\nb -1\n")
    return root


def test_voc_with_lists(voc: Path) -> None:
    raw = open_dataset(voc)
    assert raw.format == "voc"
    report = check_dataset(raw)
    train = report.splits["train"]
    assert train.categories.to_plain() == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "eel"}]
    assert [image.id for image in train.images] == [1, 2]
    assert train.images[0].objects[0].box == (5, 6, 15, 18)
    assert train.images[0].objects[0].category_id == 1
    assert [image.file_name for image in report.splits["val"].images] == ["c.jpg"]


def test_voc_lists_trainval_and_test(voc: Path) -> None:
    lists = voc / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    raw = open_dataset(voc)
    assert "test is used for it" in raw.notes[0]
    assert sizes(raw) == {"train": (2, 2), "val": (1, 1)}


def test_voc_lists_without_any_known_name(voc: Path) -> None:
    for name in ("train", "val"):
        (voc / "ImageSets" / "Main" / f"{name}.txt").unlink()
    (voc / "ImageSets" / "Main" / "dog_train.txt").rename(voc / "ImageSets" / "Main" / "dog.txt")
    with pytest.raises(DataError, match=r"expected train\.txt, .*found dog\.txt"):
        open_dataset(voc)


def test_voc_devkit_is_looked_into(voc: Path) -> None:
    (voc.parent / "x" / "VOCdevkit").mkdir(parents=True)
    shutil.move(voc, voc.parent / "x" / "VOCdevkit" / "VOC2007")
    for root in (voc.parent / "x", voc.parent / "x" / "VOCdevkit"):
        assert sizes(open_dataset(root)) == {"train": (2, 2), "val": (1, 1)}


def test_voc_without_lists_gets_a_split(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    assert sizes(open_dataset(voc)) == {"train": (2, 2), "val": (1, 1)}
    flat = voc.parent / "flat"
    flat.mkdir()
    for path in voc.rglob("*.*"):
        shutil.move(path, flat / path.name)
    assert sizes(open_dataset(flat)) == {"train": (2, 2), "val": (1, 1)}
    (flat / "b.xml").unlink()
    report = check_dataset(open_dataset(flat))
    assert report.counts()["image_unlabeled"] == 1


def test_voc_in_folders_of_the_split(voc: Path) -> None:
    root = voc.parent / "roboflow"
    for split_name, names in (("train", "ab"), ("valid", "c")):
        (root / split_name).mkdir(parents=True)
        for name in names:
            shutil.move(voc / "JPEGImages" / f"{name}.jpg", root / split_name)
            shutil.move(voc / "Annotations" / f"{name}.xml", root / split_name)
    assert sizes(open_dataset(root)) == {"train": (2, 2), "val": (1, 1)}


def test_voc_and_yolo_images_may_lie_elsewhere(voc: Path, yolo: Path) -> None:
    (voc / "JPEGImages").rename(voc / "scans")
    raw = open_dataset(voc, train_images="scans", val_images="scans")
    assert sizes(raw) == {"train": (2, 2), "val": (1, 1)}
    raw = open_dataset(yolo, train_images="images/val", val_images="images/train")
    assert sizes(raw) == {"train": (1, 1), "val": (2, 2)}


# YOLO


@pytest.fixture
def yolo(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    root = tmp_path / "yolo"
    for split_name, names in (("train", "ab"), ("val", "c")):
        for name in names:
            make_image(root / "images" / split_name / f"{name}.jpg")
            (root / "labels" / split_name).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split_name / f"{name}.txt").write_text("1 0.25 0.4 0.25 0.4\n")
    return root


def test_yolo_without_yaml(yolo: Path) -> None:
    raw = open_dataset(yolo)
    assert raw.format == "yolo"
    assert any("called 0 to 1" in note for note in raw.notes)
    report = check_dataset(raw)
    assert report.splits["train"].categories.names == ("0", "1")
    assert report.splits["train"].images[0].objects[0].box == pytest.approx((5, 6, 15, 18))
    (yolo / "classes.txt").write_text("cat\ndog\n")
    assert open_dataset(yolo).splits["val"].categories.names == ("cat", "dog")


def test_yolo_flat_folders_get_a_split(yolo: Path) -> None:
    for kind in ("images", "labels"):
        for path in [*(yolo / kind).glob("*/*.*")]:
            shutil.move(path, yolo / kind / path.name)
        for split_name in ("train", "val"):
            (yolo / kind / split_name).rmdir()
    assert sizes(open_dataset(yolo)) == {"train": (2, 2), "val": (1, 1)}


def test_yolo_side_folders_without_yaml(yolo: Path) -> None:
    root = yolo.parent / "sides"
    for split_name, new in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / new).mkdir(parents=True, exist_ok=True)
            shutil.move(yolo / kind / split_name, root / new / kind)
    assert sizes(open_dataset(root)) == {"train": (2, 2), "val": (1, 1)}


@pytest.mark.parametrize(
    "config",
    [
        {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]},
        {"path": ".", "train": "images/train", "val": "images/val", "names": {1: "dog", 0: "cat"}, "nc": 2},
        {"path": "../gone/yolo", "train": "images/train", "val": "images/val", "names": ["cat", "dog"]},
        {"train": "../images/train", "val": "../images/val", "names": ["cat", "dog"]},
        {"train": ["images/train"], "valid": "images/val", "names": {"0": "cat", "1": "dog"}},
        {"train": "train.txt", "val": "val.txt", "names": ["cat", "dog"]},
        {"train": "images/train", "test": "images/val", "names": ["cat", "dog"]},
    ],
)
def test_yolo_yaml(yolo: Path, config: dict[str, Any]) -> None:
    (yolo / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n")
    (yolo / "val.txt").write_text(f"{yolo}/images/val/c.jpg\n")
    (yolo / "data.yaml").write_text(yaml.safe_dump(config))
    for root in (yolo, yolo / "data.yaml"):
        report = check_dataset(open_dataset(root))
        assert report.splits["train"].categories.to_plain() == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
        assert {k: len(s) for k, s in report.splits.items()} == {"train": 2, "val": 1}
        assert report.splits["train"].images[0].objects[0].category_id == 1


def test_yolo_names_by_number_alone(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 3\n")
    assert open_dataset(yolo).splits["train"].categories.names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnames: [a, a]", "'a' again"),
        ("train: images/train\nnames: cat", "expected names as a list"),
        ("train: images/train\nnames: {cat: 0}", "expected names as a list"),
        ("train: images/nowhere\nnames: [a]", "expected the train images"),
        ("train: [images/train\nnames: [a]", "expected YAML"),
    ],
)
def test_yolo_yaml_mistakes(yolo: Path, text: str, message: str) -> None:
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(yolo)


def test_yolo_polygons_get_boxes_and_stay(yolo: Path) -> None:
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.25 0.2 0.5 0.2 0.5 0.8 0.25 0.8\n")
    actual = check_dataset(open_dataset(yolo)).splits["train"].images[0].objects[0]
    assert actual.box == pytest.approx((10, 6, 20, 24))
    assert actual.segmentation == [pytest.approx([10, 6, 20, 6, 20, 24, 10, 24])]
    assert actual.area == pytest.approx(180)


def test_yolo_images_without_labels_are_empty(yolo: Path) -> None:
    (yolo / "labels" / "train" / "a.txt").unlink()
    report = check_dataset(open_dataset(yolo))
    assert report.statistics["train"]["images_without_objects"] == 1
    assert report.counts() == {"image_without_label": 1, "category_unused": 1}  # class 0 of two without names


@pytest.mark.parametrize("name", ["classes.txt", "labels/classes.txt"])
def test_lists_that_are_no_text_are_an_error(yolo: Path, name: str) -> None:
    (yolo / name).write_bytes(b"\x00\x01\x02")
    with pytest.raises(DataError, match=r"expected text in .*classes\.txt"):
        open_dataset(yolo)
