"""Thresholds, confusion and mistakes against brute force and against the official numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.evaluation.confusion import Confusion, confusion_matrix, mistakes
from detrkit.evaluation.error_gallery import choose
from detrkit.evaluation.matching import EvalArrays, match_detections
from detrkit.evaluation.per_class import f1_curve, f1_curves

from . import oracle
from .cases import perfect, random_case

SEEDS = st.integers(0, 10**6)


def confused(gt: dict[str, Any], detections: list[dict[str, Any]], at: float) -> tuple[EvalArrays, Confusion]:
    arrays = EvalArrays.from_coco(gt, detections)
    return arrays, confusion_matrix(arrays, match_detections(arrays), at)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_match_results_equal_plain_matching(seed: int) -> None:
    gt, detections = random_case(seed)
    arrays = EvalArrays.from_coco(gt, detections)
    right = match_detections(arrays).right
    for k, category in enumerate(arrays.category_ids.tolist()):
        objects = [o for o in gt["annotations"] if o["category_id"] == category]
        actual = [d for d in detections if d["category_id"] == category]
        ours = sorted(zip(arrays.scores[arrays.classes == k], right[arrays.classes == k], strict=True), reverse=True)
        assert ours == oracle.hits(objects, actual, 0.5)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_match_results_reach_the_official_recall_with_crowds(seed: int) -> None:
    gt, detections = random_case(seed, crowds=True)
    arrays = EvalArrays.from_coco(gt, detections)
    overall, curves = f1_curves(arrays, match_detections(arrays))
    official = compute_coco_metrics(gt, detections)
    for k, curve in enumerate(curves):
        reached = official.precision[0, :, k] > 0
        expected = official.recall_points[reached].max() if reached.any() else 0
        ours = curve.recall[-1] if curve.objects and len(curve.recall) else 0
        assert expected <= ours + 1e-9 < expected + 0.01 + 2e-9
    assert overall.objects == sum(row.objects for row in official.per_class)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8, 0.9]), st.booleans()), max_size=12),
    st.integers(0, 3),
)
def test_best_threshold_equals_brute_force(judged: list[tuple[float, bool]], missed: int) -> None:
    scores = np.array([score for score, _ in judged])
    right = np.array([hit for _, hit in judged], dtype=bool)
    objects = int(right.sum()) + missed

    def f1_at(threshold: float) -> float:
        shown = scores >= threshold
        return float(2 * (right & shown).sum() / (shown.sum() + objects))

    best = f1_curve(scores, right, objects).best
    if not objects:
        assert (best.threshold, best.f1) == (None, -1)
    elif not right.any():
        assert (best.threshold, best.f1) == (None, 0)
    else:
        assert best.threshold is not None
        everywhere = {t: f1_at(t) for t in scores.tolist()}
        assert best.f1 == pytest.approx(max(everywhere.values()))
        assert best.f1 == pytest.approx(f1_at(best.threshold))
        assert best.threshold == max(t for t, f1 in everywhere.items() if f1 == everywhere[best.threshold])
        assert best.f1 == pytest.approx(2 * best.precision * best.recall / (best.precision + best.recall))


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.3, 0.6, 1.1]), st.booleans())
def test_confusion_sums(seed: int, at: float, crowds: bool) -> None:
    gt, detections = random_case(seed, crowds=crowds)
    arrays, confusion = confused(gt, detections, at)
    counts = confusion.counts
    matches = match_detections(arrays)
    assert counts[:-1].sum(axis=1).tolist() == arrays.objects_per_class().tolist()
    shown = arrays.classes[(arrays.scores >= at) & ~matches.ignored]
    assert counts[:, :-1].sum(axis=0).tolist() == np.bincount(shown, minlength=3).tolist()
    assert counts[-1, -1] == 0
    right = arrays.classes[matches.right & (arrays.scores >= at)]
    assert np.diag(counts)[:-1].tolist() == np.bincount(right, minlength=3).tolist()
    actual = mistakes(arrays, confusion)
    assert len(actual["missed"]) == counts[:-1, -1].sum()
    assert len(actual["false alarm"]) == counts[-1].sum()
    assert len(actual["wrong class"]) == counts[:-1, :-1].sum() - np.diag(counts)[:-1].sum()
    for ranked in actual.values():
        assert [m.severity for m in ranked] == sorted((m.severity for m in ranked), reverse=True)


def test_confusion_of_a_perfect_detector_is_diagonal() -> None:
    gt, _ = random_case(5, crowds=True)
    arrays, confusion = confused(gt, perfect(gt), 0.5)
    assert confusion.counts.tolist() == np.diag([*arrays.objects_per_class(), 0]).tolist()


def test_who_is_paired_with_whom() -> None:
    def box(x: float) -> list[float]:
        return [x, 0.0, 10.0, 10.0]

    gt = {
        "images": [{"id": 9}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"image_id": 9, "category_id": 2, "bbox": box(0)},
            {"image_id": 9, "category_id": 4, "bbox": box(20)},
            {"image_id": 9, "category_id": 4, "bbox": box(40)},
            {"image_id": 9, "category_id": 4, "bbox": [100.0, 0.0, 50.0, 50.0], "iscrowd": 1},
        ],
    }
    rows = [
        ("dog", 0, 0.9),  # on the cat, but the cat's own detection has the first right
        ("cat", 0, 0.8),
        ("cat", 20, 0.7),  # a dog taken for a cat
        ("cat", 1, 0.6),  # the same cat again
        ("dog", 110, 0.95),  # in the crowd of dogs: ignored
        ("dog", 40, 0.1),  # right, but below the threshold
    ]
    ids = {"cat": 2, "dog": 4}
    actual = [{"image_id": 9, "category_id": ids[n], "bbox": box(x), "score": s} for n, x, s in rows]
    arrays, confusion = confused(gt, actual, 0.5)
    assert confusion.counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    ranked = mistakes(arrays, confusion)
    assert [(m.severity, m.doubled) for m in ranked["false alarm"]] == [(0.9, False), (0.6, True)]
    assert [m.severity for m in ranked["wrong class"]] == [0.7]
    assert [m.severity for m in ranked["missed"]] == [100]
    assert [m.kind for m in choose(ranked, 3)] == ["missed", "wrong class", "false alarm"]
    assert len(choose(ranked, 100)) == 4


def test_nothing_at_all() -> None:
    gt: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    arrays, confusion = confused(gt, [], 0.5)
    assert confusion.counts.tolist() == [[0]]
    assert mistakes(arrays, confusion) == {"missed": [], "wrong class": [], "false alarm": []}
    overall, curves = f1_curves(arrays, match_detections(arrays))
    assert overall.best.threshold is None
    assert curves == []
