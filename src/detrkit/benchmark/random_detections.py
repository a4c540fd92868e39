"""Random ground truth and detections in COCO's form, to time the evaluation with."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_detections(images: int, classes: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make COCO instances of 7 objects per image, and 100 detections per image: some near the objects, most anywhere.

    Args:
        images: number of images.
        classes: number of categories.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    gt: dict[str, Any] = {
        "images": [{"id": i, "height": 480, "width": 640} for i in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in range(classes)],
        "annotations": [],
    }
    detections = []
    for image in range(images):
        boxes = np.concatenate([rng.uniform(0, 300, (7, 2)), rng.uniform(8, 180, (7, 2))], axis=1)
        labels = rng.integers(classes, size=7)
        for k, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
            row = {"id": 7 * image + k + 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            gt["annotations"].append(row | {"area": box[2] * box[3]})
        others = np.concatenate([rng.uniform(0, 300, (86, 2)), rng.uniform(8, 180, (86, 2))], axis=1)
        moved = np.concatenate([boxes, boxes]) + rng.normal(0, 6, (14, 4))
        pred_boxes = np.concatenate([moved, others]).clip(1)
        pred_labels = np.concatenate([labels, labels, rng.integers(classes, size=86)])
        scores = np.concatenate([rng.uniform(0.2, 1, 14), rng.uniform(0, 0.5, 86)])
        for box, label, score in zip(pred_boxes.tolist(), pred_labels.tolist(), scores.tolist(), strict=True):
            detections.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    return gt, detections
