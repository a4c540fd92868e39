"""YOLO data sets as people have them: labels of other images, lists, class names, key points that no file tells of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import write_image

BOX = "0.5 0.5 0.5 0.5"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def yolo(root: Path, *, classes: str = "dent\nscratch\n", row: str = BOX) -> Path:
    """images/train/0..3.png and images/val/4..5.png with labels, of classes 0 and 1 by turns."""
    for number in range(6):
        split_name = "train" if number < 4 else "val"
        write_image(root / "images" / split_name / f"{number}.png", seed=number)
        write(root / "labels" / split_name / f"{number}.txt", f"{number % 2} {row}\n")
    if classes:
        write(root / "classes.txt", classes)
    return root


def check(root: Path, **options: Any) -> CheckReport:
    """The report without a made validation split."""
    return check_dataset(open_dataset(root, val_fraction=0, **options), decode_all=True)


def objects(report: CheckReport) -> dict[str, list[str]]:
    """Image -> names of the classes of its objects."""
    return {
        "/".join(image.path.parts[-2:]): [
            split.categories.names[split.categories.ids.index(o.category_id)] for o in image.objects
        ]
        for split in report.splits.values()
        for image in split.images
    }


def files_of(report: CheckReport, kind: str) -> list[str]:
    return [Path(finding.file).name for finding in report.findings if finding.kind == kind]


# which label belongs to which image


def test_a_label_of_another_split_is_never_an_images_own(tmp_path: Path) -> None:
    write_image(yolo(tmp_path) / "images" / "train" / "9.png", seed=9)
    write(tmp_path / "labels" / "test" / "9.txt", f"1 {BOX}\n")
    report = check(tmp_path)
    assert objects(report)["train/9.png"] == []
    assert files_of(report, "label_without_image") == ["9.txt"]


def test_a_label_whose_own_folder_has_images_is_never_that_of_an_image_elsewhere(tmp_path: Path) -> None:
    for day in ("day1", "day2"):
        for number in range(3):
            write_image(tmp_path / "images" / day / f"{number}.png", seed=number)
            write(tmp_path / "labels" / day / f"{number}.txt", f"0 {BOX}\n")
    (tmp_path / "images" / "day1" / "0.png").unlink()
    (tmp_path / "labels" / "day2" / "0.txt").unlink()
    report = check(tmp_path)
    assert objects(report)["day2/0.png"] == []
    assert files_of(report, "label_without_image") == ["0.txt"]


def test_flat_labels_leave_out_ambiguous_images(tmp_path: Path) -> None:
    for number, name in enumerate(("cam0/0", "cam1/0", "cam0/1")):
        write_image(tmp_path / "images" / f"{name}.png", seed=number)
    for name in "01":
        write(tmp_path / "labels" / f"{name}.txt", f"0 {BOX}\n")
    report = check(tmp_path)
    assert objects(report) == {"cam0/1.png": ["0"]}
    assert report.counts() == {"label_ambiguous": 1}
    assert "images/cam0/0.png, images/cam1/0.png" in next(iter(report.findings)).detail


def test_a_flat_label_beside_partners_is_not_certain_to_be_a_nested_images(tmp_path: Path) -> None:
    for number, name in enumerate(("0", "1", "cam/2")):
        write_image(tmp_path / "images" / f"{name}.png", seed=number)
        write(tmp_path / "labels" / f"{number}.txt", f"0 {BOX}\n")
    report = check(tmp_path)
    assert set(objects(report)) == {"images/0.png", "images/1.png"}
    assert report.counts() == {"label_ambiguous": 1}


def test_names_that_differ_in_case_alone_keep_their_own_labels(tmp_path: Path) -> None:
    for number, name in enumerate(("A.PNG", "a.png")):
        write_image(tmp_path / "images" / name, seed=number)
        write(tmp_path / "labels" / f"{name[0]}.txt", f"{number} {BOX}\n")
    report = check(tmp_path)
    assert objects(report) == {"images/A.PNG": ["0"], "images/a.png": ["1"]}
    assert not report.counts()


@pytest.mark.parametrize("label", ["labels/{}.png.txt", "labels/1a2b3c4d-{}.txt"])
def test_labels_with_the_images_ending_or_a_number_before_the_name(tmp_path: Path, label: str) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
        write(tmp_path / label.format(number), f"0 {BOX}\n")
    assert objects(check(tmp_path)) == {f"images/{number}.png": ["0"] for number in range(3)}


def test_folders_of_other_names_meet_by_their_ends(tmp_path: Path) -> None:
    for number, name in enumerate(("cam0/0", "cam1/0")):
        write_image(tmp_path / "raw" / f"{name}.png", seed=number)
        write(tmp_path / "annotation_txt" / f"{name}.txt", f"{number} {BOX}\n")
    assert objects(check(tmp_path)) == {"cam0/0.png": ["0"], "cam1/0.png": ["1"]}


def test_a_listed_image_that_is_not_there_counts_as_missing_alone(tmp_path: Path) -> None:
    yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: train.txt\nval: images/val\nnames: [dent, scratch]\n")
    write(tmp_path / "train.txt", "".join(f"images/train/{number}.png\n" for number in (0, 1, 2, 3, 77)))
    assert check(tmp_path).counts() == {"image_missing": 1}


# key points that no file tells of


@pytest.mark.parametrize("points", ["0.4 0.5 1 0.3 0.2 0", "0 0 0 0 0 0", "0.4 0.5 2 0.3 0.2 1"])
def test_key_points_are_recognized_by_their_visibilities(tmp_path: Path, points: str) -> None:
    yolo(tmp_path, row=f"{BOX} {points}")
    write(tmp_path / "labels" / "train" / "0.txt", f"0 {BOX} 0.4 0.5 1 0 0 0\n")
    report = check(tmp_path)
    assert {actual.box for split in report.splits.values() for i in split.images for actual in i.objects} == {
        (10.0, 7.5, 30.0, 22.5)
    }
    assert report.counts() == {"label_extra_columns": 6}


def test_key_points_without_visibilities_are_refused(tmp_path: Path) -> None:
    yolo(tmp_path, row=f"{BOX} 0.3 0.6 0.6 0.3 0.3 0.3 0.7 0.7")
    with pytest.raises(DataError, match=r"rows of 13 columns .*0\.txt, line 1.*kpt_shape: \[4, 2\]"):
        check(tmp_path)
    config = "train: images/train\nval: images/val\nnames: [dent, scratch]\nkpt_shape: "
    write(tmp_path / "data.yaml", config + "[4, 2]\n")
    assert check(tmp_path).counts() == {"label_extra_columns": 6}
    write(tmp_path / "data.yaml", config + "[0, 0]\n")
    assert all(i.objects[0].segmentation for i in check(tmp_path).splits["train"].images)


@pytest.mark.parametrize("row", ["0.5 0.3 0.6 0.3 0.6 0.5 0.5 0.5", "0.5 0.3 0.6 0.3 0.55 0.5"])
def test_outlines_of_as_many_corners_stay_polygons(tmp_path: Path, row: str) -> None:
    report = check(yolo(tmp_path, row=row))
    assert all(actual.segmentation for i in report.splits["train"].images for actual in i.objects)
    assert not report.counts()


# names of classes, and the file that says them


def names(report: CheckReport) -> dict[int, str]:
    actual = report.splits["train"].categories
    return dict(zip(actual.ids, actual.names, strict=True))


def test_an_empty_line_between_names_keeps_its_number(tmp_path: Path) -> None:
    assert names(check(yolo(tmp_path, classes="dent\n\nscratch\n\n"))) == {0: "dent", 2: "scratch"}
    (tmp_path / "classes.txt").unlink()
    write(tmp_path / "obj.names", "\n".join(["dent", "hole", "", "scratch", ""]))
    write(tmp_path / "obj.data", "train = images/train\nval = images/val\nnames = obj.names\n")
    assert names(check(tmp_path)) == {0: "dent", 1: "hole", 3: "scratch"}
    assert names(check(tmp_path / "obj.data")) == {0: "dent", 1: "hole", 3: "scratch"}


NAME_FILES = {
    "names.txt": "dent\nscratch\n",
    "Class-Names.TXT": "dent\nscratch\n",
    "类别.txt": "dent\nscratch\n",
    "my.names": "dent\nscratch\n",
    "labels/classes.txt": "dent\nscratch\n",
    "predefined_classes.txt": "dent\nscratch\n",
    "data.yaml": "nc: 2\nnames: [dent, scratch]\n",
    "classes.yml": "names:\n  0: dent\n  1: scratch\n",
}


@pytest.mark.parametrize("name", NAME_FILES)
def test_every_format_reads_the_same_class_files(tmp_path: Path, write_voc: Any, name: str) -> None:
    write(yolo(tmp_path / "yolo", classes="") / name, NAME_FILES[name])
    assert names(check(tmp_path / "yolo")) == {0: "dent", 1: "scratch"}
    write_image(tmp_path / "voc" / "0.png")
    write_voc(tmp_path / "voc" / "0.xml", "0.png", ("hole", 5, 6, 15, 18), ("dent", 5, 6, 15, 18))
    write(tmp_path / "voc" / name, NAME_FILES[name].replace("dent", "hole").replace("scratch", "dent"))
    assert list(names(check(tmp_path / "voc")).values()) == ["hole", "dent"]
    write_image(tmp_path / "labelme" / "0.png")
    shapes = [{"label": n, "shape_type": "rectangle", "points": [[5, 6], [15, 18]]} for n in ("hole", "dent")]
    shape = {"shapes": shapes, "imagePath": "0.png", "imageHeight": 30, "imageWidth": 40}
    write(tmp_path / "labelme" / "0.json", json.dumps(shape))
    write(tmp_path / "labelme" / name, NAME_FILES[name].replace("dent", "hole").replace("scratch", "dent"))
    assert list(names(check(tmp_path / "labelme")).values()) == ["hole", "dent"]


def test_names_of_a_yaml_file_are_as_they_are_written(tmp_path: Path) -> None:
    yolo(tmp_path, classes="")
    write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [no, null, 1.10, 2024-01-01]\n")
    assert list(names(check(tmp_path)).values()) == ["no", "null", "1.10", "2024-01-01"]


def test_a_list_of_names_may_go_on_where_another_ends(tmp_path: Path) -> None:
    yolo(tmp_path, classes="")
    write(tmp_path / "labels" / "train" / "classes.txt", "dent\nscratch\n")
    write(tmp_path / "labels" / "val" / "classes.txt", "dent\nscratch\nhole\n")
    assert list(names(check(tmp_path)).values()) == ["dent", "scratch", "hole"]
    write(tmp_path / "labels" / "val" / "classes.txt", "dent\nhole\nscratch\n")
    with pytest.raises(DataError, match="expected the same class names"):
        check(tmp_path)


def test_the_yaml_file_that_is_named_is_read_and_the_others_are_listed(tmp_path: Path) -> None:
    yolo(tmp_path, classes="")
    for name, message in (("a.yaml", "[x, y]"), ("b.yaml", "[dent, scratch]"), ("old/c.yaml", "[hole]")):
        write(tmp_path / name, f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {message}\n")
    assert list(names(check(tmp_path / "b.yaml")).values()) == ["dent", "scratch"]
    report = check(tmp_path)
    assert list(names(report).values()) == ["x", "y"]
    assert files_of(report, "annotations_unused") == ["b.yaml", "c.yaml"]
    assert "a.yaml is read" in next(f.detail for f in report.findings if f.kind == "annotations_unused")


# lists of splits, and labels that cannot be read


LISTS = {
    "stems": {"train.txt": "0\n1\n2\n3\n", "val.txt": "4\n5\n"},
    "lst": {"train.lst": "0.png\n1.png\n2.png\n3.png\n", "val.lst": "4.png\n5.png\n"},
    "one column": {"train.csv": "image,n\n0,7\n1,7\n2,7\n3,7\n", "val.csv": "image,n\n4,7\n5,7\n"},
    "two columns": {"split.csv": "split;image\ntrain;0\ntrain;1\ntrain;2\ntrain;3\nvalid;4\nval;5\n"},
    "json": {"splits.json": json.dumps({"train": ["0", "1", "2", "3"], "val": ["4", "5"]})},
    "val alone": {"val.txt": "images/4.png\nimages/5.png\n"},
}


@pytest.mark.parametrize("lists", LISTS.values(), ids=LISTS)
def test_lists_of_splits_are_followed(tmp_path: Path, lists: dict[str, str]) -> None:
    for number in range(6):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
        write(tmp_path / "labels" / f"{number}.txt", f"0 {BOX}\n")
    for name, text in lists.items():
        write(tmp_path / name, text)
    report = check(tmp_path)
    sides = {split_name: sorted(i.path.stem for i in split.images) for split_name, split in report.splits.items()}
    assert sides == {"train": ["0", "1", "2", "3"], "val": ["4", "5"]}
    assert not report.counts()


def test_labels_without_an_image_are_reported(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
        write(tmp_path / "labels" / f"label_{number}.txt", f"0 {BOX}\n")
    for chosen in ("auto", "yolo"):
        with pytest.raises(DataError, match=r"3 label files and 3 images .*labels/label_0\.txt and images/0\.png"):
            check(tmp_path, data_format=chosen)


def test_polygons_in_pixels_are_recognized(tmp_path: Path) -> None:
    yolo(tmp_path, row="5 6 25 6 25 18 5 18")
    with pytest.raises(DataError, match=r"in pixels .*box_format cxcywh"):
        check(tmp_path)
    actual = check(tmp_path, box_format="cxcywh").splits["train"].images[1].objects[0].box
    assert actual == pytest.approx((5, 6, 25, 18))


@pytest.mark.parametrize(
    "row", ["684,8,273,116,0,0,0,0", "449 330 122 149 0 0 0 0 0 0", "1 2 794 247 71 174 1 1 0.9 1"]
)
def test_rows_of_other_formats_are_no_polygons(tmp_path: Path, row: str) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
        write(tmp_path / "annotations" / f"{number}.txt", f"{row}\n")
    with pytest.raises(DataError) as caught:
        check(tmp_path)
    assert "label files" not in str(caught.value)
