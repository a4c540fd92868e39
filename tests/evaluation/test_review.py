"""Reviewing labels: errors made on purpose are found with their reason, and what cannot be reviewed is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit import cli
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DataError, DetrkitWarning, WeightsError
from detrkit.evaluation.drawn_errors import SHIFTED_IOU, place_box, shift_box
from detrkit.evaluation.label_errors import REASONS, find_suspects
from detrkit.evaluation.matching import EvalArrays, box_iou
from detrkit.models import build_model
from detrkit.structures import Preprocessing

Row = dict[str, Any]
SIDE = 100
CLASSES = ("nut", "bolt", "<b>washer</b>")
PLACES = [(5, 5), (55, 5), (5, 55), (55, 55)]


def make_labels(images: int, classes: int = 3) -> tuple[list[Row], list[Row]]:
    """Images with four objects each, one per quarter, and their labels."""
    rng = np.random.default_rng(0)
    rows = [{"id": 10 + k, "file_name": f"{k:03d}.png", "height": SIDE, "width": SIDE} for k in range(images)]
    labels: list[Row] = []
    for row in rows:
        for left, top in PLACES:
            x, y = left + rng.uniform(0, 8), top + rng.uniform(0, 8)
            width, height = rng.uniform(20, 30, 2)
            label = {"id": 1000 + len(labels), "image_id": row["id"], "category_id": int(rng.integers(1, classes + 1))}
            labels.append(label | {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})
    return rows, labels


def detect(images: list[Row], labels: list[Row], classes: int = 3) -> list[Row]:
    """Detections of a good detector of these objects: boxes a little off, some confusion, weak false alarms."""
    rng = np.random.default_rng(1)
    names = {row["id"]: row["file_name"] for row in images}
    rows = []
    for label in labels:
        box = [float(v) for v in np.array(label["bbox"]) + rng.normal(0, 1, 4)]
        row = {"image_id": label["image_id"], "file_name": names[label["image_id"]], "bbox": box}
        rows.append(row | {"category_id": label["category_id"], "score": float(rng.uniform(0.5, 0.95))})
        other = label["category_id"] % classes + 1
        if other != label["category_id"]:
            rows.append(row | {"category_id": other, "score": float(rng.uniform(0.01, 0.2))})
    for image_id, name in names.items():
        x, y = rng.uniform(0, 60, 2).tolist()
        row = {"image_id": image_id, "file_name": name, "bbox": [x, y, 30.0, 12.0], "category_id": 1}
        rows.append(row | {"score": float(rng.uniform(0.01, 0.3))})
    return rows


def spoil(labels: list[Row]) -> list[Row]:
    """One error of each kind: 1000 is removed, 1004 doubled, 1008 another class, 1012 shifted, 9000 has no object."""
    labels = [dict(label) for label in labels[1:]]
    by_id = {label["id"]: label for label in labels}
    by_id[1008]["category_id"] = by_id[1008]["category_id"] % 3 + 1
    x, y, width, height = by_id[1012]["bbox"]
    by_id[1012]["bbox"] = [x + 0.35 * width, y + 0.2 * height, width, height]
    x, y, width, height = by_id[1004]["bbox"]
    labels.append({**by_id[1004], "id": 9001, "bbox": [x + 0.5, y, width, height]})
    labels.append({**by_id[1016], "id": 9000, "bbox": [38, 38, 20, 20]})
    return labels


MadeFolds = Callable[..., Path]


@pytest.fixture
def make_folds(tmp_path: Path) -> MadeFolds:
    """Write a data set, and a folder of finished folds with detections on it."""

    def make(
        labels: list[Row], images: list[Row], detections: list[Row], categories: tuple[str, ...] = CLASSES
    ) -> Path:
        data, folder = tmp_path / "data", tmp_path / "folds"
        (data / "images").mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for row in images:
            noise = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(data / "images" / row["file_name"])
        names = [{"id": k, "name": name} for k, name in enumerate(categories, 1)]
        gt = {"images": images, "annotations": labels, "categories": names}
        (data / "train.json").write_text(json.dumps(gt), encoding="utf-8")
        (folder / "annotations.json").write_text(json.dumps(gt), encoding="utf-8")
        (folder / "detections.json").write_text(json.dumps(detections), encoding="utf-8")
        (folder / "folds.json").write_text(json.dumps({"folds": 3}), encoding="utf-8")
        (folder / "config.yaml").write_text(TrainConfig(data=str(data)).to_yaml(), encoding="utf-8")
        return folder

    return make


def test_an_error_of_each_kind_is_among_the_first_suspects_with_its_reason(make_folds: MadeFolds) -> None:
    images, labels = make_labels(60)
    result = detrkit.review(make_folds(spoil(labels), images, detect(images, labels)), max_images=3)
    assert (result.images, result.labels, result.folds) == (60, 241, 3)
    first = {suspect.label_id: suspect for suspect in result.suspects[:8]}
    reasons = {label_id: suspect.reason for label_id, suspect in first.items()}
    expected = {None: "no label", 9001: "repeated label", 1008: "wrong class", 1012: "wrong box", 9000: "no object"}
    assert expected.items() <= reasons.items()
    missing = first[None]
    x, y, width, height = labels[0]["bbox"]
    assert missing.detected_box == pytest.approx((x, y, x + width, y + height), abs=5)
    assert (missing.file_name, missing.image_id, missing.label) == ("000.png", 10, "")
    swapped = first[1008]
    assert (swapped.detected, swapped.label) == (
        CLASSES[labels[8]["category_id"] - 1],
        CLASSES[labels[8]["category_id"] % 3],
    )
    assert swapped.where.startswith("annotations[")
    x, y, width, height = labels[12]["bbox"]
    assert first[1012].detected_box == pytest.approx((x, y, x + width, y + height), abs=5)
    assert [s.rank for s in result.suspects] == list(range(1, 101))
    scores = [s.score for s in result.suspects]
    assert scores == sorted(scores, reverse=True)


def test_a_corrected_label_is_no_suspect_any_more(make_folds: MadeFolds) -> None:
    images, labels = make_labels(40)
    detections = detect(images, labels)
    before = detrkit.review(make_folds(spoil(labels), images, detections))
    after = detrkit.review(make_folds(labels, images, detections))
    assert max(s.score for s in after.suspects) < 0.5
    assert sum(s.score > 0.5 for s in before.suspects) >= 4


def test_files_hold_what_the_result_holds_and_names_are_escaped(make_folds: MadeFolds, tmp_path: Path) -> None:
    images, labels = make_labels(30)
    folder = make_folds(spoil(labels), images, detect(images, labels))
    result = detrkit.review(folder, output_dir=str(tmp_path / "out"), max_suspects=12, max_images=7)
    stored = json.loads((tmp_path / "out/suspects.json").read_text(encoding="utf-8"))
    assert stored["suspects"] == json.loads(json.dumps([asdict(s) for s in result.suspects]))
    assert (stored["labels"], len(stored["suspects"]), stored["reasons"]) == (121, 12, REASONS)
    rows = list(csv.DictReader((tmp_path / "out/suspects.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file_name"] for row in rows] == [s.file_name for s in result.suspects]
    for row, suspect in zip(rows, result.suspects, strict=True):
        box = suspect.label_box
        assert [row[f"label_{c}"] for c in ("x1", "y1", "x2", "y2")] == ([str(v) for v in box] if box else [""] * 4)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<figure data-group") == 7
    assert "<b>washer</b>" not in page
    assert "&lt;b&gt;washer" in page


def test_the_command_prints_the_first_suspects(
    make_folds: MadeFolds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_labels(30)
    folder = make_folds(spoil(labels), images, detect(images, labels))
    assert cli.main(["review", str(folder), "--max_images", "2"]) == 0
    printed = capsys.readouterr().out
    assert "wrong class" in printed
    assert "9001" in printed
    assert "suspects among 121 labels of 30 images" in printed
    assert f"Written to {folder / 'review'}" in printed
    assert (folder / "review/report.html").is_file()


def test_images_and_classes_that_the_folds_do_not_know_are_left_out_with_a_note(make_folds: MadeFolds) -> None:
    images, labels = make_labels(30)
    folder = make_folds(labels, images, detect(images, labels))
    known = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    known["images"] = known["images"][:-2]
    known["categories"][2]["name"] = "gone"
    (folder / "annotations.json").write_text(json.dumps(known), encoding="utf-8")
    with pytest.warns(DetrkitWarning) as notes:
        result = detrkit.review(folder, max_images=0)
    assert result.images == 28
    texts = [str(note.message) for note in notes]
    assert any("2 images are not in the folds" in text for text in texts)
    assert any("1 classes of the folds are not in the data set" in text for text in texts)


def test_packed_data_are_reviewed_as_the_loose_files(make_folds: MadeFolds, tmp_path: Path) -> None:
    images, labels = make_labels(20)
    folds = make_folds(labels[1:], images, detect(images, labels))
    detrkit.pack(tmp_path / "data", tmp_path / "packed")
    results = [
        detrkit.review(folds, data=str(tmp_path / name), output_dir=str(tmp_path / f"of-{name}"), max_images=0)
        for name in ("data", "packed")
    ]
    loose, packed = ([(s.file_name, s.label_id, s.reason, s.score) for s in each.suspects] for each in results)
    assert loose[0][0] == "000.png"
    assert packed == loose


def test_one_class_has_no_wrong_class_and_few_labels_are_noted(make_folds: MadeFolds) -> None:
    images, labels = make_labels(1, classes=1)
    folder = make_folds(labels, images, detect(images, labels, classes=1), ("nut",))
    with pytest.warns(DetrkitWarning) as notes:
        result = detrkit.review(folder)
    assert any("4 labels are few" in str(note.message) for note in notes)
    assert result.labels == 4
    assert {s.reason for s in result.suspects} <= {"no object", "wrong box", "no label"}
    assert all(0 <= s.score <= 1 for s in result.suspects)


def test_what_cannot_be_reviewed_is_refused_with_a_sentence(make_folds: MadeFolds, tmp_path: Path) -> None:
    images, labels = make_labels(13)
    folder = make_folds(labels, images, detect(images, labels))
    with pytest.raises(ConfigError, match="expected a val split in the data set, found train"):
        detrkit.review(folder, split="val")
    with pytest.raises(ConfigError, match=r"image_size 64 is for a detector, but .* holds folds"):
        detrkit.review(folder, image_size=64)
    other = tmp_path / "other"
    (tmp_path / "data").rename(other)
    with pytest.raises(DataError, match="found nothing there; name its place with data"):
        detrkit.review(folder)
    assert detrkit.review(folder, other, max_images=0).labels == 52
    for path in (other / "images").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    gt = json.loads((other / "train.json").read_text(encoding="utf-8"))
    gt["images"] = [{**row, "file_name": f"x{row['file_name']}"} for row in gt["images"]]
    (other / "train.json").write_text(json.dumps(gt), encoding="utf-8")
    with pytest.raises(DataError, match=r"such as 000\.png, in .*, found none of them"):
        detrkit.review(folder, other)
    make_folds(labels, images, [])
    with pytest.raises(DataError, match=r"expected detections on the images of .*, found none"):
        detrkit.review(folder)
    (folder / "detections.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not JSON"):
        detrkit.review(folder)
    (folder / "detections.json").unlink()
    with pytest.raises(ConfigError, match="the folds are not finished; start the same"):
        detrkit.review(folder)
    with pytest.raises(WeightsError, match="nowhere"):
        detrkit.review(tmp_path / "nowhere")
    with pytest.raises(WeightsError):
        detrkit.review(other)  # a data set is no model
    with pytest.raises(ConfigError, match="there is no setting 'max_suspect'; did you mean 'max_suspects'"):
        detrkit.review(folder, max_suspect=3)


def test_a_model_that_was_trained_on_the_images_reviews_them_with_a_note(
    make_folds: MadeFolds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_labels(13)
    data = make_folds(labels, images, []).parent / "data"
    args: Row = {"num_classes": 3, "backbone": "resnet18", "hidden_dim": 16, "nheads": 2}
    args |= {"enc_layers": 1, "dec_layers": 1, "dim_feedforward": 16, "num_queries": 8}
    torch.manual_seed(0)
    plain = {
        "version": 1,
        "model_args": args,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
        "preprocessing": Preprocessing(64).to_plain(),
        "config": {},
        "metrics": {},
    }
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": build_model(**args).state_dict(), "detrkit": plain}, run / "best.ckpt")
    with pytest.raises(ConfigError, match="does not state one; name it with data"):
        detrkit.review(run)
    (run / "config.yaml").write_text(TrainConfig(data=str(data)).to_yaml(), encoding="utf-8")
    names = {"train": [row["file_name"] for row in images[3:]], "val": [row["file_name"] for row in images[:3]]}
    (run / "split.json").write_text(json.dumps({"seed": 42, "val_fraction": 0.2, **names}), encoding="utf-8")
    command = ["review", str(run), "--num_workers", "0", "--device", "cpu", "--max_images", "1"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "The model was trained on 10 of these 13 images" in printed
    assert "suspects among 52 labels of 13 images" in printed
    assert cli.main([*command, "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "was trained on" not in printed
    assert "of 3 images" in printed


def test_suspects_do_not_depend_on_the_order_of_labels_or_on_chance() -> None:
    images, labels = make_labels(20)
    names = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    gt = {"images": images, "annotations": spoil(labels), "categories": names}
    arrays, sizes = EvalArrays.from_coco(gt, detect(images, labels)), np.full((20, 2), float(SIDE))
    ranked = find_suspects(arrays, sizes)
    assert ranked == find_suspects(arrays, sizes)
    suspects = ranked.rows
    assert sorted(s.object for s in suspects if s.object >= 0) == list(range(len(arrays.object_classes)))
    without = [s for s in suspects if s.object < 0]
    assert all(s.reason == "no label" and s.detection >= 0 for s in without)


def test_the_expected_recall_is_high_for_a_good_detector_and_low_for_a_weak_one(make_folds: MadeFolds) -> None:
    images, labels = make_labels(40)
    good = detect(images, labels)
    result = detrkit.review(make_folds(labels, images, good), max_images=0)
    assert set(result.expected_recall) == {"no label", "no object", "wrong class", "wrong box"}
    assert min(result.expected_recall.values()) > 0.9
    assert "Of errors drawn at random in these labels" in str(result)
    rng = np.random.default_rng(3)
    weak = [row | {"bbox": [*rng.uniform(0, 60, 2).tolist(), 30.0, 30.0], "score": rng.uniform(0, 0.2)} for row in good]
    with pytest.warns(DetrkitWarning, match="too weak to tell wrong labels from right ones"):
        result = detrkit.review(make_folds(labels, images, weak), max_images=0)
    assert sum(result.expected_recall.values()) < 0.4 * len(result.expected_recall)


def test_crowds_are_no_suspects_and_explain_the_detections_in_them() -> None:
    images, labels = make_labels(20)
    detections = detect(images, labels)
    labels = labels[4:]  # none in the first image
    crowd = {"id": 1, "image_id": 10, "category_id": 1, "bbox": [0, 0, SIDE, SIDE], "area": 1, "iscrowd": 1}
    names = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    for rows, expected in ((labels, 4), ([crowd, *labels], 0)):
        gt = {"images": images, "annotations": rows, "categories": names}
        arrays = EvalArrays.from_coco(gt, detections)
        suspects = find_suspects(arrays, np.full((20, 2), float(SIDE))).rows
        first = [s for s in suspects[:4] if s.object < 0 and arrays.images[s.detection] == 0]
        assert len(first) == expected
        assert not any(s.object >= 0 and arrays.crowd[s.object] for s in suspects)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_boxes_lie_in_the_image_and_overlap_as_they_should(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = rng.uniform(50, 500, 2)
    low = rng.uniform(0, 0.7, 2) * size
    box = np.concatenate([low, low + rng.uniform(0.05, 0.3, 2) * size])
    shifted = shift_box(box, size, rng)
    assert shifted is not None
    iou = box_iou(shifted[None], box[None], np.zeros(1, dtype=np.bool_))[0, 0]
    assert SHIFTED_IOU[0] <= iou <= SHIFTED_IOU[1]
    placed = place_box(box[2:] - box[:2], box[None], size, rng)
    assert box_iou(placed[None], box[None], np.zeros(1, dtype=np.bool_))[0, 0] < 0.1
    for drawn in (shifted, placed):
        assert (drawn[:2] >= 0).all()
        assert (drawn[2:] <= size + 1e-9).all()
        assert (drawn[2:] > drawn[:2]).all()
