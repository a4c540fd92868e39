"""Results printed: what a reader wants to know of them, in one line."""

import torch

from detrkit import Categories, Detections
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.results import PanopticMap


def detections(names: list[str], scores: list[float], masks: bool = False) -> Detections:
    n = len(names)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(n, 1)
    return Detections(
        boxes, scores, list(range(n)), names, masks=torch.ones(n, 4, 4, dtype=torch.bool) if masks else None
    )


def test_detections() -> None:
    assert repr(detections([], [])) == "Detections(no objects)"
    assert repr(detections(["cat"], [0.976])) == "Detections(1 object: 1 cat; score 0.98)"
    actual = detections(["cat", "dog", "cat"], [0.98, 0.61, 0.7])
    assert repr(actual) == str(actual) == "Detections(3 objects: 2 cat, 1 dog; scores 0.61 to 0.98)"
    masked = detections(["cat"], [0.5], masks=True)
    assert repr(masked) == "Detections(1 object: 1 cat; score 0.50; with masks)"
    many = detections(list("abcdefg"), [0.5] * 7)
    assert repr(many) == "Detections(7 objects: 1 a, 1 b, 1 c, 1 d, 1 e and 2 more classes; scores 0.50 to 0.50)"
    unnamed = Detections(torch.zeros(1, 4), torch.tensor([0.5]), torch.tensor([3]))
    assert repr(unnamed) == "Detections(1 object: 1 class 3; score 0.50)"


def test_panoptic_maps() -> None:
    rows = [{"id": k, "category_id": k, "category_name": name} for k, name in enumerate(("sky", "cat", "cat"))]
    assert repr(PanopticMap(torch.zeros(3, 4), rows)) == "PanopticMap(3 x 4 pixels, 3 segments: 2 cat, 1 sky)"
    assert repr(PanopticMap(torch.zeros(3, 4), [])) == "PanopticMap(3 x 4 pixels, no segments)"


def test_categories() -> None:
    assert repr(Categories((3, 7), ("scratch", "pit"))) == "Categories(2 classes: 3 scratch, 7 pit)"
    assert repr(Categories((1,), ("x",))) == "Categories(1 class: 1 x)"
    assert repr(Categories(range(9), map(str, range(9)))) == (
        "Categories(9 classes: 0 0, 1 1, 2 2, 3 3, 4 4, 5 5, and 3 more)"
    )
    panoptic = Categories((1, 2), ("cat", "sky"), (True, False))
    assert repr(panoptic) == "Categories(2 classes: 1 cat, 2 sky; 1 things, 1 stuff)"


def test_metrics() -> None:
    gt = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "iscrowd": 0}],
    }
    metrics = compute_coco_metrics(gt, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}])
    assert repr(metrics) == "CocoMetrics(boxes: AP 1.000, AP50 1.000, AP75 1.000, AR100 1.000; 1 class)"
    assert str(metrics).splitlines()[1].endswith("@[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000")
