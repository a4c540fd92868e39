"""Boxes and class ids that a whole file writes in another way than its format has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.cli import main
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.rotated import enclosing_box
from detrkit.data.validation.box_formats import BOX_FORMATS, FORMAT_OF_FORM
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from tests.data.conftest import boxes, only, write_image

WIDTH, HEIGHT = 96, 72
Corners = tuple[float, float, float, float]


def some_boxes(images: int = 8) -> list[list[Corners]]:
    """Three boxes per image, anywhere in it, of whole even pixels."""
    rng = np.random.default_rng(3)
    actual = []
    for _ in range(images):
        sides = rng.integers(3, 20, (3, 2)) * 2
        places = (rng.random((3, 2)) * ((WIDTH, HEIGHT) - sides)).astype(int)
        actual.append([(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(places, sides, strict=True)])
    return actual


def written(box: Corners, name: str) -> list[float]:
    """The four numbers of a box in a format."""
    x1, y1, x2, y2 = box
    numbers = {
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "xyxy": box,
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
        "yxhw": (y1, x1, y2 - y1, x2 - x1),
        "yxyx": (y1, x1, y2, x2),
    }[name.partition("_")[0]]
    units = {"": 1, "relative": 1, "percent": 100}[name.partition("_")[2]]
    sides = (1, 1, 1, 1)
    if units != 1 or "_relative" in name:
        sides = (HEIGHT, WIDTH, HEIGHT, WIDTH) if name.startswith("y") else (WIDTH, HEIGHT, WIDTH, HEIGHT)
    return [units * value / side for value, side in zip(numbers, sides, strict=True)]


def make(root: Path, data_format: str, name: str, gt: list[list[Corners]], **extra: Any) -> Path:
    """A data set of a format whose boxes are written in the way `name`."""
    rows: list[dict[str, Any]] = []
    for number, actual in enumerate(gt):
        write_image(root / "images" / f"{number}.png", WIDTH, HEIGHT, seed=number)
        numbers = [written(box, name) for box in actual]
        if data_format == "yolo":
            lines = "\n".join(f"{extra.get('label', 0)} " + " ".join(f"{v:.7f}" for v in row) for row in numbers)
            (root / "labels").mkdir(exist_ok=True)
            (root / "labels" / f"{number}.txt").write_text(lines)
        elif data_format == "voc":
            tags = [
                "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), r, strict=True))
                for r in numbers
            ]
            objects = "".join(f"<object><name>dent</name><bndbox>{tag}</bndbox></object>" for tag in tags)
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            (root / "images" / f"{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        else:
            rows += [
                {"id": len(rows) + k, "image_id": number, "category_id": 1, "bbox": row, "iscrowd": 0} | extra
                for k, row in enumerate(numbers, start=1)
            ]
    if data_format == "coco":
        images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(len(gt))]
        content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "dent"}]}
        (root / "train.json").write_text(json.dumps(content))
    elif data_format == "yolo":
        (root / "classes.txt").write_text("dent\n")
    return root


def found_boxes(root: Path, **options: Any) -> list[Corners]:
    report = check_dataset(open_dataset(root, val_fraction=0, **options))
    return [obj.box for image in report.splits["train"].images for obj in image.objects]


MISTAKES = [
    *(("coco", name) for name in ("xyxy", "cxcywh", "yxhw", "xywh_relative", "xyxy_relative", "cxcywh_relative")),
    *(("voc", name) for name in ("xywh", "cxcywh", "yxyx", "xyxy_relative", "cxcywh_relative")),
    *(("yolo", name) for name in ("cxcywh", "xyxy", "xywh_relative", "xyxy_relative", "cxcywh_percent")),
]


@pytest.mark.parametrize(("data_format", "name"), MISTAKES)
def test_boxes_written_in_another_way_are_named_and_can_be_read(tmp_path: Path, data_format: str, name: str) -> None:
    gt = some_boxes()
    root = make(tmp_path, data_format, name, gt)
    own = {"coco": "xywh", "voc": "xyxy", "yolo": "cxcywh_relative"}[data_format]
    with pytest.raises(DataError, match=rf"as the first, 0 as the second.*box_format {name} or box_format {own}$"):
        check_dataset(open_dataset(root))
    expected = [box for actual in gt for box in actual]
    assert np.allclose(found_boxes(root, box_format=name), expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(BOX_FORMATS))
def test_every_box_format_is_read_as_stated(tmp_path: Path, name: str) -> None:
    gt = some_boxes(2)
    expected = [box for actual in gt for box in actual]
    for data_format in ("coco", "voc", "yolo"):
        root = make(tmp_path / data_format, data_format, name, gt)
        assert np.allclose(found_boxes(root, box_format=name), expected, atol=1e-4)


@pytest.mark.parametrize("data_format", ["coco", "voc", "yolo"])
def test_boxes_as_the_format_has_them_raise_no_doubt(tmp_path: Path, data_format: str) -> None:
    own = {"coco": "xywh", "voc": "xyxy", "yolo": "cxcywh_relative"}[data_format]
    large = [[(2.0, 3.0, 95.0, 71.0)], [(0.0, 0.0, 96.0, 72.0)], [(5.0, 1.0, 90.0, 73.5)]] * 4
    corner = [[(4.0 + k, 5.0, 30.0 + k, 25.0)] for k in range(12)]
    for number, gt in enumerate((some_boxes(12), large, corner)):
        root = make(tmp_path / str(number), data_format, own, gt)
        counts = check_dataset(open_dataset(root, val_fraction=0)).counts()
        assert not {"boxes_implausible", "classes_misnumbered"} & set(counts)


def test_areas_decide_where_no_box_leaves_its_image(tmp_path: Path) -> None:
    """Corners of objects near the upper left, as case 43 has them."""
    gt = [[(10.0 + k, 8.0, 30.0 + 2 * k, 20.0 + k)] for k in range(8)]
    root = make(tmp_path, "coco", "xyxy", gt)
    content = json.loads((root / "train.json").read_text())
    for row, ((x1, y1, x2, y2),) in zip(content["annotations"], gt, strict=True):
        row["area"] = (x2 - x1) * (y2 - y1)
    (root / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="0 of 8 boxes have the area listed for them as the first, 8 as the second"):
        found_boxes(root)
    for row, ((x1, y1, x2, y2),) in zip(content["annotations"], gt, strict=True):
        row |= {"area": 0, "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
    (root / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="0 of 8 boxes have the extent of their polygons as the first, 8 as the second"):
        found_boxes(root)
    report = check_dataset(open_dataset(root, val_fraction=0, box_format="xyxy"))
    assert boxes(report) == [box for (box,) in gt]
    assert all(obj.area == 0.5 or obj.area > 1 for image in report.splits["train"].images for obj in image.objects)


def test_percent_of_large_images(tmp_path: Path) -> None:
    gt = [
        [(x / WIDTH * 100, y / HEIGHT * 100, u / WIDTH * 100, v / HEIGHT * 100) for x, y, u, v in actual]
        for actual in some_boxes()
    ]
    root = make(tmp_path, "voc", "xyxy", gt)
    for number in range(len(gt)):
        write_image(root / "images" / f"{number}.png", 640, 480, seed=number)
        path = root / "images" / f"{number}.xml"
        path.write_text(path.read_text().replace(">96<", ">640<").replace(">72<", ">480<"))
    with pytest.raises(DataError, match="looks like x1, y1, x2, y2 in percent"):
        found_boxes(root)
    x1, y1, x2, y2 = gt[0][0]
    assert found_boxes(root, box_format="xyxy_percent")[0] == pytest.approx((6.4 * x1, 4.8 * y1, 6.4 * x2, 4.8 * y2))


def test_polygons_are_rescaled_with_their_boxes(tmp_path: Path) -> None:
    gt = some_boxes(2)
    root = make(tmp_path / "coco", "coco", "xywh_relative", gt, area=0.01)
    content = json.loads((root / "train.json").read_text())
    for row, (x1, y1, x2, y2) in zip(content["annotations"], [box for actual in gt for box in actual], strict=True):
        across, down = (WIDTH, HEIGHT) if row["id"] % 2 else (1, 1)  # half of them in pixels already
        row["segmentation"] = [[x1 / across, y1 / down, x2 / across, y1 / down, x2 / across, y2 / down]]
    (root / "train.json").write_text(json.dumps(content))
    report = check_dataset(open_dataset(root, val_fraction=0, box_format="xywh_relative"))
    for image in report.splits["train"].images:
        for obj in image.objects:
            x1, y1, x2, y2 = obj.box
            assert obj.segmentation[0] == pytest.approx([x1, y1, x2, y1, x2, y2])
            assert obj.area is not None
            assert 1 < obj.area <= 1.02 * (x2 - x1) * (y2 - y1)

    root = tmp_path / "yolo"
    write_image(root / "images" / "0.png", WIDTH, HEIGHT)
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("0 10 20 50 20 50 60\n0 1 2 3 2 3 4 1 4")
    (root / "data.yaml").write_text("train: images\nnames: [dent]\n")
    report = check_dataset(open_dataset(root, val_fraction=0, box_format="xyxy"))  # a polygon is none of corners
    assert boxes(report) == [pytest.approx((10, 20, 50, 60)), pytest.approx((1, 2, 3, 4))]
    assert report.splits["train"].images[0].objects[0].segmentation == [pytest.approx([10, 20, 50, 20, 50, 60])]


def test_boxes_that_fit_no_image_in_any_way(tmp_path: Path) -> None:
    gt = [[(x + 300, y - 200, u + 300, v - 200) for x, y, u, v in actual] for actual in some_boxes()]
    root = make(tmp_path, "coco", "xywh", gt)
    with pytest.raises(
        DataError, match="24 of 24 leave their image or have no size, and that no other way to read them"
    ):
        found_boxes(root)
    for row in gt[2:]:
        row[:] = [(10.0, 10.0, 30.0, 30.0)]
    make(tmp_path, "coco", "xywh", gt)
    assert check_dataset(open_dataset(root, val_fraction=0)).counts()["boxes_implausible"] == 1
    assert len(found_boxes(root, box_format="xywh")) == 6


def test_a_box_format_has_to_be_one(tmp_path: Path) -> None:
    root = make(tmp_path, "coco", "xywh", some_boxes(2))
    with pytest.raises(ConfigError, match=r"box_format must be auto, xywh, .*found 'corners'"):
        found_boxes(root, box_format="corners")
    mask = write_image(tmp_path / "m" / "masks" / "0.png", mode="1")
    mask.replace(write_image(tmp_path / "m" / "images" / "0.png").parent.parent / "masks" / "0.png")
    with pytest.raises(ConfigError, match="computed from masks"):
        found_boxes(tmp_path / "m", box_format="xyxy", data_format="masks")


def test_check_shows_all_and_fails_where_training_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path, "coco", "xyxy", some_boxes())
    assert main(["check", str(root)]) == 2
    shown = capsys.readouterr()
    assert "Objects per class" in shown.out
    assert "looks like x1, y1, x2, y2 in pixels" in shown.out
    assert "--box_format xyxy or --box_format xywh" in shown.err
    assert main(["check", str(root), "--box_format", "xyxy"]) == 0
    shown = capsys.readouterr()
    assert "boxes are read as x1, y1, x2, y2 in pixels (--box_format xyxy)" in " ".join(shown.out.split())
    assert "boxes_implausible" not in shown.out


def test_class_ids_counted_from_another_number(tmp_path: Path) -> None:
    root = make(tmp_path / "yolo", "yolo", "cxcywh_relative", some_boxes(), label=1)
    with pytest.raises(
        DataError, match=r"expected class ids 0 to 0 .*found 1 alone \(class 1 24 times\), as if .* at 1"
    ):
        found_boxes(root)
    (root / "classes.txt").write_text("dent\nscratch\n")
    assert len(found_boxes(root)) == 24
    root = make(tmp_path / "coco", "coco", "xywh", some_boxes(), category_id=0)
    with pytest.raises(DataError, match="expected class ids 1 to 1"):
        found_boxes(root)
    report = check_dataset(open_dataset(make(tmp_path / "c", "coco", "xywh", some_boxes())))
    assert "classes_misnumbered" not in report.counts()


def test_exchanged_corners_are_put_in_order(tmp_path: Path, write_voc: Callable[..., Path]) -> None:
    write_image(tmp_path / "a.png")
    good = [("dent", k, k, k + 9, k + 9) for k in range(5)]
    write_voc(tmp_path / "a.xml", "a.png", ("dent", 25, 6, 5, 18), ("dent", 5, 28, 15, 20), *good)
    report = check_dataset(open_dataset(tmp_path, val_fraction=0))
    only(report, "corners_swapped", 2)
    assert boxes(report)[:2] == [(5, 6, 25, 18), (5, 20, 15, 28)]


def test_rotated_rectangles_get_the_box_around_them(coco: Any, tmp_path: Path) -> None:
    assert enclosing_box((0, 0, 4, 2), 90) == pytest.approx((1, -1, 3, 3))
    assert enclosing_box((0, 0, 2, 2), -45) == pytest.approx((1 - 2**0.5, 1 - 2**0.5, 1 + 2**0.5, 1 + 2**0.5))
    coco.train["annotations"][0]["attributes"] = {"occluded": False, "rotation": 90.0}
    coco.train["annotations"][1]["attributes"] = {"rotation": 0.0, "color": "red"}
    report = coco.check()
    only(report, "box_rotated")
    assert boxes(report) == [pytest.approx((4, 7, 16, 17)), (20, 10, 28, 18)]

    voc = "<annotation><object><name>dent</name>{}</object></annotation>"
    box = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>15</xmax><ymax>18</ymax></bndbox>"
    cvat = f"{box}<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    rolabelimg = f"<robndbox><cx>10</cx><cy>12</cy><w>10</w><h>12</h><angle>{np.pi / 2}</angle></robndbox>"
    for name, text in (("a", cvat), ("b", rolabelimg)):
        write_image(tmp_path / "voc" / f"{name}.png")
        (tmp_path / "voc" / f"{name}.xml").write_text(voc.format(text))
    report = check_dataset(open_dataset(tmp_path / "voc", val_fraction=0))
    assert report.counts() == {"image_size_absent": 2, "box_rotated": 1, "box_around_outline": 1}
    assert boxes(report) == [pytest.approx((4, 7, 16, 17))] * 2


def test_listed_sizes_with_width_and_height_exchanged_are_named(coco: Any) -> None:
    coco.train["images"][0] |= {"width": 30, "height": 40}
    report = coco.check()
    only(report, "image_size_differs")
    assert "width and height exchanged" in report.findings[0].detail


def test_own_formats_are_the_definition_of_the_data_formats() -> None:
    assert {form: read.name for form, read in FORMAT_OF_FORM.items()} == {
        "xywh": "xywh",
        "xyxy": "xyxy",
        "relative": "cxcywh_relative",
    }
