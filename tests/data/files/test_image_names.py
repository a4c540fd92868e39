"""Which image a name means: never one of another folder, split or data set that happens to have the same name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.files.file_index import FileIndex
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import only, write_image


def check(root: Path, **options: Any) -> CheckReport:
    return check_dataset(open_dataset(root, val_fraction=0, **options))


def write_coco(path: Path, *names: str, **changes: Any) -> Path:
    """A json file of images with one box each."""
    rows = [{"id": k, "file_name": name, "width": 40, "height": 30} for k, name in enumerate(names, start=1)]
    boxes = [
        {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
        for k in range(1, len(names) + 1)
    ]
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "dent"}], **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_labelme(path: Path, image_path: str) -> None:
    shape = {"label": "dent", "points": [[5, 6], [15, 18]], "shape_type": "rectangle"}
    content = {"shapes": [shape], "imagePath": image_path, "imageData": None, "imageHeight": 30, "imageWidth": 40}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def images(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name, seed=len(name) + sum(name.encode()))


def read(report: CheckReport, split: str = "train") -> list[str]:
    return sorted(image.path.name for image in report.splits[split].images)


# a folder that the name tells is there, without the image


def test_coco_names_never_match_an_image_of_another_folder(tmp_path: Path) -> None:
    images(tmp_path, "images/day1/1.png", "images/day1/2.png", "images/day2/3.png")
    write_coco(tmp_path / "labels.json", "day1/1.png", "day1/2.png", "day1/3.png")
    report = check(tmp_path)
    assert (read(report), report.counts()) == (["1.png", "2.png"], {"image_unused": 1, "image_missing": 1})


def test_bare_names_never_match_an_image_of_another_json_folder(tmp_path: Path) -> None:
    for site in "ab":
        images(tmp_path, f"site_{site}/1{site}.png", f"site_{site}/2{site}.png")
        write_coco(tmp_path / f"site_{site}" / "_annotations.coco.json", f"1{site}.png", f"2{site}.png")
    images(tmp_path, "site_b/lost.png")
    write_coco(tmp_path / "site_a" / "_annotations.coco.json", "1a.png", "2a.png", "lost.png")
    report = check(tmp_path)
    assert read(report) == ["1a.png", "1b.png", "2a.png", "2b.png"]
    assert report.counts() == {"image_unused": 1, "image_missing": 1}


@pytest.mark.parametrize("folder", ["val", "images"])
def test_an_image_of_one_split_is_never_taken_for_one_of_another(tmp_path: Path, folder: str) -> None:
    images(tmp_path, "train/1.png", f"{folder}/5.png", "test/4.png")
    write_coco(tmp_path / "train.json", "1.png")
    write_coco(tmp_path / "val.json", "4.png", "5.png")
    report = check(tmp_path)
    assert (read(report, "val"), report.counts()) == (["5.png"], {"image_unused": 1, "image_missing": 1})


def test_labelme_and_voc_names_match_images_of_their_own_folder(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    for root in ("labelme", "voc"):
        images(tmp_path / root, "day1/1.jpg", "day2/5.jpg", "day2/2.jpg")
    write_labelme(tmp_path / "labelme" / "day1" / "1.json", "1.jpg")
    write_labelme(tmp_path / "labelme" / "day1" / "5.json", "5.jpg")
    write_labelme(tmp_path / "labelme" / "day2" / "2.json", "2.jpg")
    for xml, name in (("day1/1", "1.jpg"), ("day1/five", "5.jpg"), ("day2/2", "2.jpg")):
        write_voc(tmp_path / "voc" / f"{xml}.xml", name, ("dent", 5, 6, 15, 18))
    for root in ("labelme", "voc"):
        report = check(tmp_path / root)
        assert read(report) == ["1.jpg", "2.jpg"]
        assert report.counts()["image_missing"] == 1


def test_the_parts_of_a_path_are_those_below_the_data_set(tmp_path: Path) -> None:
    index = FileIndex(tmp_path)
    assert (index.relative(tmp_path), index.relative(tmp_path / "a" / "b.png")) == ((), ("a", "b.png"))
    assert index.relative(tmp_path.parent) == tmp_path.parent.parts


# names of other machines, and images that were sorted into folders later


def test_an_image_outside_of_its_named_folder_is_noted(tmp_path: Path) -> None:
    images(tmp_path, "images/a.png", "images/batch2/b.png")
    write_coco(tmp_path / "labels.json", "a.png", "batch1/b.png")
    report = check(tmp_path)
    assert read(report) == ["a.png", "b.png"]
    only(report, "image_moved")
    write_labelme(tmp_path / "lm" / "jsons" / "x.json", "batch1/c.jpg")
    images(tmp_path / "lm", "images/c.jpg")
    only(check(tmp_path / "lm"), "image_moved")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("5.png", "images/batch1/5.png"),  # deeper than usual
        ("images/5.png", "images/batch1/5.png"),
        ("train/5.png", "train/images/5.png"),
    ],
)
def test_folders_above_or_below_do_not_contradict_a_name(tmp_path: Path, name: str, place: str) -> None:
    images(tmp_path, place)
    write_coco(tmp_path / "labels.json", name)
    report = check(tmp_path)
    assert (read(report), report.findings) == (["5.png"], [])


@pytest.mark.parametrize("name", ["/mnt/eval/set/5.png", "C:\\photos\\5.png", "/content/train/images/5.png"])
def test_names_of_other_machines_are_found(tmp_path: Path, name: str) -> None:
    images(tmp_path, "train/5.png")
    write_coco(tmp_path / "labels.json", name)
    report = check(tmp_path)
    assert read(report) == ["5.png"]
    only(report, "image_name_leaves_folder")


def test_images_moved_into_splits_later_are_found(tmp_path: Path) -> None:
    images(tmp_path, "train/1.png", "val/9.png")
    write_coco(tmp_path / "train.json", "/content/train/1.png")
    write_coco(tmp_path / "val.json", "/content/train/9.png")
    report = check(tmp_path)
    assert (read(report), read(report, "val")) == (["1.png"], ["9.png"])


# data sets beside the one that was named


def test_images_beside_a_data_set_are_not_its_own(tmp_path: Path) -> None:
    images(tmp_path, *(f"train/{k}.png" for k in range(6)), *(f"A/images/{k}.png" for k in range(2)))
    write_coco(tmp_path / "A" / "train.json", *(f"{k}.png" for k in range(6)))
    report = check(tmp_path / "A")
    assert {image.path.parent for image in report.splits["train"].images} == {tmp_path / "A" / "images"}
    assert report.counts() == {"image_missing": 4}


def test_a_data_set_without_its_images_is_refused_though_others_have_the_same_names(tmp_path: Path) -> None:
    images(tmp_path, "images/1.png")
    write_coco(tmp_path / "A" / "train.json", "1.png")
    (tmp_path / "A" / "images").mkdir()
    with pytest.raises(DataError, match=r"expected the 1 images .* train_images"):
        check(tmp_path / "A")


def test_the_images_of_a_folder_of_annotations_lie_beside_it_and_that_is_noted(tmp_path: Path) -> None:
    images(tmp_path, "train/1.png")
    write_coco(tmp_path / "annotations" / "train.json", "1.png")
    report = check(tmp_path / "annotations")
    assert read(report) == ["1.png"]
    assert any("lie outside of" in note and str(tmp_path / "train" / "1.png") in note for note in report.notes)


# one file of images of several splits


@pytest.mark.parametrize("how", ["folders", "field", "subfolder"])
def test_one_coco_file_is_split_as_its_images_are(tmp_path: Path, how: str) -> None:
    sides = {"train": "ab", "val": "c", "test": "d"}
    place = {"folders": "images/{}/{}.png", "field": "images/{1}.png", "subfolder": "{}/x/{}.png"}[how]
    name = {"folders": "{}/{}.png", "field": "{1}.png", "subfolder": "{}/x/{}.png"}[how]
    images(tmp_path, *(place.format(split_name, letter) for split_name, some in sides.items() for letter in some))
    path = write_coco(
        tmp_path / "labels.json",
        *(name.format(split_name, letter) for split_name, some in sides.items() for letter in some),
    )
    if how == "field":
        content = json.loads(path.read_text())
        for row, split_name in zip(content["images"], ("train", "train", "val", "test"), strict=True):
            row["split"] = split_name
        path.write_text(json.dumps(content))
    report = check(tmp_path)
    assert (read(report), read(report, "val")) == (["a.png", "b.png"], ["c.png"])
    assert report.counts() == {"set_aside": 1}
    assert any("are divided by `split` or by their folders" in note for note in report.notes)


def test_a_coco_file_of_one_split_stays_whole(tmp_path: Path) -> None:
    images(tmp_path, "val/a.png", "val/b.png", "other/c.png")
    write_coco(tmp_path / "labels.json", "val/a.png", "val/b.png", "other/c.png")
    assert read(check(tmp_path)) == ["a.png", "b.png", "c.png"]
    images(tmp_path / "named", "train/a.png", "val/b.png")
    path = write_coco(tmp_path / "named" / "labels.json", "train/a.png", "val/b.png")
    assert read(check(tmp_path / "named", train_json=str(path))) == ["a.png", "b.png"]
