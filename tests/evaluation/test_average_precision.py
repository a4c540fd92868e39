"""Our numbers against those of faster-coco-eval, the official evaluation in C++: every entry of every table."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detrkit.evaluation import average_precision
from detrkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from detrkit.evaluation.average_precision import MatchTable, match, of_masks
from detrkit.evaluation.coco_metrics import compute_coco_metrics, read_detection_arrays
from detrkit.ops.masks import as_rle

from .cases import SPARSE_IDS, random_case

SEEDS = st.integers(0, 10**6)
STEPS = (1, 10, 100)


def official(gt: dict[str, Any], rows: list[dict[str, Any]], kind: str, steps: tuple[int, ...] = STEPS) -> Any:
    """Precision [T, 101, C, A, steps], scores likewise, and recall [T, C, A, steps]."""
    from faster_coco_eval import COCO
    from faster_coco_eval.core import COCOeval_faster

    objects = [{"area": row["bbox"][2] * row["bbox"][3], **row, "id": k} for k, row in enumerate(gt["annotations"], 1)]
    actual = [
        row | {"id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "bbox": list(row["bbox"])}
        for k, row in enumerate(rows, 1)
    ]
    judge = COCOeval_faster(
        COCO(gt | {"annotations": objects}, print_function=str),
        COCO(gt | {"annotations": actual}, print_function=str),
        kind,
        print_function=str,
    )
    judge.params.maxDets = list(steps)
    judge.evaluate()
    judge.accumulate()
    classes = len(gt["categories"])
    shapes = {"precision": (10, 101, classes, 4), "scores": (10, 101, classes, 4), "recall": (10, classes, 4)}
    return {name: np.asarray(judge.eval[name]).reshape(*shape, len(steps)) for name, shape in shapes.items()}


def assert_equal(matched: MatchTable, expected: dict[str, NDArray[np.float64]], steps: tuple[int, ...] = STEPS) -> None:
    for k, most in enumerate(steps):
        precision, scores = matched.precision(most)
        np.testing.assert_allclose(precision, expected["precision"][..., k], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(scores, expected["scores"][..., k])
        np.testing.assert_allclose(matched.recall(most), expected["recall"][..., k], rtol=0, atol=1e-12)


def ties_and_sizes(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes on a grid and few scores, so that overlaps and scores are often equal, and an overlap often just 0.5 or
    0.75; crowds, objects of all three sizes, some of them just at a border; areas unlike the boxes', equal objects,
    boxes without extent, images without one or the other."""
    rng = np.random.default_rng(seed)
    sides = (0, 8, 16, 24, 32, 64, 96, 128)

    def box(near: list[list[float]]) -> list[float]:
        if near and rng.random() < 0.7:
            x, y, w, h = near[rng.integers(len(near))]
            return [x + 8.0 * rng.integers(-1, 2), y, w, max(8.0, h + 8.0 * rng.integers(-1, 2))]
        return [8.0 * rng.integers(0, 4), 8.0 * rng.integers(0, 4), *(float(v) for v in rng.choice(sides, 2))]

    objects: list[dict[str, Any]] = []
    actual: list[dict[str, Any]] = []
    image_ids = [int(i) for i in rng.permutation(6) * 7 + 1]
    for image_id in image_ids:
        for _ in range(rng.integers(0, 7)):
            row = {"image_id": image_id, "category_id": int(rng.choice(SPARSE_IDS)), "bbox": box([])}
            area = {} if rng.random() < 0.5 else {"area": float(rng.choice([0, 500, 1024, 5000, 9216, 20000]))}
            objects.append({"id": len(objects) + 1, "iscrowd": int(rng.random() < 0.25), **row, **area})
    for image_id in rng.permutation(image_ids).tolist():
        near = [row["bbox"] for row in objects if row["image_id"] == image_id]
        for _ in range(rng.integers(0, 16)):
            score = float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]))
            category_id = int(rng.choice(SPARSE_IDS, p=[0.6, 0.3, 0.1]))
            actual.append({"image_id": image_id, "category_id": category_id, "bbox": box(near), "score": score})
    order = rng.permutation(len(actual)).tolist()
    gt = {
        "images": [{"id": i, "height": 200, "width": 200} for i in image_ids],
        "annotations": objects,
        "categories": [{"id": i, "name": f"class {i}"} for i in SPARSE_IDS],
    }
    return gt, [actual[k] for k in order]


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_boxes_equal_the_official_tool_with_ties_crowds_and_sizes(seed: int) -> None:
    gt, rows = ties_and_sizes(seed)
    matched = match(GroundTruthArrays.from_coco(gt), read_detection_arrays(gt, rows), 100)
    assert_equal(matched, official(gt, rows, "bbox"))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_limits_equal_the_official_tool(seed: int) -> None:
    steps = (1, 2, 4)
    gt, rows = ties_and_sizes(seed)
    matched = match(GroundTruthArrays.from_coco(gt), read_detection_arrays(gt, rows), steps[-1])
    assert_equal(matched, official(gt, rows, "bbox", steps), steps)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_masks_equal_the_official_tool(seed: int) -> None:
    gt, rows = random_case(seed, crowds=True)
    gt["annotations"] = [row | {"id": k, "segmentation": diamond(row)} for k, row in enumerate(gt["annotations"])]
    rows = [row | {"segmentation": as_rle(diamond(row), 100, 100)} for row in rows]
    actual, objects = read_detection_arrays(gt, rows, "segm"), GroundTruthArrays.from_coco(gt)
    masks = [as_rle(row["segmentation"], 100, 100) for row in gt["annotations"]]
    assert_equal(
        match(objects, actual, 100, of_masks(actual.segmentations or (), masks, objects)), official(gt, rows, "segm")
    )


def diamond(row: dict[str, Any]) -> list[list[float]]:
    x, y, w, h = row["bbox"]
    return [[x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 7))
def test_pairs_at_once_change_nothing(seed: int, pairs: int) -> None:
    gt, rows = ties_and_sizes(seed)
    whole = compute_coco_metrics(gt, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average_precision, "PAIRS_AT_ONCE", pairs)
        parts = compute_coco_metrics(gt, rows)
    assert parts.metrics == whole.metrics
    assert np.array_equal(parts.precision, whole.precision)


@pytest.mark.parametrize("beside_last", [True, False])
def test_of_equal_overlaps_the_last_is_taken(beside_last: bool) -> None:
    """The better detection lies between two objects, the other on one of them: it comes too late for the last."""
    boxes = [[5.0, 0, 20, 10], [15.0, 0, 20, 10]]
    gt = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for box in boxes],
        "categories": [{"id": 1, "name": "x"}],
    }
    second = [16.0 if beside_last else 4.0, 0, 20, 10]
    actual = [([10.0, 0, 20, 10], 0.9), (second, 0.8)]
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in actual]
    matched = match(GroundTruthArrays.from_coco(gt), read_detection_arrays(gt, rows), 100)
    assert matched.recall(100)[0, 0, 0] == (0.5 if beside_last else 1)
    assert_equal(matched, official(gt, rows, "bbox"))


def test_more_images_than_sixteen_bits_count() -> None:
    """Sorting takes 16 bits where they suffice."""
    ids = [0, 65_536, 65_537]
    gt = {
        "images": [{"id": i} for i in range(70_000)],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 10 + k, 10]} for k, i in enumerate(ids)],
        "categories": [{"id": 1}],
    }
    rows = [row | {"score": 0.5} for row in reversed(gt["annotations"])]
    assert compute_coco_metrics(gt, rows).metrics["AP"] == pytest.approx(1)


@pytest.mark.parametrize("masks", [False, True])
def test_columns_read_as_the_rows_they_are_made_of(masks: bool) -> None:
    _, rows = random_case(4)
    if masks:
        rows[1]["segmentation"] = {"size": [100, 100], "counts": "x"}
    columns = DetectionArrays.from_rows(rows)
    assert list(columns) == rows
    assert len(columns) == len(rows)
    assert columns[1] == rows[1]
    assert columns[-1] == rows[-1]
    assert list(columns[2:5]) == rows[2:5]
    assert list(DetectionArrays.concatenate([columns[:2], columns[2:]])) == rows
    assert list(columns.with_masks()) == rows[1:2] * masks
    with pytest.raises(IndexError):
        columns[len(rows)]
