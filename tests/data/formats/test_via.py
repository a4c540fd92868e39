"""The VGG Image Annotator's json, csv and projects: shapes, the attribute that is the class, names without folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import ReadOptions, Source
from detrkit.data.files.unused import list_unused
from detrkit.data.formats.raw import RawDataset
from detrkit.data.formats.via import detect_via, load_via
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from tests.data.conftest import boxes, write_image

RECT = {"name": "rect", "x": 5, "y": 6, "width": 10, "height": 12}
POLYGON = {"name": "polygon", "all_points_x": [5, 15, 15], "all_points_y": [6, 6, 18]}


def region(shape: Any = RECT, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, *regions: Any, size: int = 9, **changes: Any) -> dict[str, Any]:
    row = {"filename": name, "size": size, "regions": list(regions), "file_attributes": {}} | changes
    return {f"{name}{size}": {k: v for k, v in row.items() if v != "absent"}}


def read(root: Path, **image_dirs: Path) -> CheckReport:
    """What the check makes of a data set; every file in it is used or named."""
    source = Source(FileIndex(root), ReadOptions(image_dirs={"train": None, "val": None, **image_dirs}))
    assert detect_via(source)
    splits = load_via(source)
    list_unused(source, splits.values(), "it belongs to nothing that was read")
    return check_dataset(RawDataset("via", str(root), splits, source.findings, source.notes))


def one(tmp_path: Path, *regions: Any, **changes: Any) -> CheckReport:
    """A data set with one sound image, and one with these regions."""
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    rows = entry("a.png", region(type="scratch")) | entry("b.png", *regions, **changes)
    (tmp_path / "via_region_data.json").write_text(json.dumps(rows))
    return read(tmp_path)


def names(report: CheckReport, split: str = "train") -> list[str]:
    return [image.file_name for image in report.splits[split].images]


def classes(report: CheckReport) -> list[str]:
    split = report.splits["train"]
    return [split.categories.names[o.category_id] for image in split.images for o in image.objects]


def last(report: CheckReport) -> Any:
    (actual,) = report.splits["train"].images[-1].objects
    return actual


@pytest.mark.parametrize(
    ("shape", "box", "area"),
    [
        (RECT, (5, 6, 15, 18), 120),
        (POLYGON, (5, 6, 15, 18), 60),
        ({"name": "circle", "cx": 15, "cy": 15, "r": 5}, (10, 10, 20, 20), 78.5),
        ({"name": "ellipse", "cx": 15, "cy": 15, "rx": 5, "ry": 10}, (10, 5, 20, 25), 157),
        ({"name": "ellipse", "cx": 15, "cy": 15, "rx": 5, "ry": 10, "theta": 1.5707963}, (5, 10, 25, 20), 157),
    ],
)
def test_shapes_become_boxes_and_polygons(tmp_path: Path, shape: dict[str, Any], box: Any, area: float) -> None:
    report = one(tmp_path, region(shape, type="dent"))
    assert report.counts() == {}
    assert last(report).box == pytest.approx(box, abs=1e-4)
    assert last(report).area == pytest.approx(area, rel=0.003)
    assert classes(report) == ["scratch", "dent"]


def test_version_1_has_regions_by_number_and_projects_have_more(tmp_path: Path) -> None:
    assert one(tmp_path, regions={"0": region(type="dent"), "1": region(POLYGON, type="dent")}).counts() == {}
    (tmp_path / "via_region_data.json").unlink()
    rows = entry("b.png", region(type="dent"))
    project = {"_via_settings": {}, "_via_img_metadata": rows, "_via_attributes": {}}
    (tmp_path / "via_project.json").write_text(json.dumps(project))
    report = read(tmp_path)
    assert (names(report), report.counts()) == (["b.png"], {"image_unused": 1})


def write_csv(path: Path, rows: list[tuple[str, Any, Any]], delimiter: str = ",", mark: str = "") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        columns = ["filename", "file_size", "file_attributes", "region_count", "region_id"]
        writer.writerow([*columns, "region_shape_attributes", "region_attributes"])
        for k, (name, shape, attributes) in enumerate(rows):
            cells = [c if isinstance(c, str) else json.dumps(c) for c in (shape, attributes)]
            writer.writerow([name, 9, "{}", len(rows), k, *cells])


@pytest.mark.parametrize(("delimiter", "mark"), [(",", ""), (";", ""), (",", "#")])
def test_the_csv_file_equals_the_json_file(tmp_path: Path, delimiter: str, mark: str) -> None:
    for name in ("a", "b", "c", "d"):
        write_image(tmp_path / f"{name}.png")
    rows = [("a.png", RECT, {"type": "dent"}), ("a.png", POLYGON, {"type": "hole"}), ("b.png", {}, {})]
    rows += [("c.png", "{broken", {}), ("d.png", {"name": "rect", "x": 1}, "")]
    write_csv(tmp_path / "via.csv", rows, delimiter, mark)
    report = read(tmp_path)
    assert (names(report), classes(report)) == (["a.png", "b.png"], ["dent", "hole"])
    assert report.counts() == {"json_malformed": 2}
    assert "1 of 2 images have no region" in "".join(report.notes)


def test_a_project_and_its_exports_are_read_once(tmp_path: Path) -> None:
    one(tmp_path, region(type="dent"))
    rows = json.loads((tmp_path / "via_region_data.json").read_text())
    (tmp_path / "via_project.json").write_text(json.dumps({"_via_img_metadata": rows}))
    write_csv(tmp_path / "via.csv", [("a.png", RECT, {"type": "scratch"})])
    report = read(tmp_path)
    assert (len(boxes(report)), report.counts()) == (2, {})
    assert len([note for note in report.notes if "repeats the regions of another VIA file" in note]) == 2
    write_csv(tmp_path / "via.csv", [("a.png", POLYGON, {"type": "scratch"})])
    report = read(tmp_path)
    assert (len(boxes(report)), report.counts()) == (3, {"image_listed_twice": 1})


@pytest.mark.parametrize(
    ("attributes", "expected", "note"),
    [
        ([{"type": "dent"}], ["scratch", "dent"], ""),
        ([{"type": "dent", "id": 1}, {"type": "hole", "id": 2}], ["scratch", "dent", "hole"], "'id' is not used"),
        ([{"note": "x", "type": "dent"}], ["scratch", "dent"], "(2 of 2 regions have it); 'note' is not used"),
        ([{"type": {"dent": True, "hole": False}}], ["scratch", "dent"], ""),
        ([{"type": {"dent": True, "hole": True}}], ["scratch", "dent", "hole"], "an object of each"),
        ([{"type": 7}], ["scratch", "7"], ""),
        ([{"type": ["dent"]}], ["scratch", "dent"], ""),
    ],
)
def test_the_attribute_that_is_the_class(
    tmp_path: Path, attributes: list[dict[str, Any]], expected: list[str], note: str
) -> None:
    shapes = [RECT | {"x": 5 + k} for k in range(len(attributes))]
    report = one(tmp_path, *(region(s, **a) for s, a in zip(shapes, attributes, strict=True)))
    assert (classes(report), report.counts()) == (expected, {})
    assert note in "".join(report.notes)
    assert bool(note) == bool(report.notes)


def test_regions_without_attributes_are_of_one_class(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "via.json").write_text(json.dumps(entry("a.png", region(), region(POLYGON))))
    report = read(tmp_path)
    assert classes(report) == ["object", "object"]
    assert "all objects are of the class 'object'" in "".join(report.notes)


def test_a_region_without_the_class_is_named(tmp_path: Path) -> None:
    report = one(tmp_path, region(POLYGON, type="dent"), region(type=""))
    assert report.counts() == {"category_unknown": 1, "image_object_lost": 1, "category_unused": 1}
    assert names(report) == ["a.png"]


def test_points_and_lines_are_no_objects(tmp_path: Path) -> None:
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    report = one(tmp_path, region(line, type="a"), region({"name": "point", "cx": 1, "cy": 1}), region({"name": [1]}))
    assert report.counts() == {"shape_no_object": 3, "image_shapes_unusable": 1}
    assert names(report) == ["a.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"regions": "absent"},
        {"regions": None},
        {"regions": [3]},
        {"regions": [{"shape_attributes": 3}]},
        {"regions": [region({"name": "rect", "x": 1})]},
        {"regions": [region({"name": "rect", "x": [1], "y": 1, "width": "a", "height": 1})]},
        {"regions": [region({"name": "polygon", "all_points_x": 5, "all_points_y": [1]})]},
        {"regions": [region({"name": "polygon", "all_points_x": [1, None], "all_points_y": [1, 2]})]},
        {"regions": [region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]})]},
        {"regions": [region({"name": "polygon", "all_points_x": [], "all_points_y": []})]},
        {"regions": [region({"name": "circle", "cx": 10**400, "cy": 1, "r": 1})]},
    ],
)
def test_unreadable_shapes_leave_their_image_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    report = one(tmp_path, **changes)
    assert report.counts() == {"json_malformed": 1}
    assert names(report) == ["a.png"]


@pytest.mark.parametrize("row", [3, None, [], {}, {"filename": 7}, {"filename": " "}, {"filename": "a\0.png"}])
def test_an_entry_without_a_file_name(tmp_path: Path, row: Any) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "via.json").write_text(json.dumps(entry("a.png", region(type="dent")) | {"x": row}))
    assert read(tmp_path).counts() == {"json_malformed": 1}


def test_odd_numbers(tmp_path: Path) -> None:
    shapes = [RECT | {"x": "5"}, RECT | {"width": -3}, {"name": "circle", "cx": 9, "cy": 9, "r": 0}]
    report = one(tmp_path, *(region(shape, type="\ud800") for shape in shapes))
    assert report.counts() == {"number_as_text": 1, "corners_swapped": 1, "box_empty": 1}


@pytest.mark.parametrize(
    ("file_name", "image_name", "finding"),
    [
        ("b.png", "images/deep/b.png", ""),
        ("https://host.org/data/b.png?token=1", "images/b.png", "image_name_leaves_folder"),
        ("b.jpg", "b.png", "image_other_ending"),
        ("C:\\set\\B.PNG", "b.png", "image_name_leaves_folder"),
        ("c.png", "b.png", "image_missing"),
    ],
)
def test_the_image_of_an_entry(tmp_path: Path, file_name: str, image_name: str, finding: str) -> None:
    write_image(tmp_path / image_name)
    write_image(tmp_path / "a.png")
    rows = entry("a.png", region(type="dent")) | entry(file_name, region(type="dent"))
    (tmp_path / "via.json").write_text(json.dumps(rows))
    report = read(tmp_path)
    assert (image_name in names(report)) == (finding != "image_missing")
    assert set(report.counts()) - {"image_unused"} == ({finding} if finding else set())


def test_images_of_one_name_differ_by_their_bytes(tmp_path: Path) -> None:
    one_, two = (write_image(tmp_path / f"{split_name}/a.png", width) for split_name, width in (("x", 40), ("y", 50)))
    rows = entry("a.png", region(type="dent"), size=two.stat().st_size)
    rows |= entry("a.png", size=one_.stat().st_size) | entry("a.png", region(type="dent"), size=1)
    (tmp_path / "via.json").write_text(json.dumps(rows))
    report = read(tmp_path)
    assert [(i.file_name, len(i.objects)) for i in report.splits["train"].images] == [("y/a.png", 1), ("x/a.png", 0)]
    assert report.counts() == {"image_ambiguous": 1}


def test_splits_follow_folders_and_file_names(tmp_path: Path) -> None:
    for split_name in ("train", "val", "test"):
        write_image(tmp_path / split_name / f"{split_name}.png")
        rows = entry(f"{split_name}.png", region(type="dent"))
        where = tmp_path / split_name / "via_region_data.json" if split_name != "val" else tmp_path / "via_val.json"
        where.write_text(json.dumps(rows))
    report = read(tmp_path)
    assert (names(report), names(report, "val")) == (["train/train.png"], ["val/val.png"])
    assert report.counts() == {"set_aside": 1}


def test_named_folders_of_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed, split_name in enumerate(("train", "val")):
        write_image(tmp_path / f"{split_name}_images" / "a.png", seed=seed)
        (data / split_name).mkdir(parents=True)
        (data / split_name / "via.json").write_text(json.dumps(entry("a.png", region(type="dent"))))
    report = read(data, train=tmp_path / "train_images", val=tmp_path / "val_images")
    assert (len(report.splits["train"]), len(report.splits["val"])) == (1, 1)
    assert report.counts() == {"leakage_name": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"_via_img_metadata": {"a": ', "found a mistake at line 1"),
        ('{"_via_img_metadata": 3}', "expected images with filename and regions"),
        ('{"_via_img_metadata": {}}', "found none with images"),
        ('{"_via_img_metadata": {"a": 3}}', "found none that can be used"),
        ('{"_via_img_metadata": ' + "[" * 100_000, "found something else|found a mistake"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "via.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_files_of_others_are_not_vias(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.json").write_text('{"filename": 1, "regions": []}')
    assert detect_via(Source(FileIndex(tmp_path))) == ""
