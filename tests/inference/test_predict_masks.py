"""`detrkit predict` with a mask head: what lies on disk is what `Detector` says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detector
from detrkit.cli import main
from detrkit.errors import ConfigError
from detrkit.inference.writers import box_of, label_map, png_names, segments_as_detections
from detrkit.ops.masks import decode_segmentation
from detrkit.results import Detections, PanopticMap
from tests.inference.conftest import SHAPES
from tests.inference.helpers import files_in, run

STEMS = ["12", "5", "deep/7", "deep/tall", "wide"]
IDS = (12, 5, 7, 1, 2)


def test_tables_and_copies_have_masks(
    mask_checkpoint: Path, mask_detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    rows = run(mask_checkpoint, tmp_path, some_images)
    assert files_in(tmp_path) == sorted([*(f"{s}.png" for s in STEMS), "detections.csv", "detections.json"])
    actual = [mask_detector.predict(some_images / f"{stem}.png", threshold=0) for stem in STEMS]
    masks = [mask for each in actual for mask in each.masks]
    assert len(rows) == len(masks) == 45
    for row, mask in zip(rows, masks, strict=True):
        assert torch.equal(decode_segmentation(row["segmentation"], *mask.shape), mask)
        assert "label" not in row
    with (tmp_path / "detections.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[-1] == "area"
    assert [int(line["area"]) for line in table] == [int(mask.sum()) for mask in masks]
    for stem, each in zip(STEMS, actual, strict=True):
        path = some_images / f"{stem}.png"
        assert np.array_equal(np.array(Image.open(tmp_path / f"{stem}.png")), each.draw(path))


def test_cutouts_polygons_and_label_maps(
    mask_checkpoint: Path, mask_detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    rows = run(mask_checkpoint, tmp_path, some_images, cutouts=True, polygons=True, label_map=True, no_images=True)
    dataset = json.loads((tmp_path / "polygons.json").read_text())
    assert [row["name"] for row in dataset["categories"]] == ["scratch", "pit", "stain"]
    assert [row["id"] for row in dataset["annotations"]] == list(range(1, len(dataset["annotations"]) + 1))
    for stem, image_id, info in zip(STEMS, IDS, dataset["images"], strict=True):
        height, width = SHAPES[f"{stem}.png"]
        path = some_images / f"{stem}.png"
        assert info == {"id": image_id, "file_name": str(path), "height": height, "width": width}
        actual = mask_detector.predict(path, threshold=0)
        outlines = [row for row in dataset["annotations"] if row["image_id"] == image_id]
        filled = [mask for mask in actual.masks if mask.any()]
        for row, mask in zip(outlines, filled, strict=True):
            drawn = decode_segmentation(row["segmentation"], height, width)
            assert (drawn & mask).sum() > 0.9 * (drawn | mask).sum()
            assert row["area"] == mask.sum()
            x, y, w, h = row["bbox"]
            assert (x, y, x + w, y + h) == box_of(mask)
        with Image.open(tmp_path / "label_maps" / f"{stem}.png") as file:
            assert file.mode == "I;16"
            labels = np.array(file)
        rest = torch.zeros(height, width, dtype=torch.bool)
        for row, mask in zip([r for r in rows if r["image_id"] == image_id], actual.masks, strict=True):
            assert np.array_equal(labels == row["label"], mask & ~rest)  # the better one lies above
            rest |= mask
        pixels = np.array(Image.open(path))
        for k, (mask, name) in enumerate(zip(actual.masks, actual.class_names, strict=True), start=1):
            file = tmp_path / "cutouts" / stem / f"{k}-{name}.png"
            if not mask.any():
                assert not file.exists()
                continue
            cutout, (x1, y1, x2, y2) = np.array(Image.open(file)), box_of(mask)
            inside = mask[y1:y2, x1:x2].numpy()
            assert np.array_equal(cutout[..., 3], inside * 255)
            assert np.array_equal(cutout[inside][:, :3], pixels[y1:y2, x1:x2][inside])
            assert not cutout[~inside].any()  # nothing of the background travels along
    exact = run(mask_checkpoint, tmp_path / "exact", some_images / "5.png", polygons=True, polygon_tolerance=0.0)
    again = json.loads((tmp_path / "exact" / "polygons.json").read_text())["annotations"]
    whole = [decode_segmentation(row["segmentation"], 60, 80) for row in exact]
    for row, mask in zip(again, [mask for mask in whole if mask.any()], strict=True):
        assert torch.equal(decode_segmentation(row["segmentation"], 60, 80), mask)


def test_panoptic_files_are_those_of_coco(
    mask_checkpoint: Path, mask_detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    rows = run(mask_checkpoint, tmp_path, some_images, panoptic=True, threshold=0.4)
    copies = [f"{s}.png" for s in STEMS]
    tables = ["detections.csv", "detections.json", "panoptic.json"]
    assert files_in(tmp_path) == sorted([*copies, *tables, *(f"panoptic/{copy}" for copy in copies)])
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["categories"] == mask_detector.categories.to_plain()
    assert [info["id"] for info in content["images"]] == list(IDS)
    for stem, image_id, entry in zip(STEMS, IDS, content["annotations"], strict=True):
        assert (entry["image_id"], entry["file_name"]) == (image_id, f"{stem}.png")
        segments = mask_detector.panoptic(some_images / f"{stem}.png", threshold=0.4)
        pixels = np.array(Image.open(tmp_path / "panoptic" / entry["file_name"])).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        assert set(np.unique(ids)) == {row["id"] for row in entry["segments_info"]}
        for info, row in zip(entry["segments_info"], segments.segments, strict=True):
            mask = segments.ids == row["id"]
            assert info["id"] > 0
            assert np.array_equal(ids == info["id"], mask)
            assert info["category_id"] == row["category_id"]
            assert info["area"] == row["area"] == int(mask.sum())
            x, y, w, h = info["bbox"]
            assert (x, y, x + w, y + h) == box_of(mask)
            assert info["iscrowd"] == 0
        drawn = np.array(Image.open(tmp_path / f"{stem}.png"))
        assert np.array_equal(drawn, segments.draw(some_images / f"{stem}.png"))
        of_image = [row for row in rows if row["image_id"] == image_id]  # the tables hold segments
        assert len(of_image) == len(segments.segments)
        covered = sum(decode_segmentation(r["segmentation"], *segments.ids.shape).int() for r in of_image)
        assert (covered == 1).all()
        assert [row["score"] for row in of_image] == sorted((row["score"] for row in of_image), reverse=True)


def test_the_panoptic_threshold_is_its_own(
    mask_checkpoint: Path,
    mask_detector: Detector,
    some_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = run(mask_checkpoint, tmp_path / "a", some_images / "5.png", panoptic=True, threshold=None)
    assert len(rows) == len(mask_detector.panoptic(some_images / "5.png").segments)
    assert f"{len(rows)} segments with a score of at least 0.85" in capsys.readouterr().out
    rows = run(mask_checkpoint, tmp_path / "b", some_images / "5.png", threshold=None)
    assert len(rows) == len(mask_detector.predict(some_images / "5.png"))


@pytest.mark.parametrize("panoptic", [False, True])
def test_videos_and_images_without_objects(
    mask_checkpoint: Path, make_video: Callable[..., Path], tmp_path: Path, panoptic: bool
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames=3)
    extras = {"cutouts": True, "polygons": True, "label_map": True, "panoptic": panoptic}
    rows = run(mask_checkpoint, tmp_path / "out", clip, threshold=0.4, **extras)
    assert {row["file_name"] for row in rows} <= {f"{clip}#{k}" for k in range(3)}
    assert rows
    files = files_in(tmp_path / "out")
    assert [f for f in files if f.startswith("label_maps")] == [f"label_maps/clip/{k:06d}.png" for k in range(3)]
    assert [f for f in files if f.startswith("panoptic/")] == [f"panoptic/clip/{k:06d}.png" for k in range(3)][
        : 3 * panoptic
    ]
    assert any(f.startswith("cutouts/clip/000000/1-") for f in files)
    copy = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    copy.release()
    nothing = run(mask_checkpoint, tmp_path / "none", clip, threshold=1.0, **extras)
    assert nothing == []
    assert json.loads((tmp_path / "none" / "polygons.json").read_text())["annotations"] == []
    assert not np.array(Image.open(tmp_path / "none" / "label_maps" / "clip" / "000000.png")).any()
    if panoptic:
        assert not np.array(Image.open(tmp_path / "none" / "panoptic" / "clip" / "000000.png")).any()  # void
        content = json.loads((tmp_path / "none" / "panoptic.json").read_text())
        assert [entry["segments_info"] for entry in content["annotations"]] == [[]] * 3


def test_contradicting_settings_are_refused(
    checkpoint: Path, mask_checkpoint: Path, some_images: Path, tmp_path: Path
) -> None:
    for name in ("panoptic", "cutouts", "polygons", "label_map"):
        with pytest.raises(ConfigError, match="mask head"):
            run(checkpoint, tmp_path / "out", some_images / "5.png", **{name: True})
    with pytest.raises(ConfigError, match="top_k or panoptic"):
        run(mask_checkpoint, tmp_path / "out", some_images / "5.png", panoptic=True, top_k=3)
    with pytest.raises(ConfigError, match="polygon_tolerance"):
        run(mask_checkpoint, tmp_path / "out", some_images / "5.png", polygon_tolerance=-1.0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "label_maps").mkdir()
    shutil.copy(some_images / "5.png", tmp_path / "label_maps")
    with pytest.raises(ConfigError, match="where results are to be written"):
        run(mask_checkpoint, tmp_path, tmp_path / "label_maps", label_map=True, no_images=True)
    with pytest.raises(ConfigError, match="label_maps/"):
        run(mask_checkpoint, tmp_path / "out", tmp_path, label_map=True)
    assert files_in(tmp_path) == ["label_maps/5.png"]


def test_the_command_line(mask_checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    flags = ["--panoptic", "--cutouts", "--polygons", "--label_map", "--polygon_tolerance", "2", "--threshold", "0.4"]
    fixed = ["--weights", str(mask_checkpoint), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main(["predict", str(some_images / "5.png"), *flags, *fixed]) == 0
    files = files_in(tmp_path)
    assert {"5.png", "panoptic/5.png", "label_maps/5.png", "panoptic.json", "polygons.json"} < set(files)


def test_names_of_pngs_are_unique() -> None:
    assert png_names(["a.jpg", "b.JPG", "B.png", "c/a.jpg"]) == {
        "a.jpg": "a",
        "b.JPG": "b.JPG",
        "B.png": "B.png",
        "c/a.jpg": "c/a",
    }


def test_more_objects_than_a_byte_holds() -> None:
    masks = torch.zeros(300, 1, 300, dtype=torch.bool)
    masks[torch.arange(300), 0, torch.arange(300)] = True
    actual = Detections(torch.zeros(300, 4), torch.ones(300), torch.zeros(300, dtype=torch.int64), masks=masks)
    assert label_map(actual, 1, 300).tolist() == [list(range(1, 301))]


def test_segments_become_detections() -> None:
    ids = torch.tensor([[5, 5, 0], [5, 9, 0]])
    rows = [
        {"id": 5, "category_id": 3, "isthing": True, "area": 3, "score": 0.6, "category_name": "pit"},
        {"id": 9, "category_id": 4, "isthing": False, "area": 1, "score": 0.7},
    ]
    actual = segments_as_detections(PanopticMap(ids, rows), "a.png")
    assert actual.class_ids.tolist() == [4, 3]
    assert actual.class_names == ("4", "pit")
    assert actual.xyxy.tolist() == [[1, 1, 2, 2], [0, 0, 2, 2]]
    assert actual.masks.int().tolist() == [[[0, 0, 0], [0, 1, 0]], [[1, 1, 0], [1, 0, 0]]]
    assert (actual.source, actual.image_size) == ("a.png", (2, 3))
    assert len(segments_as_detections(PanopticMap(ids, []))) == 0


def test_written_files_can_be_read_and_evaluated(mask_checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    """Measured against a data set that is made of the very files, everything is found."""
    from detrkit.commands.eval import evaluate
    from detrkit.config.commands import EvalConfig

    sources = [some_images / name for name in ("5.png", "12.png", "wide.png")]
    out = tmp_path / "out"
    run(mask_checkpoint, out, *sources, panoptic=True, polygons=True, no_images=True, threshold=0.4)
    measured = {}
    for kind, detections in (("panoptic", "panoptic.json"), ("polygons", "detections.json")):
        data = tmp_path / kind
        (data / "images").mkdir(parents=True)
        content = json.loads((out / f"{kind}.json").read_text())
        for info in content["images"]:
            info["file_name"] = Path(info["file_name"]).name
            shutil.copy(some_images / info["file_name"], data / "images")
        for split in ("train", "val"):
            (data / f"{kind}_{split}.json").write_text(json.dumps(content))
            if kind == "panoptic":
                shutil.copytree(out / kind, data / f"panoptic_{split}")
        fixed = {"split": "val", "device": "cpu", "output_dir": str(tmp_path / "report")}
        measured[kind] = evaluate(EvalConfig(detections=str(out / detections), data=str(data), **fixed))
    assert measured["panoptic"]["panoptic"]["All"]["pq"] == pytest.approx(1)
    for kind in ("bbox", "segm"):  # segments are as detections, and polygons as their outlines
        assert measured["polygons"]["coco"][kind]["AP"] > 0.95
