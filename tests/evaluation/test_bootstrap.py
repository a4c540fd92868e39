"""Bootstrap intervals against a plain bootstrap, which evaluates the images of each resample anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from detrkit.evaluation.average_precision import match, of_masks
from detrkit.evaluation.bootstrap import draw_images, percentile_interval, resample_ap, resample_pq
from detrkit.evaluation.coco_metrics import CocoMetrics, compute_coco_metrics
from detrkit.evaluation.intervals import compute_intervals, resample
from detrkit.ops.masks import as_rle

from .cases import SPARSE_IDS, perfect, random_case
from .test_average_precision import diamond, ties_and_sizes
from .test_panoptic import CATEGORIES, measure, random_map

Rows = list[dict[str, Any]]


def drawn_images(gt: dict[str, Any], rows: Rows, counts: Any) -> tuple[dict[str, Any], Rows]:
    """The data set of a resample: each image as often as it was drawn, under new ids."""
    images: Rows = []
    annotations: Rows = []
    detections: Rows = []
    for image, count in zip(sorted(gt["images"], key=lambda row: row["id"]), counts.tolist(), strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append(image | {"id": new})
            annotations += [row | {"image_id": new} for row in gt["annotations"] if row["image_id"] == image["id"]]
            detections += [row | {"image_id": new} for row in rows if row["image_id"] == image["id"]]
    return gt | {"images": images, "annotations": annotations}, detections


def assert_plain(gt: dict[str, Any], rows: Rows, most: int = 100, kind: Any = "bbox", resamples: int = 6) -> None:
    draws = draw_images(len(gt["images"]), resamples, seed=3)
    arrays, objects = DetectionArrays.from_rows(rows), GroundTruthArrays.from_coco(gt)
    overlap = None
    if kind == "segm":
        sizes = {row["id"]: (row["height"], row["width"]) for row in gt["images"]}
        masks, of_objects = (
            [as_rle(row["segmentation"], *sizes[row["image_id"]]) for row in part] for part in (rows, gt["annotations"])
        )
        overlap = of_masks(masks, of_objects, objects)
    samples = resample_ap(match(objects, arrays, most, overlap), draws, most)
    for k, counts in enumerate(draws):
        plain: CocoMetrics = compute_coco_metrics(*drawn_images(gt, rows, counts), kind, max_dets=max(most, 100))
        for name, values in samples.metrics.items():
            if most == 100:
                assert np.nan_to_num(values[k], nan=-1) == pytest.approx(plain.metrics[name], abs=1e-9)
            expected = [getattr(row, name) for row in plain.per_class]
            np.testing.assert_allclose(np.nan_to_num(samples.per_class[name][k], nan=-1), expected, atol=1e-9)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_resample_has_the_metrics_of_an_evaluation_of_its_images(seed: int) -> None:
    assert_plain(*random_case(seed, images=6, crowds=True))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_ties_of_scores_and_overlaps_count_as_in_the_evaluation(seed: int) -> None:
    assert_plain(*ties_and_sizes(seed))


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_masks_too(seed: int) -> None:
    gt, rows = random_case(seed, crowds=True)
    gt["annotations"] = [row | {"segmentation": diamond(row)} for row in gt["annotations"]]
    assert_plain(gt, [row | {"segmentation": diamond(row)} for row in rows], kind="segm", resamples=3)


def test_more_detections_per_image_than_the_official_limit() -> None:
    gt, rows = random_case(5, images=3, objects=40, detections=150)
    rows = [row | {"category_id": SPARSE_IDS[0]} for row in rows]
    assert_plain(gt, rows, most=120, resamples=3)
    coco = compute_coco_metrics(gt, rows, max_dets=120)
    samples = resample({"bbox": coco}, None, [row["id"] for row in gt["images"]], 5)
    official = resample_ap(coco.matches, draw_images(3, 5), 100)
    assert np.array_equal(samples.metrics["AP"], official.metrics["AP"], equal_nan=True)
    assert not np.array_equal(samples.metrics["AP@120"], samples.metrics["AP"], equal_nan=True)


def test_a_resample_has_the_panoptic_quality_of_an_evaluation_of_its_images() -> None:
    cases = [(*random_map(seed), *random_map(1000 + seed)) for seed in range(5)]
    draws = draw_images(5, 20, seed=1)
    samples = resample_pq(measure(*cases).result().counts, np.arange(5), len(CATEGORIES), draws)
    for k, counts in enumerate(draws):
        plain = measure(*(case for case, count in zip(cases, counts, strict=True) for _ in range(count))).result()
        for name, values in samples.items():
            expected = [getattr(row, name) if row.segments + row.predicted else np.nan for row in plain.per_class]
            np.testing.assert_allclose(values[k], expected, atol=1e-9)
    panoptic = measure(*cases).result()
    whole = resample({}, panoptic, range(5), 20, seed=1)
    for k, counts in enumerate(draws):
        plain = measure(*(case for case, count in zip(cases, counts, strict=True) for _ in range(count))).result()
        assert {name: values[k] for name, values in whole.metrics.items()} == pytest.approx(
            {name: np.nan if value == -1 else value for name, value in plain.metrics.items()}, nan_ok=True
        )


def test_resamples_draw_as_many_images_and_depend_on_the_seed_alone() -> None:
    draws = draw_images(30, 200, seed=4)
    assert (draws.sum(axis=1) == 30).all()
    assert np.array_equal(draws, draw_images(30, 200, seed=4))
    assert not np.array_equal(draws, draw_images(30, 200, seed=5))
    assert draws.mean(axis=0) == pytest.approx(1, abs=0.35)


def test_an_interval_leaves_the_same_share_at_both_sides() -> None:
    samples = np.arange(1001.0)
    assert percentile_interval(samples) == pytest.approx((25, 975))
    assert percentile_interval(np.array([np.nan, 2.0, np.nan])) == (2, 2)  # resamples without an object are left out
    assert percentile_interval(np.full(3, np.nan)) is None


def test_perfect_detections_have_no_spread_and_absent_classes_no_interval() -> None:
    gt, _ = random_case(8, images=12)
    ids = [row["id"] for row in gt["images"]]
    intervals = compute_intervals(resample({"bbox": compute_coco_metrics(gt, perfect(gt))}, None, ids, 50))
    assert intervals.metrics == {"AP": (1, 1), "AP50": (1, 1), "AP75": (1, 1)}
    assert [row.metrics["AP"] for row in intervals.per_class] == [(1, 1), (1, 1), None]
    assert [row.images for row in intervals.per_class][2] == 0


@pytest.mark.parametrize("images", [1, 4])
def test_few_images_give_no_interval(images: int) -> None:
    gt, rows = random_case(1, images=images)
    assert gt["annotations"]
    ids = [row["id"] for row in gt["images"]]
    intervals = compute_intervals(resample({"bbox": compute_coco_metrics(gt, rows)}, None, ids, 20))
    assert intervals.metrics == {"AP": None, "AP50": None, "AP75": None}


def test_no_object_and_no_detection_give_no_interval_and_no_error() -> None:
    gt, rows = random_case(1, images=5)
    ids = [row["id"] for row in gt["images"]]
    none = compute_coco_metrics(gt | {"annotations": []}, rows)
    assert set(compute_intervals(resample({"bbox": none}, None, ids, 20)).metrics.values()) == {None}
    blind = compute_coco_metrics(gt, [])
    assert set(compute_intervals(resample({"bbox": blind}, None, ids, 20)).metrics.values()) == {(0, 0)}
