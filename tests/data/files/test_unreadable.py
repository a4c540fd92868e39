"""Files and folders that cannot be read: listed with the reason, their images left out, and all others are used."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import write_image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
LABEL = "0 0.5 0.5 0.5 0.5\n"
LABELME = {"shapes": [{"label": "dent", "points": [[5, 6], [15, 18]], "shape_type": "rectangle"}], "imageData": None}


def check(root: Path, **options: Any) -> CheckReport:
    return check_dataset(open_dataset(root, val_fraction=0, **options))


def sizes(report: CheckReport) -> dict[str, int]:
    return {name: len(split) for name, split in report.splits.items()}


def yolo(root: Path, count: int = 4) -> Path:
    for number in range(count):
        write_image(root / "images" / f"{number}.png", seed=number)
        (root / "labels").mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{number}.txt").write_text(LABEL)
    (root / "classes.txt").write_text("dent\n")
    return root


def dangle(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("gone")


@pytest.mark.parametrize(
    "name",
    ["x.json", "x.xml", "x.yaml", "x.csv", "x.txt", "train.txt", "labels.txt", "obj.data", "images.zip", "folder"],
)
def test_an_unused_broken_link_is_listed(tmp_path: Path, name: str) -> None:
    root = yolo(tmp_path)
    dangle(root / name)
    report = check(root)
    assert sizes(report) == {"train": 4}
    (finding,) = report.findings
    assert (finding.kind, finding.file) == ("file_unreadable", str(root / name))
    assert finding.detail in ("a link to what is not there", "No such file or directory")


def test_links_to_themselves_and_pipes_are_listed(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "loop.json").symlink_to("loop.json")
    os.mkfifo(root / "pipe.json")
    (root / "link.xml").symlink_to("pipe.json")
    report = check(root)
    assert (sizes(report), report.counts()) == ({"train": 4}, {"file_unreadable": 4})


def test_a_folder_that_cannot_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = yolo(tmp_path)
    (root / "lost+found").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = check(root)
    (finding,) = report.findings
    assert (sizes(report), finding.kind, finding.detail) == ({"train": 4}, "file_unreadable", "Permission denied")


def test_the_image_of_an_unreadable_label_file_is_left_out(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    dangle(root / "labels" / "0.txt")
    report = check(root)
    assert (sizes(report), report.counts()) == ({"train": 3}, {"txt_malformed": 1})
    assert "cannot read" in report.findings[0].detail


def test_the_image_of_an_unreadable_xml_file_is_left_out(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", seed=number)
        write_voc(tmp_path / f"{number}.xml", f"{number}.png", ("dent", 5, 6, 15, 18))
    dangle(tmp_path / "0.xml")
    report = check(tmp_path)
    assert (sizes(report), report.counts()) == ({"train": 2}, {"xml_malformed": 1})


def test_the_image_of_an_unreadable_json_file_is_left_out(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", seed=number)
        content = LABELME | {"imagePath": f"{number}.png", "imageHeight": 30, "imageWidth": 40}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    dangle(tmp_path / "0.json")
    report = check(tmp_path)
    assert (sizes(report), report.counts()) == ({"train": 2}, {"json_malformed": 1})


def test_a_list_of_classes_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    dangle(root / "classes.txt")
    report = check(root)
    assert (sizes(report), report.counts()) == ({"train": 4}, {"file_unreadable": 1})


def test_an_unreadable_coco_file_is_listed(coco: Any) -> None:
    coco.write()
    dangle(coco.root / "val.json")
    report = check(coco.root)
    assert (sizes(report), report.counts()) == ({"train": 1}, {"file_unreadable": 1, "image_unused": 1})


def test_an_image_that_is_a_link_to_nothing_is_missing(coco: Any) -> None:
    coco.write()
    dangle(coco.root / "images" / "val.png")
    (coco.root / "images" / "more.png").symlink_to("gone")
    with pytest.raises(DataError, match="image_missing"):
        check(coco.root)


def test_named_files_are_read_or_refused(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    coco.write()
    refused = {str(coco.root / "train.json"), str(coco.root / "images")}
    opening, scan = Path.open, os.listdir

    def open_(path: Path, *args: Any, **options: Any) -> Any:
        if str(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path, *args, **options)

    def listdir(path: Any) -> Any:
        if str(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(os, "listdir", listdir)
    for data, options in (
        (coco.root / "train.json", {}),
        (coco.root, {"train_json": "train.json"}),
        (coco.root, {"train_images": "images"}),
        (coco.root / "images", {}),
    ):
        with pytest.raises(DataError, match=r"cannot read .*Permission denied; look at the path and its permissions"):
            open_dataset(data, **options)


def test_unreadable_files_are_named_where_no_data_set_is_found(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    dangle(tmp_path / "labels.json")
    with pytest.raises(DataError, match=r"; cannot read .*labels.json: a link to what is not there"):
        open_dataset(tmp_path)
