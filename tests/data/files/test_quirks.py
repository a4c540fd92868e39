"""Data sets as labeling tools, cameras and people leave them: everything is used, or listed with a reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrkit.data.files.encodings import decode_text
from detrkit.data.files.image_finder import spellings
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.tables import findings_lines
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import boxes, only, write_image

LABEL = "0 0.5 0.5 0.5 0.5\n"


def check(root: Path, **options: Any) -> CheckReport:
    """The report without a made validation split."""
    return check_dataset(open_dataset(root, val_fraction=0, **options), decode_all=True)


def counted(report: CheckReport) -> dict[str, int]:
    return {name: len(split) for name, split in report.splits.items()}


def yolo(root: Path, *names: str, label: str = LABEL) -> Path:
    """Images with labels: images/NAME and labels/NAME.txt."""
    for number, name in enumerate(names):
        write_image(root / "images" / name, seed=number)
        path = (root / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(label)
    (root / "classes.txt").write_text("dent\n")
    return root


# nothing is left out in silence


def test_a_test_split_is_set_aside(coco: Any) -> None:
    coco.write()
    shutil.copy(coco.root / "val.json", coco.root / "test.json")
    only(check(coco.root), "set_aside")


def test_further_files_are_listed_with_a_reason(coco: Any) -> None:
    coco.write()
    content = {**coco.train, "images": [{"id": 1, "file_name": "late.png", "width": 40, "height": 30}]}
    (coco.root / "batch7.json").write_text(json.dumps(content))
    write_image(coco.root / "images" / "late.png")
    report = check(coco.root)
    assert report.counts() == {"annotations_unused": 1, "image_unused": 1}
    assert "--train_json uses it" in report.findings[0].detail
    with pytest.raises(
        DataError, match=r"strict asks, found 1 annotations_unused, 1 image_unused; the first: .*batch7"
    ):
        check(coco.root, strict=True)
    (coco.root / "batch7.json").unlink()
    (coco.root / "images" / "late.png").unlink()
    assert check(coco.root, strict=True).findings == []


def test_files_that_were_not_used_are_shown_by_folder(coco: Any) -> None:
    coco.write()
    for number in range(9):
        write_image(coco.root / "extra" / f"{number}.png", seed=number)
    lines = [str(line) for line in findings_lines(check(coco.root).findings)]
    assert lines[1].startswith("9 x an image that was not used")
    assert lines[2:] == [f"    {coco.root}/extra: 9 files such as 0.png: no part of what was read as COCO"]


def test_several_files_make_up_a_split(coco: Any) -> None:
    coco.write()
    for site in ("a", "b"):
        for split_name in ("train", "val"):
            (coco.root.parent / "all" / site).mkdir(parents=True, exist_ok=True)
            shutil.copy(coco.root / f"{split_name}.json", coco.root.parent / "all" / site / f"{split_name}.json")
            write_image(coco.root.parent / "all" / site / "images" / f"{split_name}.png", seed=ord(site))
    report = check(coco.root.parent / "all")
    assert counted(report) == {"train": 2, "val": 2}
    assert report.counts().get("image_id_twice") is None
    assert "2 files make up train: a/train.json, b/train.json" in report.notes
    assert [image.id for image in report.splits["train"].images] == [1, 2]


@pytest.mark.parametrize(
    "kept", ["._a.jpg", ".hidden/a.jpg", "__MACOSX/._a.jpg", "images/.ipynb_checkpoints/a-checkpoint.jpg"]
)
def test_files_of_operating_systems_are_no_images(tmp_path: Path, kept: str) -> None:
    root = yolo(tmp_path, "a.jpg")
    (root / kept).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "images" / "a.jpg", root / kept)
    report = check(root)
    assert (counted(report), report.findings) == ({"train": 1}, [])


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    pool = yolo(tmp_path / "pool", "a.jpg", "b.jpg")
    root = tmp_path / "set"
    (root / "deep").mkdir(parents=True)
    (root / "images").symlink_to(pool / "images")
    (root / "labels").symlink_to(pool / "labels")
    (root / "again").symlink_to(pool / "images")
    (root / "deep" / "loop").symlink_to(root)
    report = check(root)
    assert (counted(report), report.counts()) == ({"train": 2}, {})


def test_endings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    root = yolo(tmp_path, "a.jpg")
    (root / "images" / "b.HEIC").write_bytes(b"heic")
    only(check(root), "image_format_unread")


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".jp2", ".avif", ".pgm", ".tga", ".dib"])
def test_every_readable_ending_is_found(tmp_path: Path, ending: str) -> None:
    root = yolo(tmp_path, "a.jpg")
    formats = {".jfif": "JPEG", ".JPE": "JPEG", ".jp2": "JPEG2000", ".pgm": "PPM", ".dib": "BMP"}
    image = Image.effect_noise((40, 30), 50)
    image.save(root / "images" / f"b{ending}", format=formats.get(ending))
    (root / "labels" / "b.txt").write_text(LABEL)
    assert counted(check(root)) == {"train": 2}


# images and labels that do not meet


def test_labels_and_images_that_do_not_meet(tmp_path: Path) -> None:
    root = yolo(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (root / "labels" / "b.txt").rename(root / "labels" / "other.txt")
    report = check(root)
    assert report.counts() == {"label_without_image": 1, "image_without_label": 1}
    write_image(root / "images" / "a.png", seed=9)
    assert check(root).counts()["label_shared"] == 1


@pytest.mark.parametrize("name", ["A.txt", "a.TXT", "A.Txt"])
def test_letter_case_of_names_does_not_matter(tmp_path: Path, name: str) -> None:
    root = yolo(tmp_path, "a.jpg")
    (root / "labels" / "a.txt").rename(root / "labels" / name)
    assert len(boxes(check(root))) == 1


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("Images/x.jpg", "Labels/x.txt"),
        ("images/Train/x.jpg", "labels/Train/x.txt"),
        ("train/images/x.jpg", "train/labels/x.txt"),
        ("train/x.jpg", "train/x.txt"),
        ("obj_train_data/x.PNG", "obj_train_data/x.txt"),
        ("a/deep/images/train/x.jpg", "a/deep/labels/train/x.txt"),
        ("photos/7/x.jpg", "lable/x.txt"),
        ("images/train/x.jpg", "images/train/x.txt"),
    ],
)
def test_where_labels_lie(tmp_path: Path, images: str, labels: str) -> None:
    for path in (tmp_path / images, tmp_path / labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(tmp_path / images)
    (tmp_path / labels).write_text(LABEL)
    report = check(tmp_path)
    assert (counted(report), report.findings, len(boxes(report))) == ({"train": 1}, [], 1)


def test_darknet_files(tmp_path: Path) -> None:
    """obj.data, obj.names and lists, with paths of another folder, as CVAT writes them."""
    for number in range(3):
        write_image(tmp_path / "obj_train_data" / f"{number}.PNG", seed=number)
        (tmp_path / "obj_train_data" / f"{number}.txt").write_text(LABEL)
    (tmp_path / "obj.names").write_text("dent\nscratch\n")
    lists = {
        "train": "data/obj_train_data/0.PNG\r\ndata\\obj_train_data\\1.PNG\r\n",
        "valid": "data/obj_train_data/2.PNG\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    report = check(tmp_path)  # the lists alone
    assert (counted(report), report.counts()) == ({"train": 2, "val": 1}, {"category_unused": 1})
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    assert counted(check(tmp_path)) == {"train": 2, "val": 1}
    assert check(tmp_path).splits["train"].categories.names == ("dent", "scratch")


def test_a_split_that_is_named_and_missing(tmp_path: Path) -> None:
    root = yolo(tmp_path, "train/a.jpg", "train/b.jpg")
    (root / "data.yaml").write_text("path: D:\\data\ntrain: ../images/train\nval: ../images/val\nnames: [dent]\n")
    raw = open_dataset(root)
    assert "the val images of data.yaml at '../images/val' are not there" in raw.notes[0]
    assert counted(check_dataset(raw)) == {"train": 1, "val": 1}


# a dropped record makes no negative


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("0 0.5 0.5 0.5 0.5 0.87", "confidence"),
        ("0,0.5,0.5,0.5,0.5", ""),
        ("0; 0.5; 0.5; 0.5; 0.5", ""),
        ("0\t0.5\t0.5\t0.5\t0.5  # by ann", ""),
        ("0 0,5 0,5 0,5 0,5", ""),
        ("dent 0.5 0.5 0.5 0.5", ""),
        ("0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.1 2", "key points"),
    ],
)
def test_forms_of_a_line(tmp_path: Path, line: str, form: str) -> None:
    report = check(yolo(tmp_path, "a.jpg", label=line))
    assert boxes(report) == [(10, 7.5, 30, 22.5)]
    assert [finding.detail for finding in report.findings if finding.kind == "label_extra_columns"] == [form] * bool(
        form
    )


def test_the_yaml_file_declares_key_points_of_two_numbers(tmp_path: Path) -> None:
    root = yolo(tmp_path, "a.jpg", label="0 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9\n")
    (root / "data.yaml").write_text("train: images\nkpt_shape: [2, 2]\nnames: [dent]\n")
    assert boxes(check(root)) == [(10, 7.5, 30, 22.5)]


def test_a_line_that_is_lost_takes_its_image_with_it(tmp_path: Path) -> None:
    root = yolo(tmp_path, "a.jpg", "b.jpg")
    (root / "labels" / "b.txt").write_text("0 0.5 half 0.5 0.5\n")
    report = check(root)
    only(report, "txt_malformed")
    assert [image.file_name for image in report.splits["train"].images] == ["a.jpg"]


# names of images


def test_spellings_of_a_file_name() -> None:
    assert spellings("a.jpg") == ["a.jpg"]
    assert "划痕 图.jpg" in [Path(name).name for name in spellings("/data/upload/3/%E5%88%92%E7%97%95%20%E5%9B%BE.jpg")]
    assert spellings("/data/local-files/?d=sub%2Fa.jpg")[-1] == "sub/a.jpg"
    assert spellings("https://x.org/set/a.jpg?token=1#top")[-1] == "/set/a.jpg"
    assert spellings("images/1a2b3c4d-a.jpg") == ["images/1a2b3c4d-a.jpg", "images/a.jpg"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/data/upload/3/part%20%231%20a.png", "part #1 a.png"),
        ("/data/local-files/?d=sub%2Fa.png", "sub/a.png"),
        ("C:\\scans\\sub\\a.png", "sub/a.png"),
        ("https://x.org/a.png?size=9", "a.png"),
        ("deadbeef-a.png", "a.png"),
    ],
)
def test_names_of_other_machines(coco: Any, name: str, file: str) -> None:
    (coco.root / "images" / "train.png").unlink()
    write_image(coco.root / "images" / file)
    coco.train["images"][0]["file_name"] = name
    report = coco.check()
    assert report.splits["train"].images[0].path == coco.root / "images" / file


def test_the_file_of_another_ending(coco: Any) -> None:
    coco.train["images"][0]["file_name"] = "train.jpg"
    only(coco.check(), "image_other_ending")


def test_a_name_that_occurs_twice_is_reported(coco: Any, write_voc: Callable[..., Path]) -> None:
    for camera in ("1", "2"):
        write_image(coco.root / "images" / camera / "twice.png", seed=int(camera))
    coco.train["images"].append({"id": 8, "file_name": "twice.png", "width": 40, "height": 30})
    report = coco.check()
    assert report.counts() == {"image_ambiguous": 1, "image_unused": 2}
    assert "'twice.png' occurs 2 times: " in report.findings[0].detail
    coco.train["images"].pop(0)
    with pytest.raises(DataError, match=r"found that 'twice.png' occurs 2 times: .*write the folder into file_name"):
        coco.check()


# Pascal VOC


def test_voc_of_folders_lists_and_annotators(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    """Batches, a list of names with blanks, two files of one image: nothing is lost."""
    for batch in ("b1", "b2"):
        write_image(tmp_path / "set" / batch / f"part {batch}.jpg", seed=ord(batch[1]))
        write_voc(tmp_path / "set" / batch / f"part {batch}.xml", f"part {batch}.jpg", ("dent", 5, 6, 15, 18))
    assert counted(check(tmp_path / "set")) == {"train": 2}
    write_voc(tmp_path / "set" / "b2" / "bob.xml", "part b2.jpg", ("scratch", 5, 6, 15, 18))
    report = check(tmp_path / "set")
    assert (len(boxes(report)), report.counts()) == (3, {"image_listed_twice": 1})
    lists = tmp_path / "set" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("part b1\nnot there\n")
    report = check(tmp_path / "set")
    assert counted(report) == {"train": 1}
    assert report.counts() == {
        "annotations_unused": 2,
        "image_unused": 1,
        "listed_without_annotation": 1,
    }


@pytest.mark.parametrize(
    "lists",
    [
        {"ImageSets/Main/dent_train.txt": "a.jpg 1\n", "ImageSets/Main/dent_val.txt": "b.jpg -1\n"},
        {"ImageSets/train.txt": "a\n", "ImageSets/val.txt": "b\n"},
        {"train.txt": "./images/a.jpg ./annotations/a.xml\n", "valid.txt": "./images/b.jpg ./annotations/b.xml\n"},
    ],
)
def test_lists_of_other_tools(tmp_path: Path, write_voc: Callable[..., Path], lists: dict[str, str]) -> None:
    for number, name in enumerate("ab"):
        write_image(tmp_path / "images" / f"{name}.jpg", seed=number)
        write_voc(tmp_path / "annotations" / f"{name}.xml", f"{name}.jpg", ("dent", 5, 6, 15, 18))
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "label_list.txt").write_text("scratch\ndent\n")
    report = check(tmp_path)
    assert (counted(report), report.counts()) == ({"train": 1, "val": 1}, {"category_unused": 1})
    assert report.splits["train"].categories.names == ("scratch", "dent")


def test_shapes_and_spellings_of_voc(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    objects = {
        "a": "<bndbox><xmin>15</xmin><ymin>6</ymin><xmax>5</xmax><ymax>18</ymax></bndbox>",
        "b": "<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>6</h><angle>1.5707963</angle></robndbox>",
        "c": "<polygon><x1>5</x1><y1>6</y1><x2>15</x2><y2>6</y2><x3>15</x3><y3>18</y3></polygon>",
    }
    for number, (name, shape) in enumerate(objects.items()):
        write_image(tmp_path / f"{name}.jpg", seed=number)
        label = "Dent" if name == "a" else "dent "
        text = f"<annotation><filename>{name}.jpg</filename><size><width>40</width><height>30</height></size>"
        text += f"<object><name>{label}</name>{shape}</object></annotation>"
        (tmp_path / f"{name}.{'XML' if name == 'b' else 'xml'}").write_bytes(
            text.encode("utf-16" if name == "c" else "utf-8")
        )
    report = check(tmp_path)
    assert {kind: n for kind, n in report.counts().items() if kind != "mask_absent"} == {
        "category_names_alike": 1,
        "corners_swapped": 1,
        "box_around_outline": 2,
    }
    assert [tuple(round(v, 3) for v in box) for box in boxes(report)] == [
        (5, 6, 15, 18),
        (17, 10, 23, 20),
        (5, 6, 15, 18),
    ]


# texts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_encodings_of_class_names_and_labels(tmp_path: Path, encoding: str) -> None:
    root = yolo(tmp_path, "a.jpg")
    (root / "classes.txt").write_bytes("划痕\n零件\n".encode(encoding))
    report = check(root)
    assert report.splits["train"].categories.names == ("划痕", "零件")
    assert report.counts().get("text_encoding", 0) == (encoding != "utf-8-sig")


def test_western_names_are_not_taken_for_chinese() -> None:
    assert decode_text("Kratzer größer\nGrün".encode("cp1252"), "x") == ("Kratzer größer\nGrün", "cp1252")
    assert decode_text("划痕".encode("gb18030"), "x") == ("划痕", "gb18030")
    assert decode_text("dent\n".encode("utf-16-be"), "x") == ("dent\n", "utf-16-be")
    with pytest.raises(DataError, match="expected text in x, found bytes"):
        decode_text(os.urandom(8).replace(b"\0", b"\1") + b"\0\1\2\xff", "x")


@pytest.mark.parametrize(
    ("name", "split_name"),
    [
        ("trainset", "train"),
        ("ValSet", "val"),
        ("VALID2", "val"),
        ("训练集", "train"),
        ("valve", ""),
        ("testing", "test"),
    ],
)
def test_words_of_splits(name: str, split_name: str) -> None:
    assert split_of_name(name) == split_name
