"""The benchmark of evaluation: data like COCO's, and tools that agree."""

import numpy as np
import pytest
import torch

import evaluation
from detrkit import Output, postprocess
from detrkit.evaluation.coco_metrics import compute_coco_metrics


def test_drawn_data_have_the_statistics_of_coco() -> None:
    gt, rows = evaluation.drawn(2000, 10)
    objects = gt["annotations"]
    assert len(objects) / 2000 == pytest.approx(7.3, rel=0.1)
    assert len(rows) == 20_000
    areas = np.array([row["area"] for row in objects])
    assert (areas < 32**2).mean() == pytest.approx(0.41, abs=0.1)
    assert (areas > 96**2).mean() == pytest.approx(0.24, abs=0.1)
    assert np.mean([row["iscrowd"] for row in objects]) == pytest.approx(0.012, abs=0.005)
    per_image = [{row["category_id"] for row in objects if row["image_id"] == k} for k in range(1, 101)]
    assert np.mean([len(classes) for classes in per_image]) == pytest.approx(2.3, abs=0.6)
    assert all(np.float32(value) == value for row in rows[:100] for value in (row["score"], *row["bbox"]))


def test_the_tools_agree() -> None:
    gt, rows = evaluation.drawn(60, 100)
    ours = list(compute_coco_metrics(gt, rows).metrics.values())
    assert 0.1 < ours[0] < 0.6
    assert evaluation.faster_coco_eval(gt, [dict(row) for row in rows]) == pytest.approx(ours, abs=1e-9)


def test_the_tools_agree_with_pycocotools() -> None:
    pytest.importorskip("pycocotools", reason="the benchmark's yardstick, no dependency")
    gt, rows = evaluation.drawn(30, 50)
    ours = list(compute_coco_metrics(gt, rows).metrics.values())
    assert evaluation.pycocotools(gt, [dict(row) for row in rows]) == pytest.approx(ours, abs=1e-9)


def test_the_loop_over_images_equals_the_batch() -> None:
    out, sizes = Output(torch.randn(3, 9, 5), torch.rand(3, 9, 4)), torch.tensor([[48, 64]] * 3)
    for loop, batch in zip(evaluation.plain_boxes(out, sizes), postprocess(out, sizes, best_first=True), strict=True):
        torch.testing.assert_close(loop.xyxy, batch.xyxy)
        torch.testing.assert_close(loop.scores, batch.scores)
        assert torch.equal(loop.class_ids, batch.class_ids)
