"""The report of an evaluation: its files, figures and tables."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from detrkit.evaluation.confusion import Confusion
from detrkit.evaluation.per_class import f1_curve
from detrkit.evaluation.report import class_table, tables, write_report
from detrkit.evaluation.report_page import _confusion_table, _f1_line
from detrkit.visualization.draw import Tile

from .cases import perfect, random_case


@pytest.fixture
def some_images(tmp_path: Path) -> dict[int, Path]:
    """A gray image for every image of `random_case`."""
    paths = {}
    for image_id in (5, 15, 25, 35):
        paths[image_id] = tmp_path / f"{image_id}.png"
        noise = np.random.default_rng(image_id).integers(90, 160, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(paths[image_id])
    return paths


def test_a_report_is_complete(tmp_path: Path, some_images: dict[int, Path]) -> None:
    gt, detections = random_case(15, crowds=True)
    content = write_report(gt, detections, tmp_path / "report", image_paths=some_images, meta={"weights": "best.ckpt"})
    written = {p.relative_to(tmp_path / "report").as_posix() for p in (tmp_path / "report").rglob("*") if p.is_file()}
    assert written == {
        "report.html",
        "metrics.json",
        "images.json",
        "pr_curves.png",
        "f1_threshold.png",
        "confusion_matrix.png",
        "errors/missed.jpg",
        "errors/wrong_class.jpg",
        "errors/false_alarm.jpg",
    }
    assert json.loads((tmp_path / "report/metrics.json").read_text(encoding="utf-8")) == content
    assert content["made_by"]["weights"] == "best.ckpt"
    assert content["detections"] == len(detections)
    assert len(content["worst_mistakes"]) == min(24, sum(content["mistakes"].values()))
    for name in written - {"metrics.json", "images.json", "report.html"}:
        with Image.open(tmp_path / "report" / name) as one_image:
            assert min(one_image.size) > 100


@pytest.mark.parametrize("crowds", [False, True])
def test_the_images_of_a_report_have_the_pairs_of_its_confusion_matrix(
    tmp_path: Path, some_images: dict[int, Path], crowds: bool
) -> None:
    gt, detections = random_case(15, crowds=crowds)
    content = write_report(gt, detections, tmp_path / "report", image_paths=some_images)
    pairs = json.loads((tmp_path / "report/images.json").read_text(encoding="utf-8"))
    labels = content["confusion_matrix"]["labels"]
    assert pairs["labels"] == labels
    assert pairs["threshold"] == content["confusion_matrix"]["threshold"]
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for image in pairs["images"]:
        assert (tmp_path / "report" / image["path"]).resolve() == some_images[image["id"]].resolve()
        missed = set(range(len(image["objects"]))) - set(image["crowds"])
        for class_index, score, *_, partner in image["detections"]:
            assert score >= round(pairs["threshold"], 4)
            counts[-1 if partner < 0 else image["objects"][partner][0], class_index] += 1
            missed.discard(partner)
        for index in missed:
            counts[image["objects"][index][0], -1] += 1
    assert counts.tolist() == content["confusion_matrix"]["rows_gt_columns_prediction"]
    boxes = [box for image in pairs["images"] for _, *box in image["objects"]]
    assert len(boxes) == len(gt["annotations"])
    assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in boxes)


def test_mistakes_are_drawn_in_the_colors_of_the_original_ids(
    tmp_path: Path, some_images: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles: list[Tile] = []

    def sheet(actual: list[Tile], **_: int) -> np.ndarray:
        tiles.extend(actual)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("detrkit.evaluation.error_gallery.sheet", sheet)
    gt, detections = random_case(15)
    write_report(gt, detections, tmp_path / "report", image_paths=some_images)
    names = {row["id"]: row["name"] for row in gt["categories"]}
    drawn = [actual for tile in tiles for actual in (tile.detections, tile.gt) if actual is not None and len(actual)]
    assert drawn
    for actual in drawn:
        assert tuple(names[i] for i in actual.class_ids.tolist()) == actual.class_names


def test_the_page_shows_what_the_report_has(tmp_path: Path, some_images: dict[int, Path]) -> None:
    gt, detections = random_case(15)
    gt["categories"][0]["name"] = "<b>bold</b>"
    content = write_report(
        gt, detections, tmp_path, image_paths=some_images, meta={"command": "detrkit eval", "data": "D"}
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    titles = ["Summary", "COCO metrics", "Class by class", "Curves", "Confusion matrix", "Most frequent confusions"]
    assert re.findall(r"<h2[^>]*>(?:<bdi>)?(.*?)<", page) == [*titles, "Errors", "Settings", "Command"]
    assert f">{content['coco']['bbox']['AP']:.3f}<" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert page.count("<figure data-group") == len(content["worst_mistakes"])
    assert page.count('stroke="#ff3b30"') >= len(content["worst_mistakes"])  # each image marks its error
    assert "detrkit eval" in page


def test_f1_of_the_page_is_that_of_the_curve() -> None:
    scores = np.array([0.9, 0.505, 0.3])
    line = _f1_line("all", f1_curve(scores, np.array([True, False, True]), objects=2))
    f1 = dict(zip(np.round(line.x, 2).tolist(), line.y, strict=True))
    assert f1[1.0] == 0
    assert f1[0.9] == f1[0.51] == pytest.approx(2 / 3)
    assert f1[0.5] == f1[0.31] == pytest.approx(2 / 4)
    assert f1[0.3] == f1[0.0] == pytest.approx(4 / 5)


def test_the_page_of_many_classes_names_the_most_frequent_confusions() -> None:
    counts = np.diag(np.full(61, 5))
    counts[3, 7], counts[60, 4] = 4, 2
    counts[60, 60] = 0
    names = tuple(f"c{k}" for k in range(60))
    table = _confusion_table(Confusion(0.5, names, counts, np.zeros(0, np.int64), np.zeros(0, np.bool_)))
    assert table.rows == [["c3", "c7", 4, 4 / 9], ["background", "c4", 2, None]]


def test_a_second_report_leaves_nothing_of_the_first(tmp_path: Path, some_images: dict[int, Path]) -> None:
    gt, detections = random_case(2)
    write_report(gt, detections, tmp_path / "report", image_paths=some_images)
    content = write_report(gt, perfect(gt), tmp_path / "report", image_paths=some_images)
    assert content["coco"]["bbox"]["AP"] == pytest.approx(1)
    assert content["best_threshold"]["f1"] == 1
    assert content["worst_mistakes"] == []
    assert not list((tmp_path / "report/errors").iterdir())


@pytest.mark.parametrize("what", ["no detections", "no objects", "nothing", "no images"])
def test_a_report_of_little(tmp_path: Path, what: str) -> None:
    gt, detections = random_case(4)
    if what == "no detections":
        detections = []
    elif what == "no objects":
        gt = gt | {"annotations": []}
    elif what == "nothing":
        gt, detections = {"images": [], "annotations": [], "categories": []}, []
    content = write_report(gt, detections, tmp_path)
    assert "NaN" not in (tmp_path / "metrics.json").read_text(encoding="utf-8")
    Console(width=100, quiet=True).print(class_table(content))
    if what == "no objects":
        assert content["coco"]["bbox"]["AP"] == -1
        assert content["best_threshold"]["score"] is None


def test_masks_are_measured_where_both_sides_have_them(tmp_path: Path) -> None:
    gt, _ = random_case(2)
    for row in gt["annotations"]:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    detections: list[dict[str, Any]] = perfect(gt)
    for row in detections:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    content = write_report(gt, detections, tmp_path)
    assert content["coco"]["segm"]["AP"] == pytest.approx(1)


def test_the_table_names_the_classes(tmp_path: Path) -> None:
    gt, detections = random_case(2)
    console = Console(width=120, record=True, file=(tmp_path / "out.txt").open("w", encoding="utf-8"))
    with console.file:
        console.print(class_table(write_report(gt, detections, tmp_path)))
    text = console.export_text()
    assert "class 3" in text
    assert "1 more without an object" in text


def test_intervals_are_in_the_report_and_its_tables(tmp_path: Path) -> None:
    gt, detections = random_case(2, images=12)
    content = write_report(gt, detections, tmp_path, bootstrap=50)
    intervals = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["intervals"]
    assert (intervals["level"], intervals["images"], intervals["resamples"]) == (0.95, 12, 50)
    for name, (low, high) in intervals["metrics"].items():
        assert 0 <= low < content["coco"]["bbox"][name] < high <= 1
    first, second, absent = intervals["per_class"]
    for row, metrics in zip((first, second), content["per_class"], strict=False):
        assert row["AP"][0] <= metrics["AP"] <= row["AP"][1]
        assert row["images"] <= 12
    assert absent["AP"] is None
    console = Console(width=80, record=True, file=(tmp_path / "out.txt").open("w", encoding="utf-8"))
    with console.file:
        for table in tables(content):
            console.print(table)
    text = console.export_text()
    low, high = intervals["metrics"]["AP"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert f"{low:.3f} to {high:.3f}" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "95 % bootstrap intervals: 50 resamples of 12 images" in text
    without = write_report(gt, detections, tmp_path, bootstrap=0)
    assert "intervals" not in without
    assert without == {name: value for name, value in content.items() if name != "intervals"}


def test_half_a_million_detections_take_seconds(tmp_path: Path) -> None:
    """A tenth of that here: 500 images with 100 detections and 7 objects each."""
    import time

    rng = np.random.default_rng(0)
    gt: dict[str, Any] = {
        "images": [{"id": i, "height": 480, "width": 640} for i in range(500)],
        "categories": [{"id": c, "name": str(c)} for c in range(80)],
        "annotations": [
            {"id": k, "image_id": k % 500, "category_id": int(rng.integers(80)), "bbox": box.tolist()}
            for k, box in enumerate(rng.uniform(10, 300, (3500, 4)))
        ],
    }
    detections = [
        {"image_id": k % 500, "category_id": int(rng.integers(80)), "bbox": box.tolist(), "score": float(rng.random())}
        for k, box in enumerate(rng.uniform(10, 300, (50_000, 4)))
    ]
    start = time.process_time()
    write_report(gt, detections, tmp_path)
    assert time.process_time() - start < 30  # about 3 s
