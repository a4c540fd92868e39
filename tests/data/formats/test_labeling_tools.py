"""The own exports of CVAT and Label Studio: shapes, classes, splits, what is left out, files of other programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.data.formats.cvat_writer import CvatWriter
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import DataError
from detrkit.ops.masks import decode_segmentation
from detrkit.structures import Categories
from tests.data.conftest import write_image as write_noise

HEIGHT, WIDTH = 6, 8
MASK = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
MASK[1:4, 2:7] = MASK[4, 3] = True
PACKED = [
    *(0, 0, 0, 192, 57, 27, 254, 39, 0, 194, 127, 246, 192, 48, 159, 253, 176, 12, 39, 255, 124, 2, 63, 252, 94, 0)
]
"""MASK as mask2rle of label_studio_sdk packs it."""


def write_image(path: Path, size: tuple[int, int] = (64, 96)) -> None:
    write_noise(path, width=size[1], height=size[0])


def read(root: Path, form: str) -> CheckReport:
    raw = open_dataset(root, val_fraction=0)
    assert raw.format == form
    return check_dataset(raw)


def objects(report: CheckReport, split: str = "train") -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    kept = report.splits[split]
    return {
        Path(image.file_name).name: [
            (kept.categories.names[kept.categories.ids.index(obj.category_id)], tuple(np.round(obj.box, 3).tolist()))
            for obj in image.objects
        ]
        for image in kept.images
    }


def kinds(report: CheckReport) -> dict[str, int]:
    return {kind: count for kind, count in report.counts().items() if not kind.startswith("image_gray")}


# --- CVAT ------------------------------------------------------------------------------------------------------------


def cvat(root: Path, images: str, labels: str = "pit scratch", file: str = "annotations.xml") -> Path:
    names = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in labels.split())
    head = f"<version>1.1</version><meta><job><labels>{names}</labels></job></meta>"
    root.mkdir(exist_ok=True)
    (root / file).write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{head}{images}</annotations>')
    return root


def image(name: str, *shapes: str, **more: str) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<image id="0" name="{name}" width="96" height="64"{extra}>{"".join(shapes)}</image>'


BOX = '<box label="scratch" source="manual" occluded="0" xtl="4.5" ytl="8" xbr="24.5" ybr="20" z_order="0"></box>'


def test_cvat_shapes_become_boxes_and_outlines(tmp_path: Path) -> None:
    shapes = [
        BOX,
        '<polygon label="pit" points="10,10;30,10;30,30"><attribute name="deep">true</attribute></polygon>',
        '<ellipse label="pit" cx="50" cy="30" rx="10" ry="4" rotation="90"/>',
        '<box label="pit" xtl="40" ytl="20" xbr="60" ybr="24" rotation="90"/>',
        '<points label="pit" points="1,1;2,2"/>',
        '<polyline label="pit" points="1,1;2,2"/>',
    ]
    cvat(tmp_path, image("a.png", *shapes) + image("b.png"))
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "images" / "b.png")
    report = read(tmp_path, "cvat")
    assert report.splits["train"].categories.names == ("pit", "scratch")
    assert objects(report)["a.png"] == [
        ("scratch", (4.5, 8, 24.5, 20)),
        ("pit", (10, 10, 30, 30)),
        ("pit", (46, 20, 54, 40)),
        ("pit", (48, 12, 52, 32)),
    ]
    assert objects(report)["b.png"] == []
    assert kinds(report)["shape_no_object"] == 2
    assert "1 of 2 images have no object; they are used as such" in report.notes
    polygon = report.splits["train"].images[0].objects[1].segmentation
    assert polygon == [[10, 10, 30, 10, 30, 30]]


def test_cvat_projects_state_the_split_of_an_image(tmp_path: Path) -> None:
    cvat(tmp_path, image("a.png", BOX, subset="Train") + image("a.png", BOX, subset="Validation"))
    for split in ("Train", "Validation"):
        write_image(tmp_path / "images" / split / "a.png")
    report = read(tmp_path, "cvat")
    assert {name: split.images[0].path.parent.name for name, split in report.splits.items()} == {
        "train": "Train",
        "val": "Validation",
    }


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ('<box label="pit" xtl="4" ytl="8" xbr="x" ybr="20"/>', "expected numbers for xtl, ytl, xbr, ybr"),
        ('<polygon label="pit" points="10,10;30"/>', "expected points x,y;x,y"),
        (
            '<mask label="pit" rle="3, 4" left="0" top="0" width="4" height="4"/>',
            "of 4 x 4 pixels, found 7",
        ),
        ('<mask label="pit" rle="16" left="94" top="0" width="4" height="4"/>', "expected a mask inside the image"),
    ],
)
def test_an_image_with_an_unreadable_shape_is_left_out(tmp_path: Path, shape: str, fault: str) -> None:
    cvat(tmp_path, image("a.png", BOX, shape) + image("b.png", BOX) + image("lost.png", BOX))
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    report = read(tmp_path, "cvat")
    assert list(objects(report)) == ["b.png"]
    assert kinds(report) == {"category_unused": 1, "xml_malformed": 1, "image_missing": 1}
    (finding,) = [each for each in report.findings if each.kind == "xml_malformed"]
    assert fault in finding.detail


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("<annotations><version>1.1</version><image", "found a mistake"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations><version>1.1</version></annotations>', "document type definition"),
        (
            '<annotations><version>1.1</version><track id="0" label="a"></track></annotations>',
            "tracks of CVAT",
        ),
        ("<annotations><version>1.1</version></annotations>", "found none that can be used"),
    ],
)
def test_unusable_files_of_cvat_are_explained(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "annotations.xml").write_text(content)
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=sentence):
        open_dataset(tmp_path)


def test_labels_for_cvat_come_back_equal(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (HEIGHT, WIDTH))
    polygon = [[1.0, 1.0, 6.0, 1.0, 6.0, 4.5]]
    from torch import from_numpy

    from detrkit.ops.masks import encode_rle

    hole = MASK.copy()
    hole[2, 4] = False
    rows = [
        ObjectRecord(1, 7, (0.5, 1.0, 6.25, 4.0), None, False, None, ""),
        ObjectRecord(2, 3, (1.0, 1.0, 6.0, 4.5), None, False, polygon, ""),
        ObjectRecord(3, 3, (2.0, 1.0, 7.0, 5.0), None, False, encode_rle(from_numpy(hole)), ""),
    ]
    writer = CvatWriter(tmp_path / "cvat", Categories((3, 7), ("pit", "dent")), masks=True)
    writer.add(ImageRecord(1, tmp_path / "a.png", "a.png", HEIGHT, WIDTH, rows), "train")
    writer.close()
    report = read(tmp_path / "cvat", "cvat")
    assert report.splits["train"].categories.names == ("pit", "dent")
    (record,) = report.splits["train"].images
    assert [obj.box for obj in record.objects] == [obj.box for obj in rows]
    assert record.objects[0].segmentation is None
    assert record.objects[1].segmentation == polygon
    assert (decode_segmentation(record.objects[2].segmentation, HEIGHT, WIDTH).numpy() == hole).all()


@pytest.mark.filterwarnings("ignore")
def test_what_datumaro_writes_for_cvat_is_read(tmp_path: Path) -> None:
    dm = pytest.importorskip("datumaro", reason="datumaro is not installed")
    write_image(tmp_path / "a.png")
    shapes = [dm.Bbox(4, 8, 20, 12, label=1), dm.Polygon([10, 10, 30, 10, 30, 30], label=0)]
    item = dm.DatasetItem("a", subset="train", media=dm.Image.from_file(str(tmp_path / "a.png")), annotations=shapes)
    dm.Dataset.from_iterable([item], categories=["pit", "scratch"]).export(
        str(tmp_path / "out"), "cvat", save_media=True
    )
    report = read(tmp_path / "out", "cvat")
    assert objects(report) == {"a.png": [("scratch", (4, 8, 24, 20)), ("pit", (10, 10, 30, 30))]}


# --- Label Studio ----------------------------------------------------------------------------------------------------


def region(kind: str, value: dict[str, Any], label: str = "pit", **more: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH * 10, "original_height": HEIGHT * 10, "image_rotation": 0}
    return {"type": kind, "from_name": "label", "to_name": "image", **size, "value": value | {kind: [label]}} | more


RECTANGLE = {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 0}


def task(name: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "data": {"text": "a note", "image": f"/data/upload/1/{name}"},
        "annotations": list(annotations),
    } | more


def annotation(*regions: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "result": list(regions), **more}


def studio(root: Path, rows: Any, *images: str, size: tuple[int, int] = (HEIGHT * 10, WIDTH * 10)) -> Path:
    root.mkdir(exist_ok=True)
    (root / "project-1-at-2026-01-02.json").write_text(json.dumps(rows))
    for name in images:
        write_image(root / "images" / name, size)
    return root


def test_label_studio_regions_become_boxes_and_outlines(tmp_path: Path) -> None:
    regions = [
        region("rectanglelabels", RECTANGLE, "scratch"),
        region("polygonlabels", {"points": [[10, 10], [50, 10], [50, 50]], "closed": True}),
        region("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 0}),
        region("rectanglelabels", {"x": 50, "y": 50, "width": 25, "height": 10, "rotation": 90}),
        region("keypointlabels", {"x": 50, "y": 50, "width": 0.3}),
        {"type": "choices", "from_name": "quality", "to_name": "image", "value": {"choices": ["good"]}},
    ]
    rows = [task("0a1b2c3d-a.png", annotation(*regions)), task("b.png", annotation(), id=6)]
    report = read(studio(tmp_path, rows, "a.png", "b.png"), "label_studio")
    assert objects(report)["a.png"] == [
        ("scratch", (8, 12, 48, 30)),
        ("pit", (8, 6, 40, 30)),
        ("pit", (20, 24, 60, 36)),
        ("pit", (34, 30, 40, 50)),  # turned clockwise about its upper left corner
    ]
    assert objects(report)["b.png"] == []
    assert kinds(report)["shape_no_object"] == 2


def test_label_studio_brush_masks_are_unpacked(tmp_path: Path) -> None:
    brush = region("brushlabels", {"format": "rle", "rle": PACKED}, original_width=WIDTH, original_height=HEIGHT)
    report = read(studio(tmp_path, [task("a.png", annotation(brush))], "a.png", size=(HEIGHT, WIDTH)), "label_studio")
    assert objects(report) == {"a.png": [("pit", (2, 1, 7, 5))]}
    (obj,) = report.splits["train"].images[0].objects
    assert (decode_segmentation(obj.segmentation, HEIGHT, WIDTH).numpy() == MASK).all()
    converter = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    assert converter.mask2rle(MASK.astype(np.uint8) * 255) == PACKED


def test_json_min_has_a_row_per_annotation(tmp_path: Path) -> None:
    size = {"original_width": WIDTH * 10, "original_height": HEIGHT * 10}
    first = {
        "id": 1,
        "image": "/data/local-files/?d=some/a%20b.png",
        "label": [RECTANGLE | size | {"rectanglelabels": ["pit"]}],
    }
    rows = [first | {"annotator": 1, "annotation_id": 3}, first | {"annotation_id": 4}]
    report = read(studio(tmp_path, rows, "a b.png"), "label_studio")
    assert objects(report) == {"a b.png": [("pit", (8, 12, 48, 30))]}
    assert any("1 further annotations of tasks" in note for note in report.notes)


def test_of_several_annotations_one_is_used(tmp_path: Path) -> None:
    old, new, truth, canceled = (
        annotation(region("rectanglelabels", RECTANGLE, name), updated_at=f"2026-01-0{day}T00:00:00Z", **more)
        for name, day, more in (
            ("old", 1, {}),
            ("new", 3, {}),
            ("truth", 2, {"ground_truth": True}),
            ("canceled", 4, {"was_cancelled": True}),
        )
    )
    rows = [
        task("a.png", new, old, canceled),
        task("b.png", truth, new, id=6),
        task("c.png", canceled, id=7),
        task("d.png", id=8, predictions=[annotation(region("rectanglelabels", RECTANGLE))]),
    ]
    report = read(studio(tmp_path, rows, "a.png", "b.png", "c.png", "d.png"), "label_studio")
    assert {name: [label for label, _ in found] for name, found in objects(report).items()} == {
        "a.png": ["new"],
        "b.png": ["truth"],
    }
    assert any("2 further annotations" in note for note in report.notes)
    assert any("2 tasks without an annotation are left out" in note for note in report.notes)


def test_labels_beside_a_shape_of_the_same_region_are_its_class(tmp_path: Path) -> None:
    shape = region("rectangle", RECTANGLE, id="r1")
    shape["value"].pop("rectangle")
    label = {"id": "r1", "type": "labels", "value": RECTANGLE | {"labels": ["dent"]}}
    report = read(studio(tmp_path, [task("a.png", annotation(shape, label))], "a.png"), "label_studio")
    assert objects(report) == {"a.png": [("dent", (8, 12, 48, 30))]}


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (
            region("rectanglelabels", {"x": 1, "y": 2, "width": "w", "height": 3}),
            "expected numbers for x, y, width, height",
        ),
        (region("rectanglelabels", RECTANGLE, original_width=None), "expected original_width and original_height"),
        (region("polygonlabels", {"points": [[1]]}), "expected a list of points"),
        (region("brushlabels", {"rle": PACKED}), "expected a mask of 80 x 60 pixels, found one of 48 pixels"),
        (region("brushlabels", {"rle": [1, 2]}), "expected a packed mask"),
        (region("rectanglelabels", RECTANGLE, image_rotation=90), "the image was turned in Label Studio"),
    ],
)
def test_a_task_with_an_unreadable_region_is_left_out(tmp_path: Path, bad: dict[str, Any], fault: str) -> None:
    good = region("rectanglelabels", RECTANGLE)
    rows = [task("a.png", annotation(good, bad)), task("b.png", annotation(good), id=6), task("", annotation(), id=7)]
    report = read(studio(tmp_path, rows, "a.png", "b.png"), "label_studio")
    assert list(objects(report)) == ["b.png"]
    details = [each.detail for each in report.findings if each.kind == "json_malformed"]
    assert any(fault in detail for detail in details)
    assert any("no image is named" in detail for detail in details)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_exports_of_label_studio_agree_with_each_other(tmp_path: Path, form: str) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk is not installed")
    rows = [
        task(
            "0a1b2c3d-a.png",
            annotation(region("rectanglelabels", RECTANGLE), region("rectanglelabels", RECTANGLE | {"x": 40}, "dent")),
        )
    ]
    own = objects(read(studio(tmp_path / "own", rows, "a.png"), "label_studio"))
    control = '<RectangleLabels name="label" toName="image"><Label value="dent"/><Label value="pit"/></RectangleLabels>'
    config = f'<View><Image name="image" value="$image"/>{control}</View>'
    made = converter.Converter(config, str(tmp_path), download_resources=False)
    other = tmp_path / form
    export = made.convert_to_coco if form == "coco" else made.convert_to_yolo
    export(str(tmp_path / "own" / "project-1-at-2026-01-02.json"), str(other), is_dir=False)
    write_image(other / "images" / "0a1b2c3d-a.png", (HEIGHT * 10, WIDTH * 10))
    assert sorted(next(iter(objects(read(other, form)).values()))) == sorted(own["a.png"])


def test_the_rotation_of_a_rectangle_keeps_its_area(tmp_path: Path) -> None:
    turned = region("rectanglelabels", RECTANGLE | {"width": 20, "height": 10, "rotation": 30})
    report = read(studio(tmp_path, [task("a.png", annotation(turned))], "a.png"), "label_studio")
    ((ring,),) = [obj.segmentation for obj in report.splits["train"].images[0].objects]
    corners = np.array(ring).reshape(4, 2)
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    assert sides == pytest.approx([16, 6, 16, 6])
    assert corners[1] - corners[0] == pytest.approx([16 * math.cos(math.pi / 6), 16 * math.sin(math.pi / 6)])
