"""`detrkit predict --write`: labels that tools import, read back by our readers and by the parsers of the tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from detrkit import Detections, Detector
from detrkit.cli import main
from detrkit.data.decode.object_masks import decode_masks
from detrkit.data.formats.cvat_writer import CvatWriter
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.inference.prelabels import WRITERS, as_objects
from detrkit.structures import Categories
from tests.inference.conftest import CATEGORIES, SHAPES
from tests.inference.helpers import files_in, run

READ = ("coco", "yolo", "voc", "labelme")
"""Formats that our own readers read."""


def clipped(detections: Detections, size: tuple[int, int]) -> list[tuple[str, tuple[float, ...]]]:
    """Class and box inside the image of each detection that is there."""
    names = dict(zip(CATEGORIES.ids, CATEGORIES.names, strict=True))
    return [(names[obj.category_id], obj.box) for obj in as_objects(detections, size)[0]]


@pytest.mark.parametrize("form", READ)
def test_boxes_come_back_through_our_reader(
    checkpoint: Path, detector: Detector, some_images: Path, tmp_path: Path, form: str
) -> None:
    run(checkpoint, tmp_path / "out", some_images, write=form, no_images=True)
    split = check_dataset(open_dataset(tmp_path / "out" / form, val_fraction=0)).splits["train"]
    names = dict(zip(split.categories.ids, split.categories.names, strict=True))
    assert form == "labelme" or tuple(names.values()) == CATEGORIES.names
    images = {image.path.read_bytes(): image for image in split.images}
    assert len(images) == len(SHAPES)
    for name, size in SHAPES.items():
        expected = clipped(detector.predict(some_images / name, threshold=0), size)
        actual = [(names[obj.category_id], obj.box) for obj in images[(some_images / name).read_bytes()].objects]
        assert [label for label, _ in actual] == [label for label, _ in expected]
        for (_, one), (_, other) in zip(actual, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
def test_masks_come_back_through_our_reader(
    mask_checkpoint: Path, mask_detector: Detector, some_images: Path, tmp_path: Path, form: str
) -> None:
    run(mask_checkpoint, tmp_path / "out", some_images / "wide.png", write=form, no_images=True, polygon_tolerance=0)
    split = check_dataset(open_dataset(tmp_path / "out" / form, val_fraction=0)).splits["train"]
    (image,) = split.images
    detections = mask_detector.predict(some_images / "wide.png", threshold=0)
    assert detections.masks is not None
    expected = detections.masks[detections.masks.any(2).any(1)]
    boxes = torch.tensor([obj.box for obj in image.objects])
    actual = decode_masks([obj.segmentation for obj in image.objects], boxes, image.height, image.width)
    assert len(expected) > 1
    assert torch.equal(actual[: len(expected)], expected)


def test_scores_are_kept_where_the_format_can(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    source = some_images / "wide.png"
    rows = {form: run(checkpoint, tmp_path / form, source, write=form, no_images=True) for form in WRITERS}
    expected = [row["score"] for row in rows["coco"]]
    content = json.loads((tmp_path / "coco/coco/annotations/instances_train.json").read_text())
    assert [row["score"] for row in content["annotations"]] == expected
    content = json.loads((tmp_path / "labelme/labelme/wide.json").read_text())
    assert [row["score"] for row in content["shapes"]] == expected
    (task,) = json.loads((tmp_path / "label_studio/label_studio/tasks.json").read_text())
    assert [row["score"] for row in task["predictions"][0]["result"]] == expected
    assert task["predictions"][0]["score"] == pytest.approx(sum(expected) / len(expected))
    for path, tag in (
        ("cvat/cvat/annotations.xml", "image/box/attribute"),
        ("voc/voc/Annotations/wide.xml", ".//value"),
    ):
        texts = [element.text for element in ET.parse(tmp_path / path).iterfind(tag)]
        assert [float(text or "") for text in texts] == pytest.approx(expected, abs=1e-6)


# --- Label Studio ----------------------------------------------------------------------------------------------------


def test_label_studio_tasks_follow_its_schema(
    checkpoint: Path, detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    run(checkpoint, tmp_path / "out", some_images, write="label_studio", no_images=True)
    folder = tmp_path / "out" / "label_studio"
    tasks = json.loads((folder / "tasks.json").read_text())
    assert len(tasks) == len(SHAPES)
    for task in tasks:
        prefix, _, name = task["data"]["image"].partition("?d=")
        assert prefix == "/data/local-files/"
        path = folder / unquote(name)
        height, width = SHAPES[unquote(name).removeprefix("images/")]
        expected = clipped(detector.predict(path, threshold=0), (height, width))
        (prediction,) = task["predictions"]
        regions = prediction["result"]
        assert len({region["id"] for region in regions}) == len(regions) == len(expected)
        for region, (label, box) in zip(regions, expected, strict=True):
            assert (region["original_width"], region["original_height"]) == (width, height)
            assert (region["type"], region["from_name"], region["to_name"]) == ("rectanglelabels", "label", "image")
            value = region["value"]
            assert value["rectanglelabels"] == [label]
            x, y = value["x"] * width / 100, value["y"] * height / 100
            corners = (x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
            assert corners == pytest.approx(box, abs=1e-3)
    config = ET.parse(folder / "label_config.xml").getroot()
    assert [element.get("value") for element in config.iter("Label")] == list(CATEGORIES.names)


@pytest.mark.filterwarnings("ignore")
def test_label_studio_s_own_converter_reads_the_regions(
    checkpoint: Path, detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk is not installed")
    run(checkpoint, tmp_path / "out", some_images / "wide.png", write="label_studio", no_images=True)
    folder = tmp_path / "out" / "label_studio"
    tasks = json.loads((folder / "tasks.json").read_text())
    accepted = [{"id": 1, "data": t["data"], "annotations": [t["predictions"][0] | {"id": 1}]} for t in tasks]
    (tmp_path / "accepted.json").write_text(json.dumps(accepted))
    made = converter.Converter((folder / "label_config.xml").read_text(), str(folder), download_resources=False)
    made.convert_to_coco(str(tmp_path / "accepted.json"), str(tmp_path / "coco"), is_dir=False)
    content = json.loads((tmp_path / "coco" / "result.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    actual = [(names[row["category_id"]], row["bbox"]) for row in content["annotations"]]
    expected = clipped(detector.predict(some_images / "wide.png", threshold=0), SHAPES["wide.png"])
    assert [name for name, _ in actual] == [name for name, _ in expected]
    for (_, (x, y, w, h)), (_, box) in zip(actual, expected, strict=True):
        assert (x, y, x + w, y + h) == pytest.approx(box, abs=0.01)


# --- CVAT ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masks", [False, True])
def test_datumaro_reads_the_labels_for_cvat(
    checkpoint: Path,
    mask_checkpoint: Path,
    detector: Detector,
    mask_detector: Detector,
    some_images: Path,
    tmp_path: Path,
    masks: bool,
) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    source = some_images / "wide.png"
    run(mask_checkpoint if masks else checkpoint, tmp_path / "out", source, write="cvat", no_images=True)
    (item,) = datumaro.Dataset.import_from(str(tmp_path / "out" / "cvat"), "cvat")
    expected = as_objects((mask_detector if masks else detector).predict(source, threshold=0), SHAPES["wide.png"])
    assert len(item.annotations) == len(expected[0])
    for row, obj, score in zip(item.annotations, *expected, strict=True):
        assert float(row.attributes["score"]) == pytest.approx(score, abs=1e-6)
        x, y, w, h = row.get_bbox()
        assert (x, y, x + w, y + h) == pytest.approx(obj.box, abs=2 if masks else 0.01)


def test_cvat_masks_are_run_lengths_inside_their_box(tmp_path: Path, some_images: Path) -> None:
    height, width = SHAPES["wide.png"]
    mask = torch.zeros(3, height, width, dtype=torch.bool)
    mask[0, 5:20, 10:30] = True
    mask[0, 8:10, 15:20] = False  # a hole
    mask[1, 2:6, 40:50] = True
    mask[1, 10:12, 60:70] = True  # a second part
    mask[2, 20:30, 5:25] = True  # one outline
    boxes = torch.tensor([[10, 5, 30, 20], [40, 2, 70, 12], [5, 20, 25, 30]])
    detections = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 7, 20]), masks=mask)
    objects, scores = as_objects(detections, (height, width))
    writer = CvatWriter(tmp_path / "cvat", CATEGORIES, masks=True)
    writer.add(ImageRecord(1, some_images / "wide.png", "wide.png", height, width, objects), "train", scores)
    writer.close()
    shapes = list(ET.parse(tmp_path / "cvat/annotations.xml").getroot().find("image") or [])
    assert [shape.tag for shape in shapes] == ["mask", "mask", "polygon"]
    assert [shape.get("label") for shape in shapes] == list(CATEGORIES.names)
    for shape, expected in zip(shapes[:2], mask, strict=False):
        left, top, w, h = (int(shape.get(key, "")) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in shape.get("rle", "").split(",")]
        part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
        assert np.array_equal(part, expected[top : top + h, left : left + w].numpy())
        assert part.sum() == expected.sum()
    labels = json.loads((tmp_path / "cvat/labels.json").read_text())
    assert [row["name"] for row in labels] == list(CATEGORIES.names)


# --- videos, files and mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_frames_of_videos_become_images(
    checkpoint: Path, make_video: Callable[..., Path], tmp_path: Path, form: str
) -> None:
    video = make_video(tmp_path / "clip.mp4", frames=3)
    run(checkpoint, tmp_path / "out", video, write=form, no_images=True)
    images = [name for name in files_in(tmp_path / "out" / form) if name.endswith(".jpg")]
    assert len(images) == 3
    assert images[1].endswith("clip/000001.jpg" if form != "voc" else "clip_000001.jpg")


@pytest.mark.parametrize("form", WRITERS)
def test_corrected_labels_are_never_overwritten(checkpoint: Path, some_images: Path, tmp_path: Path, form: str) -> None:
    source = some_images / "wide.png"
    run(checkpoint, tmp_path / "out", source, write=form)
    before = {name: (tmp_path / "out" / form / name).read_bytes() for name in files_in(tmp_path / "out" / form)}
    with pytest.raises(ConfigError, match="expected a new or empty folder to write to"):
        run(checkpoint, tmp_path / "out", source, write=form)
    assert before == {name: (tmp_path / "out" / form / name).read_bytes() for name in before}


def test_labels_of_images_that_cannot_be_read_leave_no_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        run(checkpoint, tmp_path / "out", tmp_path / "broken.png", write="coco")
    assert not list((tmp_path / "out").glob("*coco*"))


def test_segments_of_a_panoptic_map_are_labels_too(mask_checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    source = some_images / "wide.png"
    rows = run(mask_checkpoint, tmp_path, source, panoptic=True, no_images=True, write="coco", polygon_tolerance=0)
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [row["segmentation"] for row in content["annotations"]] == [row["segmentation"] for row in rows]
    assert len(rows) > 0


def test_an_unknown_format_is_named(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(some_images), "--weights", str(checkpoint), "--write", "csv"]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "--write must be coco, yolo, voc, labelme, cvat or label_studio, found 'csv'" in capsys.readouterr().err


def test_boxes_are_clipped_and_those_outside_left_out() -> None:
    boxes = torch.tensor([[-5, -5, 10, 10], [90, 90, 120, 120], [200, 0, 210, 9], [float("nan"), 0, 5, 5]])
    objects, scores = as_objects(Detections(boxes, torch.arange(4) / 4, torch.tensor([3, 3, 3, 3])), (100, 100), 5)
    assert [(obj.id, obj.box) for obj in objects] == [(5, (0, 0, 10, 10)), (6, (90, 90, 100, 100)), (7, (0, 0, 5, 5))]
    assert scores == [0.0, 0.25, 0.75]


def test_odd_class_names_reach_every_format(tmp_path: Path, some_images: Path) -> None:
    categories = Categories((0, 1), ('<a & "b">', "日本: 1%"))
    boxes = torch.tensor([[1, 2, 30, 20], [5, 6, 20, 30]])
    detections = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    objects, scores = as_objects(detections, SHAPES["wide.png"])
    for form, writer_class in WRITERS.items():
        writer: Any = writer_class(tmp_path / form, categories, masks=False)
        writer.add(ImageRecord(1, some_images / "wide.png", "wide.png", *SHAPES["wide.png"], objects), "train", scores)
        writer.close()
        if form in READ:
            split = check_dataset(open_dataset(tmp_path / form, val_fraction=0)).splits["train"]
            assert split.categories.names == categories.names
    shapes = ET.parse(tmp_path / "cvat/annotations.xml").iterfind("image/box")
    assert [shape.get("label") for shape in shapes] == list(categories.names)
    labels = ET.parse(tmp_path / "label_studio/label_config.xml").iter("Label")
    assert [label.get("value") for label in labels] == list(categories.names)
