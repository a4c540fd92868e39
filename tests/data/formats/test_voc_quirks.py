"""Pascal VOC as tools and people write it: tags, encodings, lists with folders, lists that say too little."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from tests.data.conftest import write_image

BOX = "<bndbox><xmin>{}</xmin><ymin>6</ymin><xmax>{}</xmax><ymax>18</ymax></bndbox>"


def xml(name: str, number: int, label: str = "cat") -> str:
    """One object, whose place tells which file it is from."""
    actual = f"<object><name>{label}</name>{BOX.format(number, number + 10)}</object>"
    size = "<size><width>40</width><height>30</height></size>"
    return f"<annotation><filename>{name}</filename>{size}{actual}</annotation>"


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def pairs(root: Path, names: list[str], inner: tuple[str, str] = ("JPEGImages", "Annotations")) -> None:
    """An image and an xml file each; the box of the k-th begins at k."""
    for number, name in enumerate(names):
        write_image(root / inner[0] / f"{name}.jpg", seed=number)
        write(root / inner[1] / f"{name}.xml", xml(f"{Path(name).name}.jpg", number))


def check(root: Path) -> CheckReport:
    return check_dataset(open_dataset(root, val_fraction=0))


def box_starts(report: CheckReport, split: str, root: Path) -> dict[str, list[float]]:
    """Image -> where its boxes begin."""
    images = report.splits[split].images
    return {image.path.relative_to(root).as_posix(): [o.box[0] for o in image.objects] for image in images}


def left(report: CheckReport, root: Path) -> dict[str, str]:
    """File that was not used -> why."""
    rows = [f for f in report.findings if f.kind in ("annotations_unused", "image_unused")]
    return {Path(f.file).relative_to(root).as_posix(): f.detail for f in rows}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("object>", "Object>"),
        lambda text: text.replace("bndbox>", "BndBox>").replace("xmin>", "Xmin>"),
        lambda text: text.replace("name>", "NAME>"),
        lambda text: "<ANNOTATION" + text.removeprefix("<annotation").removesuffix("annotation>") + "ANNOTATION>",
    ],
)
@pytest.mark.parametrize("all_of_them", [True, False])
def test_tags_of_any_letter_case_are_read(tmp_path: Path, change: object, all_of_them: bool) -> None:
    assert callable(change)
    pairs(tmp_path, ["a", "b"])
    for name in "ab" if all_of_them else "a":
        path = tmp_path / "Annotations" / f"{name}.xml"
        path.write_text(change(path.read_text()))
    report = check(tmp_path)
    assert report.findings == []
    assert box_starts(report, "train", tmp_path) == {"JPEGImages/a.jpg": [0], "JPEGImages/b.jpg": [1]}


@pytest.mark.parametrize(
    ("declared", "written", "label"),
    [
        ("Big5", "big5", "凹痕"),
        ("Shift_JIS", "shift_jis", "へこみ"),
        ("Shift_JIS", "cp932", "へこみ①"),  # letters that only Windows has under this name
        ("EUC-JP", "euc_jp", "へこみ"),
        ("EUC-KR", "euc_kr", "찌그러짐"),
        ("GB2312", "gb18030", "劃傷"),
        ("windows-1251", "cp1251", "вмятина"),
        ("GBK", "utf-8", "划伤"),  # written anew by a program that forgets the declaration
        ("utf-8", "utf-8", "划伤"),
    ],
)
def test_a_declared_encoding_counts(tmp_path: Path, declared: str, written: str, label: str) -> None:
    write_image(tmp_path / "a.png")
    head = f'<?xml version="1.0" encoding="{declared}"?>\n'
    write(tmp_path / "a.xml", head + xml("a.png", 5, label), written)
    report = check(tmp_path)
    assert report.splits["train"].categories.names == (label,)
    assert report.findings == []


def test_a_wrongly_declared_encoding_is_recognized(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write(tmp_path / "a.xml", '<?xml version="1.0" encoding="utf-8"?>' + xml("a.png", 5, "划伤凹痕"), "gb18030")
    report = check(tmp_path)
    assert report.splits["train"].categories.names == ("划伤凹痕",)
    assert report.counts() == {"text_encoding": 1}


CAMS = ["cam0/0", "cam1/0", "cam0/1", "cam1/1"]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "{} 1",
        "JPEGImages/{}.jpg",
        "JPEGImages/{}.jpg Annotations/{}.xml",
        "/home/ann/set/JPEGImages/{}.jpg",
        "./{}.xml",
    ],
)
def test_the_folders_of_lists_count(tmp_path: Path, line: str) -> None:
    pairs(tmp_path, CAMS)
    lists = tmp_path / "ImageSets" / "Main"
    write(lists / "train.txt", "".join(line.replace("{}", f"cam0/{k}") + "\n" for k in range(2)))
    write(lists / "val.txt", "".join(line.replace("{}", f"cam1/{k}") + "\n" for k in range(2)))
    report = check(tmp_path)
    assert box_starts(report, "train", tmp_path) == {"JPEGImages/cam0/0.jpg": [0], "JPEGImages/cam0/1.jpg": [2]}
    assert box_starts(report, "val", tmp_path) == {"JPEGImages/cam1/0.jpg": [1], "JPEGImages/cam1/1.jpg": [3]}
    assert set(report.counts()) <= {"leakage_name"}


def test_a_name_that_several_files_have_is_not_guessed(tmp_path: Path) -> None:
    pairs(tmp_path, [*CAMS, "cam0/single"])
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "0\ncam1/1\nsingle\n")
    report = check(tmp_path)
    assert box_starts(report, "train", tmp_path) == {"JPEGImages/cam1/1.jpg": [3], "JPEGImages/cam0/single.jpg": [4]}
    (twice,) = (f for f in report.findings if f.kind == "image_ambiguous")
    assert twice.record == "line 1"
    assert "Annotations/cam0/0.xml, Annotations/cam1/0.xml" in twice.detail
    why = left(report, tmp_path)
    assert "without its folder" in why["JPEGImages/cam0/0.jpg"]
    assert "no list of train, val or test" in why["JPEGImages/cam0/1.jpg"]


def test_an_image_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    pairs(tmp_path, CAMS)
    (tmp_path / "Annotations" / "cam1" / "1.xml").unlink()
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "cam0/0\ncam1/0\ncam1/1\n")
    report = check(tmp_path)
    assert list(box_starts(report, "train", tmp_path)) == ["JPEGImages/cam0/0.jpg", "JPEGImages/cam1/0.jpg"]
    assert [f.detail for f in report.findings if f.kind == "listed_without_annotation"] == ["cam1/1"]


def test_lists_without_a_split_are_noted(tmp_path: Path) -> None:
    pairs(tmp_path, list("abcd"))
    lists = tmp_path / "ImageSets" / "Main"
    write(lists / "Training.TXT", "a\r\nb\t\r\n")
    write(lists / "Development.TXT", "c.jpg\n")
    write(lists / "batch7.txt", "d.jpg\n")
    report = check(tmp_path)
    assert list(box_starts(report, "val", tmp_path)) == ["JPEGImages/c.jpg"]
    assert left(report, tmp_path) == {
        "Annotations/d.xml": "no list of train, val or test names it",
        "JPEGImages/d.jpg": "no list of train, val or test names it",
        "ImageSets/Main/batch7.txt": "its name does not say which split it is",
    }


@pytest.mark.parametrize(
    ("lists", "train", "val", "unused"),
    [
        ({"train": "a", "val": "b", "trainval": "abc"}, ["a"], ["b"], True),
        ({"train": "a", "trainval": "abc"}, ["a"], ["b", "c"], False),
        ({"val": "a", "trainval": "abc"}, ["b", "c"], ["a"], False),
        ({"test": "a", "trainval": "bc"}, ["b", "c"], ["a"], False),
        ({"train": "a", "val": "bc", "trainval": "abc"}, ["a"], ["b", "c"], False),
    ],
)
def test_images_in_trainval_alone(
    tmp_path: Path, lists: dict[str, str], train: list[str], val: list[str], unused: bool
) -> None:
    pairs(tmp_path, list("abc"))
    for name, stems in lists.items():
        write(tmp_path / "ImageSets" / "Main" / f"{name}.txt", "\n".join(stems))
    report = check(tmp_path)
    assert list(box_starts(report, "train", tmp_path)) == [f"JPEGImages/{name}.jpg" for name in train]
    assert list(box_starts(report, "val", tmp_path)) == [f"JPEGImages/{name}.jpg" for name in val]
    reason = "only trainval names it, beside lists of train and val"
    assert left(report, tmp_path) == ({f"{p}/c.{e}": reason for p, e in FOLDERS} if unused else {})


FOLDERS = (("Annotations", "xml"), ("JPEGImages", "jpg"))


def test_a_filename_that_contradicts_the_file_is_reported(tmp_path: Path) -> None:
    for number, (name, other) in enumerate((("a", "b"), ("b", "a"), ("c", "c"), ("d", "not_there"))):
        write_image(tmp_path / f"{name}.jpg", seed=number)
        write(tmp_path / f"{name}.xml", xml(f"{other}.jpg", number))
    report = check(tmp_path)
    assert box_starts(report, "train", tmp_path) == {"a.jpg": [0], "b.jpg": [1], "c.jpg": [2], "d.jpg": [3]}
    assert [note.split(" in ")[0] for note in report.notes] == [
        "2 xml files of train (a.xml first) name another image that is there"
    ]


def test_images_of_one_name_can_be_held_out(tmp_path: Path) -> None:
    pairs(tmp_path, [f"frame{k}/rgb" for k in range(5)], ("", ""))
    report = check_dataset(open_dataset(tmp_path))
    names = {split_name: [image.file_name for image in split.images] for split_name, split in report.splits.items()}
    assert len(names["val"]) == 1
    assert sorted(names["train"] + names["val"]) == [f"frame{k}/rgb.jpg" for k in range(5)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("split.csv", "image,split\na.jpg,train\nb.jpg,train\nc.jpg,val\nd.jpg,train\n"),
        ("splits.json", '{"train": ["a.jpg", "b.jpg", "d.jpg"], "val": ["c.jpg"]}'),
        ("train.lst+val.lst", "a.jpg\nb.jpg\nd.jpg\n+c.jpg\n"),
        ("train.csv+val.csv", "image,width\na.jpg,40\nb.jpg,40\nd.jpg,40\n+image,width\nc.jpg,40\n"),
    ],
)
def test_tables_and_json_files_of_splits_are_followed(tmp_path: Path, name: str, content: str) -> None:
    pairs(tmp_path, ["a", "b", "c", "d", "e"])
    for file, text in zip(name.split("+"), content.split("+"), strict=True):
        write(tmp_path / file, text)
    report = check(tmp_path)
    assert {split: len(report.splits[split].images) for split in ("train", "val")} == {"train": 3, "val": 1}
    assert box_starts(report, "val", tmp_path) == {"JPEGImages/c.jpg": [2.0]}
    assert left(report, tmp_path) == {
        "Annotations/e.xml": "no list of train, val or test names it",
        "JPEGImages/e.jpg": "no list of train, val or test names it",
    }
