"""Small truths and detections for the tests of evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

SPARSE_IDS = (3, 7, 90)
"""Category ids with gaps, none of them 0 or 1."""


def random_case(
    seed: int, images: int = 4, objects: int = 5, detections: int = 8, crowds: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth with sparse ids, and detections of which about half lie near an object; all scores differ."""
    rng = np.random.default_rng(seed)
    image_ids = [int(10 * k + 5) for k in range(images)]
    annotations: list[dict[str, Any]] = []
    actual: list[dict[str, Any]] = []
    scores = iter(rng.permutation(images * detections * 2) / (images * detections * 2))
    for image_id in image_ids:
        here = []
        for _ in range(rng.integers(0, objects + 1)):
            x, y, w, h = (float(v) for v in np.concatenate([rng.uniform(0, 60, 2), rng.uniform(4, 40, 2)]).round(1))
            row = {
                "id": len(annotations),  # starts at 0 on purpose
                "image_id": image_id,
                "category_id": int(rng.choice(SPARSE_IDS[:2])),  # the last class never has an object
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(crowds and rng.random() < 0.2),
            }
            annotations.append(row)
            here.append(row)
        for _ in range(rng.integers(0, detections + 1)):
            if here and rng.random() < 0.7:
                near = here[rng.integers(len(here))]
                box = np.array(near["bbox"]) + rng.normal(0, 2, 4)
                category = near["category_id"] if rng.random() < 0.7 else int(rng.choice(SPARSE_IDS))
            else:
                box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(4, 40, 2)])
                category = int(rng.choice(SPARSE_IDS))
            box[2:] = np.maximum(box[2:], 1)
            actual.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in box.round(2)],
                    "score": float(next(scores)),
                }
            )
    gt = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in SPARSE_IDS],
    }
    return gt, actual


def perfect(gt: dict[str, Any]) -> list[dict[str, Any]]:
    """The ground truth as detections, without crowds."""
    keys = ("image_id", "category_id", "bbox")
    return [{k: row[k] for k in keys} | {"score": 0.9} for row in gt["annotations"] if not row.get("iscrowd")]
