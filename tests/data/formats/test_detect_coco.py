"""Data sets are found by themselves, in every layout; what is given by hand wins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.held_out import write_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from tests.data.conftest import sizes

BOTH = {"train": (1, 2), "val": (1, 1)}


def move(coco: Any, places: dict[str, str]) -> Path:
    """Write the data set and move its files; returns the new root."""
    coco.write()
    root: Path = coco.root.parent / "moved"
    for old, new in places.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(coco.root / old, root / new)
    return root


LAYOUTS = {
    "beside": {"train.json": "train.json", "val.json": "val.json", "images/": "images"},
    "flat": {
        "train.json": "a_train.json",
        "val.json": "a_val.json",
        "images/train.png": "train.png",
        "images/val.png": "val.png",
    },
    "original": {
        "train.json": "annotations/instances_train2017.json",
        "val.json": "annotations/instances_val2017.json",
        "images/train.png": "train2017/train.png",
        "images/val.png": "val2017/val.png",
    },
    "original in images": {
        "train.json": "annotations/instances_train2017.json",
        "val.json": "annotations/instances_val2017.json",
        "images/train.png": "images/train2017/train.png",
        "images/val.png": "images/val2017/val.png",
    },
    "roboflow": {
        "train.json": "train/_annotations.coco.json",
        "val.json": "valid/_annotations.coco.json",
        "images/train.png": "train/train.png",
        "images/val.png": "valid/val.png",
    },
    "folders of the split": {
        "train.json": "training/labels.json",
        "val.json": "validation/labels.json",
        "images/train.png": "training/images/train.png",
        "images/val.png": "validation/images/val.png",
    },
    "annotations with any names": {
        "train.json": "annotations/pieces-train-v2.json",
        "val.json": "annotations/pieces-valid-v2.json",
        "images/": "images",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coco_layouts(coco: Any, layout: str) -> None:
    root = move(coco, LAYOUTS[layout])
    raw = open_dataset(root)
    assert raw.format == "coco"
    assert raw.notes == []
    assert sizes(raw) == BOTH


def test_other_annotations_of_coco_are_left_alone(coco: Any) -> None:
    root = move(coco, LAYOUTS["original"])
    for name in ("panoptic_train2017", "captions_train2017", "person_keypoints_val2017"):
        (root / "annotations" / f"{name}.json").write_text('{"images": [], "annotations": []}')
    (root / "package.json").write_text('{"name": "x"}')
    assert sizes(open_dataset(root)) == BOTH


def test_file_names_may_repeat_the_folder(coco: Any) -> None:
    coco.train["images"][0]["file_name"] = "images/train.png"
    assert sizes(open_dataset(move(coco, LAYOUTS["beside"]))) == BOTH
    raw = open_dataset(coco.root.parent / "moved", train_images="images", val_images="images")
    assert sizes(raw) == BOTH


def test_a_single_json_gets_a_validation_split(coco: Any, make_image: Callable[..., Path], tmp_path: Path) -> None:
    for number in range(100, 150):
        make_image(coco.root / "images" / f"{number}.png")
        coco.train["images"].append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
        coco.add(image_id=number)
    coco.write()
    (coco.root / "val.json").unlink()
    (coco.root / "train.json").rename(coco.root / "labels.json")
    raw = open_dataset(coco.root)
    report = check_dataset(raw)
    names = {
        split_name: sorted(image.file_name for image in split.images) for split_name, split in report.splits.items()
    }
    assert {split_name: len(listed) for split_name, listed in names.items()} == {"train": 41, "val": 10}
    assert not set(names["train"]) & set(names["val"])
    assert any("10 of 51 usable images were held out" in note for note in report.notes)

    write_split(tmp_path / "split.json", raw)
    assert json.loads((tmp_path / "split.json").read_text()) == {"seed": 42, "val_fraction": 0.2, **names}

    coco.train["images"].reverse()  # the order of listing does not matter
    (coco.root / "labels.json").write_text(json.dumps(coco.train))
    again = check_dataset(open_dataset(coco.root / "labels.json"))
    assert sorted(image.file_name for image in again.splits["val"].images) == names["val"]
    other = check_dataset(open_dataset(coco.root, seed=1, val_fraction=0.5))
    assert len(other.splits["val"].images) == 26
    assert "val" not in check_dataset(open_dataset(coco.root, val_fraction=0)).splits


def test_no_split_is_written_where_the_data_set_has_one(coco: Any, tmp_path: Path) -> None:
    coco.write()
    raw = open_dataset(coco.root)
    check_dataset(raw)
    write_split(tmp_path / "split.json", raw)
    assert not (tmp_path / "split.json").exists()


def test_test_stands_in_for_a_missing_val_only(coco: Any) -> None:
    coco.write()
    shutil.copy(coco.root / "val.json", coco.root / "test.json")
    raw = open_dataset(coco.root)
    assert raw.splits["val"].source.endswith("val.json")
    assert any("test.json is left alone" in note for note in raw.notes)
    (coco.root / "val.json").unlink()
    raw = open_dataset(coco.root)
    assert raw.splits["val"].source.endswith("test.json")
    assert any("test.json is used for it" in note for note in raw.notes)


def test_files_given_by_hand_win(coco: Any, tmp_path: Path) -> None:
    root = move(
        coco,
        {
            "train.json": "x/one.json",
            "val.json": "x/two.json",
            "images/train.png": "p/train.png",
            "images/val.png": "q/val.png",
        },
    )
    raw = open_dataset(
        root, train_json="x/one.json", val_json=str(root / "x/two.json"), train_images="p", val_images="q"
    )
    assert sizes(raw) == BOTH
    raw = open_dataset("", val_json=str(root / "x/two.json"), val_images=str(root / "q"))
    assert sizes(raw) == {"val": (1, 1)}
    (root / "annotations").mkdir()
    (root / "x/two.json").rename(root / "annotations/val.json")
    raw = open_dataset(root, train_json="x/one.json", train_images="p", val_images="q")
    assert sizes(raw) == BOTH
    assert raw.notes == ["annotations/val.json is used for val"]
    with pytest.raises(DataError, match=r"none such as 'train\.png'"):
        open_dataset(root, train_json="x/one.json", train_images="q")
    with pytest.raises(DataError, match=r"expected a file or folder at three\.json"):
        open_dataset(root, train_json="three.json")


def test_several_files_for_one_split_are_ambiguous(coco: Any) -> None:
    coco.write()
    shutil.copy(coco.root / "train.json", coco.root / "train_old.json")
    with pytest.raises(
        DataError, match=r"found 2: train\.json, train_old\.json, which share train.png; choose with train_json"
    ):
        open_dataset(coco.root)


def test_no_data_set_lists_the_formats_and_the_contents(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match=r"COCO .*Pascal VOC .*YOLO .*found notes\.md, scans/"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="found the file"):
        open_dataset(tmp_path / "notes.md")
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    for name in ("coco", "voc", "yolo"):
        with pytest.raises(DataError, match="expected"):
            open_dataset(tmp_path, data_format=name)


def test_settings_that_do_not_go_together(coco: Any) -> None:
    coco.write()
    with pytest.raises(ConfigError, match="expected a data set, found none"):
        open_dataset("")
    with pytest.raises(ConfigError, match="data_format is yolo"):
        open_dataset(coco.root, data_format="yolo", train_json="train.json")
    with pytest.raises(ConfigError, match="val_fraction"):
        open_dataset(coco.root, val_fraction=1.0)
    with pytest.raises(ConfigError, match="data_format"):
        open_dataset(coco.root, data_format="tfrecord")


@pytest.mark.parametrize(
    ("name", "split_name"),
    [
        ("instances_val2017", "val"),
        ("train", "train"),
        ("Valid", "val"),
        ("pieces-validation_v2", "val"),
        ("test", "test"),
        ("training_set", "train"),
        ("trainval", ""),
        ("train_val", ""),
        ("latest", ""),
        ("annotations", ""),
    ],
)
def test_roles_are_read_from_names(name: str, split_name: str) -> None:
    assert split_of_name(name) == split_name


def test_several_formats_are_noted(coco: Any, write_voc: Callable[..., Path]) -> None:
    coco.write()
    write_voc(coco.root / "Annotations" / "train.xml", "train.png", ("dent", 5, 6, 15, 18))
    write_voc(coco.root / "Annotations" / "val.xml", "val.png", ("dent", 5, 6, 15, 18))
    raw = open_dataset(coco.root)
    assert raw.format == "coco"
    assert "there is also VOC (xml files), which --data_format chooses" in raw.notes[0]
    assert sizes(open_dataset(coco.root, data_format="voc")) == {"train": (1, 1), "val": (1, 1)}


def test_a_file_that_may_not_be_read_is_an_error(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    coco.write()

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"cannot read .*\.json: Permission denied"):
        open_dataset(coco.root)
