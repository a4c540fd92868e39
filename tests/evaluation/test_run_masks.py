"""The command `eval` on data with masks and on panoptic data: a detector with a mask head, and files of predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.commands.eval import evaluate
from detrkit.config.commands import EvalConfig
from detrkit.errors import ConfigError, DataError
from detrkit.inference import Detector
from detrkit.models import build_model
from detrkit.ops.masks import encode_rle
from detrkit.structures import Categories
from detrkit.training.reporters import ClassicLog

CATEGORIES = [
    {"id": 3, "name": "cell", "isthing": 1},
    {"id": 7, "name": "tool", "isthing": 1},
    {"id": 200, "name": "ground", "isthing": 0},
]
SIZES = {11: (48, 64), 12: (48, 64), 15: (40, 40)}


def write_maps(file: Path, folder: Path, maps: dict[int, np.ndarray], kinds: dict[int, dict[int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    annotations = []
    for image_id, ids in maps.items():
        pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        segments = [{"id": i, "category_id": c} for i, c in kinds[image_id].items()]
        for row in segments:
            y, x = np.nonzero(ids == row["id"])
            box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            row |= {"area": len(x), "bbox": [int(v) for v in box], "iscrowd": 0}
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": SIZES[i][0], "width": SIZES[i][1]} for i in maps if i in SIZES
    ]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))


def gt_of(image_id: int) -> tuple[np.ndarray, dict[int, int]]:
    ids = np.full(SIZES[image_id], 70_000)
    ids[8:24, 8:24] = 300
    ids[28:36, 12:30] = 301
    ids[:2] = 0
    return ids, {70_000: 200, 300: 3, 301: 3 if image_id == 15 else 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in COCO panoptic form: two things on ground, and a little void."""
    root = tmp_path / "data"
    (root / "val").mkdir(parents=True)
    for image_id, (height, width) in SIZES.items():
        noise = np.random.default_rng(image_id).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "val" / f"{image_id}.jpg")
    actual = {image_id: gt_of(image_id) for image_id in SIZES}
    maps, kinds = ({i: pair[k] for i, pair in actual.items()} for k in (0, 1))
    write_maps(root / "panoptic_val.json", root / "panoptic_val", maps, kinds)
    return root


def predicted(root: Path, change: Callable[[dict[int, Any], dict[int, Any]], object] = lambda *_: None) -> EvalConfig:
    """Write a file of predictions: the ground truth under other ids, then changed."""
    maps, kinds = {}, {}
    for image_id in SIZES:
        ids, rows = gt_of(image_id)
        maps[image_id] = np.searchsorted([0, 300, 301, 70_000], ids)
        kinds[image_id] = dict(zip((1, 2, 3), (rows[300], rows[301], rows[70_000]), strict=True))
    change(maps, kinds)
    file = root.parent / "mine" / "maps.json"
    file.parent.mkdir(exist_ok=True)
    write_maps(file, file.with_suffix(""), maps, kinds)
    return EvalConfig(detections=str(file), data=str(root))


def test_the_reference_maps_through_the_verb(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = shared / "reference/panoptic_predictions"
    expected = json.loads((made / "expected_pq.json").read_text())
    content = evaluate(
        EvalConfig(
            detections=str(made / "predictions.json"),
            data=str(shared / "data/coco_panoptic_mini"),
            data_format="coco_panoptic",
            output_dir=str(tmp_path),
        )
    )
    for group in ("All", "Things", "Stuff"):
        assert content["panoptic"][group] == pytest.approx(expected[group], abs=1e-6)
    for row in content["panoptic"]["per_class"]:
        assert row["pq"] == pytest.approx(expected["per_class"][str(row["id"])]["pq"], abs=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert "coco" not in content
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["all"] and line.split()[-3:] == ["0.484", "0.589", "0.592"] for line in lines)
    assert any("42 more without" in line for line in lines)


def test_ground_truth_maps_are_perfect(folder: Path) -> None:
    content = evaluate(predicted(folder))
    assert content["panoptic"]["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 3}
    assert content["images"] == 3


def test_maps_choose_the_maps_of_data_that_has_both(folder: Path) -> None:
    content = json.loads((folder / "panoptic_val.json").read_text())
    things = [
        row | {"image_id": entry["image_id"], "id": k}
        for k, (entry, row) in enumerate(((e, r) for e in content["annotations"] for r in e["segments_info"]), start=1)
    ]
    (folder / "val.json").write_text(json.dumps(content | {"annotations": things}))
    assert evaluate(predicted(folder))["panoptic"]["All"]["pq"] == 1


def test_a_image_without_a_map_counts_as_missed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def forget(maps: dict[int, Any], kinds: dict[int, Any]) -> None:
        del maps[12]

    content = evaluate(predicted(folder, forget))
    assert "1 images have no map in" in " ".join(capsys.readouterr().out.split())
    ground = content["panoptic"]["per_class"][2]
    assert (ground["segments"], ground["predicted"]) == (3, 2)
    assert ground["pq"] == pytest.approx(2 / 2.5)


def stretch(maps: dict[int, Any], kinds: dict[int, Any]) -> None:
    maps[11] = maps[11].T


def unknown_class(maps: dict[int, Any], kinds: dict[int, Any]) -> None:
    kinds[11][3] = 4


def unknown_id(maps: dict[int, Any], kinds: dict[int, Any]) -> None:
    maps[11][5, 5] = 9


def another_image(maps: dict[int, Any], kinds: dict[int, Any]) -> None:
    maps[99], kinds[99] = maps[11], kinds[11]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (stretch, "of the image's size 48 x 64, found 64 x 48"),
        (unknown_class, "own category ids in .*maps.json, found 4 in the map of image id 11"),
        (unknown_id, "11.png only ids of the segments_info in .*maps.json, found 9"),
        (another_image, "image id 99 is not among the images"),
    ],
)
def test_maps_that_do_not_belong_are_refused_in_a_sentence(folder: Path, change: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        evaluate(predicted(folder, change))


def test_files_that_are_missing_or_broken(folder: Path, tmp_path: Path) -> None:
    config = predicted(folder)
    file = Path(config.detections)
    content = json.loads(file.read_text())
    (file.parent / "maps/11.png").rename(file.parent / "elsewhere.png")
    with pytest.raises(DataError, match=r"expected the PNGs of .*maps.json in .*maps, found no 11.png there"):
        evaluate(config)
    content["annotations"][1]["segments_info"][0] = {"id": "x", "category_id": 3}
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"integer id and category_id in each segment, found .*'x'.* in entry 1"):
        evaluate(config)
    del content["annotations"][0]["file_name"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"entry 0 without"):
        evaluate(config)
    with pytest.raises(ConfigError, match="panoptic_threshold must be at least 0"):
        EvalConfig(weights="w", panoptic_threshold=-1)
    with pytest.raises(ConfigError, match="panoptic_threshold must be at most 1, found 2"):
        EvalConfig(weights="w", panoptic_threshold=2)


def test_maps_need_panoptic_data(folder: Path, tmp_path: Path) -> None:
    config = predicted(folder)
    instances = tmp_path / "instances"
    (instances / "images").mkdir(parents=True)
    (folder / "val/11.jpg").rename(instances / "images/11.jpg")
    rows = [{"id": 1, "image_id": 11, "category_id": 3, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0}]
    images = [{"id": 11, "file_name": "11.jpg", "height": 48, "width": 64}]
    (instances / "val.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": CATEGORIES[:1]})
    )
    with pytest.raises(DataError, match=r"expected COCO panoptic data to compare the maps in .*maps.json with"):
        evaluate(EvalConfig(detections=config.detections, data=str(instances)))


def test_detections_on_panoptic_data(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """COCO results are compared with the things, by box and, of those that have one, by mask."""
    rows = []
    for image_id in SIZES:
        ids, kinds = gt_of(image_id)
        for segment, category_id in kinds.items():
            y, x = np.nonzero(ids == segment)
            box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            row = {"image_id": image_id, "category_id": category_id, "bbox": [float(v) for v in box], "score": 0.9}
            if segment != 301:
                row["segmentation"] = encode_rle(torch.from_numpy(ids == segment))
            rows.append(row)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    content = evaluate(EvalConfig(detections=str(file), data=str(folder)))
    assert "3 detections of stuff are left out" in " ".join(capsys.readouterr().out.split())
    assert content["objects"] == content["detections"] == 6
    assert content["coco"]["bbox"]["AP"] == pytest.approx(1)
    cell, tool = content["per_class"]
    assert (cell["mask_AP50"], tool["mask_AP50"]) == (pytest.approx(0.7525, abs=1e-3), 0)
    assert "panoptic" not in content


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_detector_with_masks_through_the_verb(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sigmoid: bool,
) -> None:
    args: dict[str, Any] = {
        "num_classes": 3,
        "backbone": "resnet18",
        "hidden_dim": 128,
        "nheads": 8,
        "enc_layers": 1,
        "dec_layers": 1,
        "dim_feedforward": 16,
        "num_queries": 6,
        "masks": True,
        "sigmoid": sigmoid,
    }
    torch.manual_seed(0)
    model = build_model(**args)
    detector = Detector(model, Categories.from_plain(CATEGORIES), 64)
    monkeypatch.setattr(Detector, "load", lambda *args, **kwargs: detector)
    (tmp_path / "best.ckpt").touch()
    ask: dict[str, Any] = {"weights": str(tmp_path / "best.ckpt"), "data": str(folder), "num_workers": 0}
    instances = {"images": [], "annotations": [], "categories": []}  # there too, but the detector knows stuff
    (folder / "val.json").write_text(json.dumps(instances))
    content = evaluate(EvalConfig(**ask, panoptic_threshold=0.0))
    assert set(content["coco"]) == {"bbox", "segm"}
    assert content["coco"]["segm"].keys() == content["coco"]["bbox"].keys()
    assert {row["id"] for row in content["per_class"]} == {3, 7}  # things alone
    assert all("mask_AR" in row for row in content["per_class"])
    ground = content["panoptic"]["per_class"][2]
    assert (ground["id"], ground["segments"]) == (200, 3)
    text = capsys.readouterr().out
    assert "IoU of masks:" in text
    assert "masks of" in text
    assert "RQ" in text
    assert (tmp_path / "report/errors/missed.jpg").is_file()
    sure = evaluate(EvalConfig(**ask, panoptic_threshold=1.0, batch_size=2))
    assert sure["coco"]["segm"] == pytest.approx(content["coco"]["segm"], abs=1e-6)
    assert sum(row["predicted"] for row in sure["panoptic"]["per_class"]) == 0
    if not sigmoid:
        assert sum(row["predicted"] for row in content["panoptic"]["per_class"]) > 0


def test_the_reference_log_has_masks_and_quality(tmp_path: Path) -> None:
    from detrkit.evaluation.coco_metrics import COCO_NAMES

    row = {"epoch": 1.0, "step": 2.0, "lr": 1e-4, "lr_backbone": 1e-5, "seconds": 1.0}
    row |= {f"val/{name}": 0.5 for name in COCO_NAMES} | {f"val/mask_{name}": 0.25 for name in COCO_NAMES}
    row |= {f"val/{n}{e}": 0.1 for n in ("PQ", "SQ", "RQ") for e in ("", "_things", "_stuff")} | {"val/PQ_stuff": 0.7}
    ClassicLog(tmp_path / "log.txt", {}, 7).epoch_finished([row])
    line = json.loads((tmp_path / "log.txt").read_text())
    assert line["test_coco_eval_masks"] == [0.25] * 12
    assert line["test_PQ_all"] == {"pq": 0.1, "sq": 0.1, "rq": 0.1}
    assert line["test_PQ_st"]["pq"] == 0.7
