"""Which file on the disk a name in a COCO file means."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import ImageFinder, Match
from detrkit.data.formats.detect import open_dataset
from detrkit.errors import DataError


def find_files(root: Path, names: list[str], folders: list[Path]) -> dict[str, Match]:
    return ImageFinder(FileIndex(root)).find(names, folders)


def resolved(root: Path, *names: str) -> dict[str, str]:
    """Name -> the file found for it, relative to the data set; names that lead nowhere are absent."""
    files = find_files(root, list(names), [root / "images", root])
    return {name: match.path.relative_to(root).as_posix() for name, match in files.items() if match.path.is_file()}


@pytest.fixture
def root(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    for name in ("images/a/1.JPG", "images/b/1.JPG", "images/a/one.png", "images/Bild ä.png"):
        make_image(tmp_path / "set" / name, format="PNG")
    return tmp_path / "set"


def test_names_of_another_machine_are_matched_by_their_folders(root: Path) -> None:
    names = {"/home/ann/images/a/1.jpg": "images/a/1.JPG", "D:\\scans\\b\\1.jpg": "images/b/1.JPG"}
    assert resolved(root, *names) == names


def test_absolute_names_are_followed(root: Path, make_image: Callable[..., Path], tmp_path: Path) -> None:
    elsewhere = make_image(tmp_path / "elsewhere" / "a" / "1.JPG", format="PNG")
    files = find_files(root, [str(elsewhere)], [root / "images"])
    assert files[str(elsewhere)].path == elsewhere


def test_bare_names_of_images_in_folders(root: Path) -> None:
    assert resolved(root, "one.png") == {"one.png": "images/a/one.png"}


def test_a_name_that_could_be_two_files_is_none(root: Path) -> None:
    assert resolved(root, "one.png", "1.jpg") == {"one.png": "images/a/one.png"}


def test_the_files_of_the_split_come_first(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    for split_name in ("train", "val"):
        make_image(tmp_path / split_name / "deep" / "1.png")
    files = find_files(tmp_path, ["1.png"], [tmp_path, tmp_path / "val"])
    assert files["1.png"].path == tmp_path / "val" / "deep" / "1.png"


def test_two_names_never_match_one_file(root: Path) -> None:
    assert resolved(root, "x/one.png", "y/one.png", "Bild ä.png") == {"Bild ä.png": "images/Bild ä.png"}
    assert resolved(root, "x/one.png", "a/one.png") == {"a/one.png": "images/a/one.png"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_and_case_may_be_written_otherwise(root: Path, form: str) -> None:
    name = unicodedata.normalize(form, "bild ä.PNG")  # type: ignore[arg-type]  # one of the four that it takes
    assert resolved(root, name) == {name: "images/Bild ä.png"}


def test_a_file_named_directly_finds_images_in_the_folder_beside_it(
    tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    make_image(tmp_path / "images" / "1.png")
    content = {"images": [{"id": 1, "file_name": "old/1.png"}], "annotations": [], "categories": []}
    path = tmp_path / "annotations" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    assert open_dataset(path).splits["train"].images[0].path == tmp_path / "images" / "1.png"


def test_no_match_is_an_error_that_names_the_first_image(coco: Any) -> None:
    coco.train["images"][0]["file_name"] = "no.jpg"
    coco.write()
    with pytest.raises(DataError, match=r"expected the 1 images.*such as 'no.jpg' in .*train_images"):
        open_dataset(coco.root)


def test_images_of_a_data_set_beside_it_are_never_taken(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """An image is missing here, and the sibling, which is called after the same split, has one of its name."""
    for name, images in (("train_a", 2), ("train_b", 3)):
        for number in range(images):
            make_image(tmp_path / name / "images" / f"{number}.png", seed=number)
    rows = [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 30} for k in range(3)]
    (tmp_path / "train_a" / "labels.json").write_text(json.dumps({"images": rows, "annotations": []}))
    images = open_dataset(tmp_path / "train_a").splits["train"].images
    assert all(image.path.is_relative_to(tmp_path / "train_a") for image in images)
