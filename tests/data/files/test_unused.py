"""Lists of splits, broken json files and images without an ending: used, or listed with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import write_image


def check(root: Path, **options: Any) -> CheckReport:
    return check_dataset(open_dataset(root, val_fraction=0, **options))


@pytest.fixture
def voc(tmp_path: Path, write_voc: Callable[..., Path]) -> Path:
    for number in range(4):
        write_image(tmp_path / "images" / f"img_{number}.png", seed=number)
        write_voc(tmp_path / "annotations" / f"img_{number}.xml", f"img_{number}.png", ("dent", 5, 6, 15, 18))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("parts.csv", "id,part\nimg_0,a\nimg_1,b\nimg_2,b\n"),
        ("order.lst", "img_0\nimg_1\n"),
        ("parts.json", '{"a": ["img_0", "img_1"], "b": ["img_2"]}'),
        ("val.csv", "who knows what\n"),
        ("folds.txt", "0\n"),
    ],
)
def test_lists_of_images_or_splits_are_used_or_listed(voc: Path, name: str, text: str) -> None:
    (voc / name).write_text(text)
    report = check(voc)
    assert [(f.kind, f.file) for f in report.findings] == [("annotations_unused", str(voc / name))]


@pytest.mark.parametrize(
    ("name", "text"), [("settings.json", '{"lr": "0.1", "who": "ann"}'), ("todo.txt", "call bob\n")]
)
def test_other_files_are_not_listed(voc: Path, name: str, text: str) -> None:
    (voc / name).write_text(text)
    assert check(voc).findings == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"\0" * 4000, "it holds zeros alone"),
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "no JSON, it begins with '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no JSON, it begins with 'version"),
    ],
)
def test_broken_json_files_and_a_missing_split_are_reported(coco: Any, content: bytes, why: str) -> None:
    coco.write()
    (coco.root / "val.json").write_bytes(content)
    report = check(coco.root)
    (finding,) = [finding for finding in report.findings if finding.kind == "annotations_unused"]
    assert (finding.file, finding.detail[: len(why)]) == (str(coco.root / "val.json"), why)
    assert any(note.startswith(f"val.json seems to be of a split, and is left out: {why}") for note in report.notes)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_images_without_an_ending_are_images(tmp_path: Path, kind: str) -> None:
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        image = Image.open(write_image(tmp_path / "x.png", seed=number))
        image.save(tmp_path / "images" / f"a{number}", format=kind)
        (tmp_path / "x.png").unlink()
        (tmp_path / "labels").mkdir(exist_ok=True)
        if number < 2:
            (tmp_path / "labels" / f"a{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "Makefile").write_text("all:\n")
    (tmp_path / "classes.txt").write_text("dent\n")
    report = check(tmp_path)
    assert len(report.splits["train"]) == 3
    assert set(report.counts()) <= {"image_without_label", "image_palette"}


def test_unnamed_images_without_an_ending_are_listed(coco: Any) -> None:
    coco.write()
    write_image(coco.root / "images" / "more.png").rename(coco.root / "images" / "more")
    assert check(coco.root).counts() == {"image_unused": 1}


def test_malformed_coco_files_are_named(coco: Any) -> None:
    content = coco.train
    rows = content.pop("annotations")
    content["images"][0]["annotations"] = rows
    coco.root.mkdir(exist_ok=True)
    path = coco.root / "train.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"one list 'annotations' .* found them in images\[0\].annotations"):
        check(coco.root)
    path.write_text(json.dumps([content | {"annotations": rows}]))
    with pytest.raises(DataError, match="found a list of 1, the first with images; write each into a file of its own"):
        check(path)
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(DataError, match="COCO results"):
        check(coco.root, train_json=str(path))
