"""The HTML page of `detrkit check`."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.cli import main
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.statistics import split_statistics
from detrkit.data.validation.validate import CheckReport
from detrkit.structures import Categories
from detrkit.visualization.dataset_page import _cumulative, choose_images, write_dataset_page
from tests.training.conftest import write_split


def split_of(classes_of_images: list[list[int]], path: Path = Path("x.png"), classes: int = 3) -> Split:
    """A split whose images have objects of these classes."""
    images, number = [], 0
    for k, chosen in enumerate(classes_of_images):
        objects = []
        for category_id in chosen:
            number += 1
            objects.append(ObjectRecord(number, category_id, (2, 3, 20, 30), None, category_id == 2, None, "line 1"))
        images.append(ImageRecord(k, path, f"{k}.png", 48, 64, objects))
    names = tuple(f"class <{k}>" for k in range(classes))
    return Split("train", images, Categories(tuple(range(classes)), names), "data")


def test_images_of_the_rarest_class_come_first_and_none_comes_twice() -> None:
    split = split_of([[0], [0, 1], [0], [0, 1], [2], [0], [], [0]])
    chosen = [image.id for image in choose_images(split, 5)]
    assert chosen[:2] == [4, 1]
    assert len(chosen) == len(set(chosen)) == 5
    assert sorted(image.id for image in choose_images(split, 50)) == list(range(8))
    assert choose_images(split_of([]), 5) == []


def test_a_distribution_is_the_share_of_the_values_up_to_each_point() -> None:
    values = {"train": np.array([1.0, 2, 2, 5]), "val": np.zeros(0)}
    (curve,) = _cumulative("title", values, "x").curves
    assert dict(zip(curve.x, curve.y, strict=True)) == {0: 0, 1: 0.25, 2: 0.75, 3: 0.75, 4: 0.75, 5: 1}


def test_the_command_writes_a_page_with_images_classes_and_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "set" / "images").mkdir(parents=True)
    write_split(tmp_path / "set", "train", 6, rng)
    write_split(tmp_path / "set", "val", 3, rng)
    Image.new("RGB", (9, 9)).save(tmp_path / "set" / "images" / "a <stray> image.png")
    target = tmp_path / "new folder" / "report.html"
    assert main(["check", str(tmp_path / "set"), "--html", str(target)]) == 0
    assert f"Page written to {target}" in capsys.readouterr().out
    page = target.read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(?:<bdi>)?(.*?)<", page)
    shown = ["Summary", "Kinds of findings", "Class by class", "Sizes", "Distributions", "Images", "All findings"]
    assert [title for title in titles if title != "Notes"] == [*shown, "Settings", "Command"]
    assert page.count("<figure data-group") == 9
    assert "a &lt;stray&gt; image.png" in page


def test_data_that_training_refuses_still_have_a_page(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "x.png")
    split = split_of([[0, 1]], tmp_path / "x.png")
    statistics = {"train": split_statistics(split, 100)}
    report = CheckReport("coco", "data", {"train": split}, [], statistics, refused="expected <boxes>, found none")
    page = write_dataset_page(tmp_path / "report.html", report).read_text(encoding="utf-8")
    assert "Training and evaluation reject this data: expected &lt;boxes&gt;, found none." in page


def test_a_page_of_five_thousand_images_takes_seconds(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "x.png")
    rng = np.random.default_rng(0)
    split = split_of(rng.integers(0, 80, (5000, 7)).tolist(), tmp_path / "x.png", classes=80)
    report = CheckReport("coco", "data", {"train": split}, [], {"train": split_statistics(split, 100)})
    start = time.process_time()
    write_dataset_page(tmp_path / "report.html", report)
    assert time.process_time() - start < 10  # about 0.5 s


def test_a_folder_in_place_of_the_page_is_an_error_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    write_split(tmp_path / "set", "train", 2, np.random.default_rng(0))
    for flag in ("--html", "--json"):
        assert main(["check", str(tmp_path / "set"), flag, str(tmp_path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""  # before anything is read
        assert f"found the folder {tmp_path}" in err
        assert err.count("\n") == 1
