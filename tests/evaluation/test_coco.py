"""COCO metrics: the official numbers, and predictions that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detrkit.errors import DataError
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import COCO_NAMES, check_detections, compute_coco_metrics, merge_ranks, summary

from . import oracle
from .cases import SPARSE_IDS, perfect, random_case


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_to_the_official_tool_on_real_data(shared: Path, kind: str) -> None:
    reference = load(shared / "reference/coco_mini_detections.json")
    gt = load(shared / reference["ground_truth"])
    actual = compute_coco_metrics(gt, reference["detections"], kind)  # type: ignore[arg-type]
    assert list(actual.metrics) == list(COCO_NAMES)
    assert list(actual.metrics.values()) == pytest.approx(reference["expected_coco_stats"][kind], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
@example(1049)  # a recall of 7 / 25 is no more than np.linspace's 0.28
def test_equal_to_average_precision_written_out(seed: int) -> None:
    gt, detections = random_case(seed)
    actual = compute_coco_metrics(gt, detections)
    assert actual.metrics["AP50"] == pytest.approx(oracle.ap(gt, detections, [0.5]), abs=1e-9)
    assert actual.metrics["AP75"] == pytest.approx(oracle.ap(gt, detections, [0.75]), abs=1e-9)
    assert actual.metrics["AP"] == pytest.approx(oracle.ap(gt, detections, oracle.IOUS), abs=1e-9)
    for row in actual.per_class:
        objects = [o for o in gt["annotations"] if o["category_id"] == row.id]
        mine = [d for d in detections if d["category_id"] == row.id]
        assert (row.objects, row.detections) == (len(objects), len(mine))
        expected = oracle.average_precision(objects, mine, 0.5)
        assert abs(row.AP50 - expected) < 1e-9


def test_ground_truth_as_detections_is_perfect_with_sparse_ids() -> None:
    gt, _ = random_case(3, images=8, crowds=True)
    actual = compute_coco_metrics(gt, perfect(gt))
    assert actual.metrics["AP"] == pytest.approx(1)
    assert [row.id for row in actual.per_class] == list(SPARSE_IDS)
    assert [row.AP for row in actual.per_class] == pytest.approx([1, 1, -1])


def test_ground_truth_as_detections_is_perfect_on_coco_ids(shared_data: Path) -> None:
    gt = load(shared_data / "coco_mini/val.json")
    assert compute_coco_metrics(gt, perfect(gt)).metrics["AP"] == pytest.approx(1)


def test_inputs_stay_as_they_were() -> None:
    gt, detections = random_case(1)
    before = json.dumps([gt, detections])
    compute_coco_metrics(gt, detections)
    assert json.dumps([gt, detections]) == before


def test_no_detections_give_zero_and_no_objects_give_minus_one() -> None:
    gt, detections = random_case(1)
    assert set(compute_coco_metrics(gt, []).metrics.values()) <= {0.0, -1.0}  # no object is large
    assert compute_coco_metrics(gt, []).metrics["AP"] == 0
    empty = gt | {"annotations": []}
    assert set(compute_coco_metrics(empty, detections).metrics.values()) == {-1.0}
    assert set(compute_coco_metrics(empty, []).metrics.values()) == {-1.0}
    nothing: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    assert set(compute_coco_metrics(nothing, []).metrics.values()) == {-1.0}


def test_more_than_a_hundred_objects_per_image() -> None:
    boxes = [[float(10 * (k % 20)), float(10 * (k // 20)), 8.0, 8.0] for k in range(150)]
    gt = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [{"id": k, "image_id": 1, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    official = compute_coco_metrics(gt, perfect(gt))
    assert official.metrics["AR100"] == pytest.approx(100 / 150)
    wide = compute_coco_metrics(gt, perfect(gt), max_dets=300)
    assert wide.metrics["AR300"] == wide.metrics["AP@300"] == pytest.approx(1)
    assert {name: wide.metrics[name] for name in COCO_NAMES} == official.metrics
    assert abs(wide.per_class[0].AR - 1) < 1e-9
    assert "maxDets=300" in summary(wide.metrics)
    with pytest.raises(DataError, match="at least 100"):
        compute_coco_metrics(gt, [], max_dets=10)


def test_summary_reads_as_the_official_one() -> None:
    gt, detections = random_case(1)
    lines = summary(compute_coco_metrics(gt, detections).metrics).splitlines()
    assert len(lines) == 13
    assert "Average Precision (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0." in lines[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 4}, "image id 4, which is not among the 4 images"),
        ({"category_id": 1}, "category id 1, which is not among the ids of the ground truth .3, 7, 90."),
        ({"bbox": [0, 0, float("nan"), 1]}, "finite box"),
        ({"bbox": [0, 0, 1]}, "finite box"),
        ({"score": float("inf")}, "finite box"),
        ({"score": None}, "finite box"),
        ({"bbox": "wide"}, "finite box"),
        ({"bbox": None}, "finite box"),
        ({"bbox": 5}, "finite box"),
        ({"bbox": [0, [1, 2], 3, 4]}, "finite box"),
        ({"bbox": {"x": 0, "y": 0, "w": 1, "h": 1}}, "finite box"),
        ({"bbox": [0, 0, "9", 1]}, r"has bbox \[0, 0, '9', 1\]"),
        ({"score": "0.5"}, "and score '0.5'"),
        ({"image_id": "5"}, "image id '5'"),
    ],
)
def test_foreign_detections_are_refused(change: dict[str, Any], sentence: str) -> None:
    gt, _ = random_case(1)
    row = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}
    check_detections(gt, [row], where="found.json")
    with pytest.raises(DataError, match=sentence) as caught:
        check_detections(gt, [row, row | change], where="found.json")
    assert "detection 1 of found.json" in str(caught.value)


def test_incomplete_detections_are_refused() -> None:
    gt, _ = random_case(1)
    with pytest.raises(DataError, match="has no 'score'"):
        compute_coco_metrics(gt, [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]}])
    row = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}
    with pytest.raises(DataError, match="segmentation"):
        compute_coco_metrics(gt, [row], "segm")


@pytest.mark.parametrize(
    "mask", ["outline", [1, 2, 3], {"size": [9, 9], "counts": [81]}, {"size": [100, 100], "counts": "zz"}]
)
def test_malformed_masks_are_refused(mask: Any) -> None:
    gt, _ = random_case(1)
    row = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5, "segmentation": mask}
    with pytest.raises(DataError, match=r"detection 0 of found\.json has"):
        check_detections(gt, [row], "segm", where="found.json")


def test_ranks_are_merged_without_duplicates() -> None:
    rows = [{"image_id": i, "category_id": 3, "bbox": [0.0, 1, 2, i], "score": 0.1 * i} for i in range(5)]
    rows[2] |= {"segmentation": {"size": [1, 1], "counts": "01"}}
    twice = rows[0] | {"score": 0.7}
    parts = [([2, 0, 4], [rows[2], twice, rows[0]]), ([1, 3, 0], [rows[1], rows[3], rows[0] | {"score": 0.5}])]
    merged = merge_ranks([(seen, DetectionArrays.from_rows(actual)) for seen, actual in parts])
    assert list(merged) == [twice, rows[0], rows[1], rows[2], rows[3]]
    assert list(merge_ranks([])) == []
