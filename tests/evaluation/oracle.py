"""COCO's average precision written out slowly and plainly, as a second opinion on ours.

Boxes are x, y, w, h as in COCO files. No crowds, no area ranges, no limit on detections: the cases are tiny.
"""

from __future__ import annotations

from typing import Any

import numpy as np

IOUS = [0.5 + 0.05 * k for k in range(10)]


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    whole = a[2] * a[3] + b[2] * b[3] - shared
    return shared / whole if whole > 0 else 0.0


def hits(objects: list[dict[str, Any]], detections: list[dict[str, Any]], at: float) -> list[tuple[float, bool]]:
    """(score, right?) of the detections of one class, best first, over all images."""
    matches = []
    for image in sorted({d["image_id"] for d in detections}):
        free = [o for o in objects if o["image_id"] == image]
        mine = [d for d in detections if d["image_id"] == image]
        for detection in sorted(mine, key=lambda d: -d["score"]):
            best = max(free, key=lambda o: iou(o["bbox"], detection["bbox"]), default=None)
            right = best is not None and iou(best["bbox"], detection["bbox"]) >= at - 1e-10
            if right:
                free.remove(best)
            matches.append((detection["score"], right))
    return sorted(matches, key=lambda v: -v[0])


def average_precision(objects: list[dict[str, Any]], detections: list[dict[str, Any]], at: float) -> float:
    """101-point interpolated AP of one class at one IoU; -1 without objects."""
    if not objects:
        return -1.0
    points = []
    right = 0
    for count, (_, hit) in enumerate(hits(objects, detections, at), 1):
        right += hit
        points.append((right / len(objects), right / count))
    total = 0.0
    for recall in np.linspace(0, 1, 101):  # as the official tool has them: some lie a rounding error above k / 100
        total += max((p for r, p in points if r >= recall), default=0.0)
    return total / 101


def ap(gt: dict[str, Any], detections: list[dict[str, Any]], ious: list[float]) -> float:
    """Mean over classes that have objects, and over `ious`."""
    values = []
    for category in gt["categories"]:
        objects = [o for o in gt["annotations"] if o["category_id"] == category["id"]]
        actual = [d for d in detections if d["category_id"] == category["id"]]
        values += [average_precision(objects, actual, at) for at in ious if objects]
    return sum(values) / len(values) if values else -1.0
