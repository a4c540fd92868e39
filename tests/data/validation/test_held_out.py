"""The held-out validation split is chosen among the images that the check found usable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawDataset
from detrkit.data.validation.held_out import listed_images, write_split
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError, DataError
from tests.data.conftest import write_image


def make(root: Path, images: int, *, damaged: int = 0, empty: int = 0) -> Path:
    """A COCO data set with one json file; first the damaged images, then the empty ones."""
    rows, objects = [], []
    for number in range(images):
        path = write_image(root / "images" / f"{number:03d}.png", seed=number)
        if number < damaged:
            path.write_bytes(b"<html>404</html>")
        rows.append({"id": number + 1, "file_name": path.name, "width": 40, "height": 30})
        if not damaged <= number < damaged + empty:
            box = {"bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
            objects.append({"id": number + 1, "image_id": number + 1, "category_id": 1} | box)
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "dent"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return root


def split(root: Path, **options: Any) -> tuple[RawDataset, CheckReport]:
    raw = open_dataset(root, **options)
    return raw, check_dataset(raw)


def names(report: CheckReport, split_name: str) -> set[str]:
    return {image.file_name for image in report.splits[split_name].images}


def test_damaged_images_are_never_held_out(tmp_path: Path) -> None:
    raw, report = split(make(tmp_path, 40, damaged=30))
    assert {name: len(split) for name, split in report.splits.items()} == {"train": 8, "val": 2}
    assert report.notes[-1] == "there is no validation split; 2 of 10 usable images were held out (seed 42)"
    assert raw.held_out_split is not None
    assert set(raw.held_out_split["train"]) | set(raw.held_out_split["val"]) == names(report, "train") | names(
        report, "val"
    )


def test_one_usable_image_cannot_be_parted(tmp_path: Path) -> None:
    _, report = split(make(tmp_path, 5, damaged=4))
    assert list(report.splits) == ["train"]
    assert report.notes == ["there is no validation split, and none can be held out of 1 usable image"]
    with pytest.raises(ConfigError, match="expected a val split"):
        check_dataset(open_dataset(tmp_path), required_splits={"val"})
    with pytest.raises(DataError, match=r"found none usable among the 5 listed .*5 image_unreadable"):
        split(make(tmp_path / "all", 5, damaged=5))


def test_both_sides_get_their_share_of_images_with_objects(tmp_path: Path) -> None:
    for number, (images, empty, val) in enumerate([(20, 10, 2), (10, 8, 1), (10, 9, 0), (3, 1, 1), (30, 1, 6)]):
        _, report = split(make(tmp_path / str(number), images, empty=empty))
        full = [image.has_trainable for image in report.splits["val"].images]
        assert sum(full) == val
        assert any(image.has_trainable for image in report.splits["train"].images)
        assert ("val_without_objects" in report.counts()) == (not val)


def test_equal_images_are_reported(tmp_path: Path) -> None:
    root = make(tmp_path, 6)
    for path in (root / "images").iterdir():
        path.write_bytes((root / "images" / "000.png").read_bytes())
    _, report = split(root)
    assert report.counts() == {"leakage_content": 1, "near_duplicate": 4}
    assert report.notes[-1].endswith("1 of 6 usable images, which all look alike, were held out (seed 42)")


def test_held_out_images_stay_held_out_when_images_change(tmp_path: Path) -> None:
    raw, report = split(make(tmp_path, 20))
    before = names(report, "val")
    write_split(tmp_path / "split.json", raw)
    gone = min(before)
    make(tmp_path, 40)
    (tmp_path / "images" / gone).unlink()
    _, report = split(tmp_path, held_out=json.loads((tmp_path / "split.json").read_text())["val"])
    assert names(report, "val") == before - {gone}
    assert report.notes[-1] == "there is no validation split; the 3 that the run held out are used"
    _, report = split(tmp_path, held_out=["elsewhere.png"])  # another data set
    assert len(report.splits["val"]) == 8


def test_only_the_requested_split_must_be_valid(coco: Any, tmp_path: Path) -> None:
    coco.train["annotations"] = []
    coco.write()
    report = check_dataset(open_dataset(coco.root), required_splits={"val"})
    assert list(report.splits) == ["val"]
    (coco.root / "train.json").unlink()
    with pytest.raises(ConfigError, match=r"expected a train split in .*, found val; choose another with split"):
        check_dataset(open_dataset(coco.root, val_json="val.json", val_fraction=0), required_splits={"train"})
    raw = open_dataset(make(tmp_path / "one", 10, damaged=2))
    report = check_dataset(raw, required_splits={"val"})
    assert list(report.splits) == ["val"]
    listed = [image.file_name for image in listed_images(raw, "val")]
    assert set(listed) == names(report, "val") | {"000.png", "001.png"}
    raw = open_dataset(coco.root, val_json="val.json", val_fraction=0)
    check_dataset(raw)
    assert [image.file_name for image in listed_images(raw, "val")] == ["val.png"]


def test_train_of_a_set_with_its_own_val_is_not_divided(coco: Any, tmp_path: Path) -> None:
    coco.write()
    alone = check_dataset(open_dataset(coco.root), required_splits={"train"})
    both = check_dataset(open_dataset(coco.root))
    assert list(alone.splits) == ["train"]
    assert names(alone, "train") == names(both, "train")
    assert alone.notes == both.notes
    make(tmp_path, 20)
    raw = open_dataset(tmp_path, train_json=tmp_path / "labels.json", val_json=tmp_path / "labels.json")
    assert len(check_dataset(raw, required_splits={"train"}).splits["train"]) == 20
