"""A data format takes one file and one row of the table, as docs/extending.md says."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from detrkit.config.data import DataChoice
from detrkit.config.settings_page import help_of
from detrkit.data.files.source import Source
from detrkit.data.formats import registry
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.registry import FORMATS, DatasetFormat
from detrkit.data.formats.shapes import number, number_classes
from detrkit.data.validation.validate import check_dataset
from tests.data.conftest import write_image


def detect_csv(source: Source) -> str:
    """Name the table of boxes; empty if there is none."""
    return "boxes.csv" if (source.root / "boxes.csv").is_file() else ""


def load_csv(source: Source) -> dict[str, RawSplit]:
    """Load boxes.csv: one object per row, as file, x, y, w, h (pixels) and class."""
    path = source.root / "boxes.csv"
    source.use(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    actual = source.finder.find([row["file"] for row in rows], [source.root, source.root / "images"])
    images: dict[str, RawImage] = {}
    for line, row in enumerate(rows, start=2):
        name = row["file"]
        image = images.setdefault(name, RawImage(None, actual[name].path, name, None, None, [], str(path)))
        box = [number(row[key]) for key in ("x", "y", "w", "h")]  # None for what is no number: the check reports it
        image.objects.append(RawObject(None, row["class"], box, None, False, None, f"line {line}"))
    categories = number_classes(images.values())
    return {"train": RawSplit("train", list(images.values()), categories, "xywh", str(path))}


ROW = DatasetFormat("csv", "CSV", "boxes.csv and images/", detect_csv, load_csv)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of the new format, whose row stands in the table."""
    monkeypatch.setattr(registry, "FORMATS", (*FORMATS, ROW))
    for k in range(4):
        write_image(tmp_path / "images" / f"{k}.jpg")
    lines = [f"{k}.jpg,{k + 1},2,10,5,{name}" for k in range(4) for name in ("nut", "bolt")]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x,y,w,h,class", *lines, "3.jpg,1,2,wide,5,nut"]))
    return tmp_path


@pytest.mark.parametrize("data_format", ["auto", "csv"])
def test_a_new_format_is_detected_loaded_and_checked(data: Path, data_format: str) -> None:
    report = check_dataset(open_dataset(data, data_format=data_format, val_fraction=0.25))
    assert report.format == "csv"
    assert {name: len(split.images) for name, split in report.splits.items()} == {"train": 2, "val": 1}
    image = report.splits["train"].images[0]
    names = [report.splits["train"].categories.names[obj.category_id] for obj in image.objects]
    x = int(image.path.stem) + 1
    assert [(obj.box, name) for obj, name in zip(image.objects, names, strict=True)] == [
        ((x, 2, x + 10, 7), "nut"),
        ((x, 2, x + 10, 7), "bolt"),
    ]
    assert report.counts() == {"image_size_absent": 4, "box_malformed": 1, "image_object_lost": 1}
    assert {finding.record for finding in report.findings} >= {"line 10"}


def test_messages_name_the_new_format(data: Path) -> None:
    with pytest.raises(Exception, match=r"must be auto, coco, .*, csv, found 'tfrecord'"):
        open_dataset(data, data_format="tfrecord")
    with pytest.raises(Exception, match=r"expected CSV \(boxes\.csv and images/\) in"):
        open_dataset(data / "images", data_format="csv")
    with pytest.raises(Exception, match=r"expected COCO, Pascal VOC, .* or CSV in .*, found images and no annot"):
        open_dataset(data / "images")


def test_the_flag_takes_the_formats_of_the_table_and_its_help_names_them(data: Path) -> None:
    assert DataChoice(data_format="csv").data_format == "csv"
    with pytest.raises(Exception, match=r"data_format must be auto, coco, .* or csv, found 'tfrecord'"):
        DataChoice(data_format="tfrecord")
    text = help_of(DataChoice)["data_format"]
    assert all(re.search(rf"\b{row.name}\b", text) for row in FORMATS)
