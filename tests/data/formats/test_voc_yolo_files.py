"""Defects of Pascal VOC and YOLO files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import DataError
from tests.data.conftest import boxes, only


def voc(tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]) -> Path:
    root = tmp_path / "voc"
    make_image(root / "JPEGImages" / "a.jpg")
    make_image(root / "JPEGImages" / "b.jpg")
    write_voc(root / "Annotations" / "a.xml", "a.jpg", ("cat", 5, 6, 15, 18))
    write_voc(root / "Annotations" / "b.xml", "b.jpg", ("dog", 5, 6, 15, 18))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    return root


def test_name_spaces_do_not_hide_objects(
    tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]
) -> None:
    path = voc(tmp_path, make_image, write_voc) / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<annotation>", '<annotation xmlns="http://some.tool/1.0">'))
    report = check_dataset(open_dataset(tmp_path / "voc", val_fraction=0))
    assert report.counts() == {}
    assert boxes(report) == [(5, 6, 15, 18)] * 2


def test_an_empty_list_is_not_blamed_on_the_other_side(
    tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]
) -> None:
    root = voc(tmp_path, make_image, write_voc)
    (root / "Annotations" / "b.xml").write_text("<broken")
    (root / "ImageSets" / "Main" / "val.txt").write_text("")
    raw = open_dataset(root, val_fraction=0)
    assert "val.txt names no image with an xml file" in raw.notes[0]
    (root / "ImageSets" / "Main" / "train.txt").write_text("c\n")
    with pytest.raises(DataError, match=r"in .*train\.txt, found none \(1 listed_without_annotation; the first: "):
        open_dataset(root)


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>"""


@pytest.mark.parametrize(
    "content", ["<annotation><object></annotation>", "", BOMB, BOMB.encode("utf-16"), "\x00\x01", "<annotations/>"]
)
def test_malformed_xml_is_dropped(
    tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path], content: str | bytes
) -> None:
    root = voc(tmp_path, make_image, write_voc)
    path = root / "Annotations" / "a.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = check_dataset(open_dataset(root, val_fraction=0))
    only(report, "xml_malformed")
    assert report.findings[0].file == str(path)
    assert report.findings[0].detail
    assert len(boxes(report)) == 1


def test_external_entities_are_not_read(
    tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]
) -> None:
    root = voc(tmp_path, make_image, write_voc)
    (tmp_path / "secret").write_text("cat")
    text = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{tmp_path}/secret">]><annotation><filename>&s;</filename></annotation>'
    (root / "Annotations" / "a.xml").write_text(text)
    only(check_dataset(open_dataset(root, val_fraction=0)), "xml_malformed")


def test_voc_defects(tmp_path: Path, make_image: Callable[..., Path], write_voc: Callable[..., Path]) -> None:
    root = voc(tmp_path, make_image, write_voc)
    write_voc(
        root / "Annotations" / "a.xml",
        "a.jpg",
        ("cat", 5, 6, 15, 18),
        ("cat", 7, 6, 7, 18),
        ("dog", 20, 6, 30, 18, 1),
    )
    make_image(root / "JPEGImages" / "d.jpg")
    write_voc(
        root / "Annotations" / "d.xml",
        "d.jpg",
        ("cat", 5, 6, 15, 18),
        ("", 20, 6, 30, 18),
        ("cat", "left", 6, 30, 18),
    )
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nb\nd\n")
    report = check_dataset(open_dataset(root, val_fraction=0))
    expected = (
        "box_empty",
        "difficult",
        "category_unknown",
        "box_malformed",
        "listed_without_annotation",
        "image_object_lost",
    )
    assert report.counts() == dict.fromkeys([k for k in ACTIONS if k in expected], 1)
    first = report.splits["train"].images[0].objects
    assert [(o.box, o.crowd) for o in first] == [((5, 6, 15, 18), False), ((20, 6, 30, 18), True)]
    assert next(f.record for f in report.findings if f.kind == "box_empty") == "object 2"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.2", "txt_malformed"),
        ("0 0.5 0.5 0.2 0.2 0.9", "label_extra_columns"),
        ("zero 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("0.5 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("nan 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("inf 0.5 0.5 0.2 0.2", "txt_malformed"),
        ("2 0.5 0.5 0.2 0.2", "category_unknown"),
        ("-1 0.5 0.5 0.2 0.2", "category_unknown"),
        ("0 0.5 0.5 0 0.2", "box_empty"),
        ("0 nan 0.5 0.2 0.2", "box_not_finite"),
        ("0 1.5 0.5 0.2 0.2", "box_off_image"),
        ("0 0.95 0.5 0.2 0.2", "box_outside"),
        ("0 0.2 0.2 0.4 0.2 0.3 0.3 0.9", "label_extra_columns"),
    ],
)
def test_yolo_lines(tmp_path: Path, make_image: Callable[..., Path], line: str, kind: str) -> None:
    make_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    make_image(tmp_path / "images" / "b.jpg")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n\n{line}\n1 0.5 0.5 0.1 0.1\n")
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    lost = kind in ("category_unknown", "box_not_finite")  # the object may be anywhere on its image
    assert report.counts() == {kind: 1, **({"image_object_lost": 1} if lost else {})}
    assert report.findings[0].file == str(tmp_path / "labels" / "a.txt")
    assert report.findings[0].record == "line 3"
    kept = 0 if lost else {"txt_malformed": 0, "box_outside": 3, "label_extra_columns": 3}.get(kind, 2)
    assert len(boxes(report)) == 2 + kept
    assert not kept or boxes(report)[0] == (10, 7.5, 30, 22.5)


def test_a_label_file_that_is_no_text(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    for name in "ab":
        make_image(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_bytes(b"\x00\x01\x02\x81")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    only(check_dataset(open_dataset(tmp_path, val_fraction=0)), "txt_malformed")
