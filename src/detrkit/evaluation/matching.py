"""Matching of detections to objects at one IoU, for thresholds, the confusion matrix and images of mistakes.

COCO results and ground truth become arrays here, sorted by image and falling score, so that half a million detections
are matched in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrkit.evaluation.arrays import Bools, DetectionArrays, Floats, GroundTruthArrays, Ints, index_in

MATCH_IOU = 0.5
"""IoU from which on a detection matches an object, for everything but the averages of `coco_metrics`."""

_SLACK = 1e-10  # the official evaluation accepts an IoU this far below its threshold


@dataclass(frozen=True)
class EvalArrays:
    """Ground truth and detections of a data set as arrays: N detections, M objects, C classes, I images.

    `classes` and `images` are indices into `category_ids` and `image_ids`. Boxes are x1, y1, x2, y2 in pixels.
    """

    image_ids: Ints
    """[I], in rising order."""
    category_ids: Ints
    """[C], in rising order."""
    names: tuple[str, ...]
    """[C]."""
    boxes: Floats
    """[N, 4], sorted by image, then by falling score."""
    scores: Floats
    """[N]."""
    classes: Ints
    """[N]."""
    images: Ints
    """[N]."""
    object_boxes: Floats
    """[M, 4], sorted by image."""
    object_classes: Ints
    """[M]."""
    object_images: Ints
    """[M]."""
    crowd: Bools
    """[M]: whether it is a region of many objects; detections in one are ignored."""

    @classmethod
    def from_coco(cls, gt: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> EvalArrays:
        """Convert COCO instances, and results that `coco_metrics.read_detection_arrays` has passed."""
        rows, objects = DetectionArrays.from_rows(detections), GroundTruthArrays.from_coco(gt)
        images = index_in(objects.image_ids, rows.image_ids)
        order = np.lexsort((-rows.scores, images))  # stable, as the official evaluation breaks ties
        by_image = np.argsort(objects.images, kind="stable")
        return cls(
            image_ids=objects.image_ids,
            category_ids=objects.category_ids,
            names=objects.names,
            boxes=_corners(rows.boxes[order]),
            scores=rows.scores[order],
            classes=index_in(objects.category_ids, rows.category_ids[order]),
            images=images[order],
            object_boxes=_corners(objects.boxes[by_image]),
            object_classes=objects.classes[by_image],
            object_images=objects.images[by_image],
            crowd=objects.crowd[by_image],
        )

    def objects_per_class(self) -> Ints:
        """[C]: number of objects, crowds not counted."""
        return np.bincount(self.object_classes[~self.crowd], minlength=len(self.names)).astype(np.int64)

    def per_image(self) -> Iterator[tuple[slice, slice]]:
        """The rows of detections and of objects of each image that has both."""
        detections = np.searchsorted(self.images, np.arange(len(self.image_ids) + 1))
        objects = np.searchsorted(self.object_images, np.arange(len(self.image_ids) + 1))
        for k in np.flatnonzero((np.diff(detections) > 0) & (np.diff(objects) > 0)):
            yield slice(detections[k], detections[k + 1]), slice(objects[k], objects[k + 1])


@dataclass(frozen=True)
class MatchResult:
    """Matches of detections to objects at `MATCH_IOU`, class by class, as the official evaluation matches.

    In the order of falling score, each detection takes the free object of its class that it overlaps most. A detection
    that overlaps only a crowd of its class is ignored. The match of a detection does not depend on those with lower
    scores, so the same matches hold for any score threshold.
    """

    object_of: Ints
    """[N]: row of the object that the detection is matched to; -1: none."""
    ignored: Bools
    """[N]: whether the detection lies in a crowd of its class."""

    @property
    def right(self) -> Bools:
        """[N]: whether the detection is a true positive."""
        return self.object_of >= 0


def match_detections(arrays: EvalArrays) -> MatchResult:
    """Match detections to objects of their class."""
    object_of = np.full(len(arrays.scores), -1, dtype=np.int64)
    ignored = np.zeros(len(arrays.scores), dtype=np.bool_)
    for detections, objects in arrays.per_image():
        overlap = box_iou(arrays.boxes[detections], arrays.object_boxes[objects], arrays.crowd[objects])
        overlap[arrays.classes[detections][:, None] != arrays.object_classes[objects][None]] = 0
        crowd = arrays.crowd[objects]
        pairs = greedy(np.where(crowd, 0, overlap))
        for d, g in pairs:
            object_of[detections.start + d] = objects.start + g
        in_crowd = (overlap[:, crowd] >= MATCH_IOU - _SLACK).any(axis=1)
        ignored[detections] = in_crowd & (object_of[detections] < 0)
    return MatchResult(object_of, ignored)


def greedy(overlap: Floats) -> list[tuple[int, int]]:
    """Match the rows of a table [n, m] of overlaps to its columns; pairs (row, column).

    Row by row, each takes the free column of the largest overlap, if that is at least `MATCH_IOU`. Of equal overlaps
    the last counts, as in the official evaluation.
    """
    pairs: list[tuple[int, int]] = []
    enough = overlap >= MATCH_IOU - _SLACK
    taken: set[int] = set()
    for row in np.flatnonzero(enough.any(axis=1)).tolist():
        free = [column for column in np.flatnonzero(enough[row]).tolist() if column not in taken]
        if free:
            best = max(free, key=lambda column: (overlap[row, column], column))
            taken.add(best)
            pairs.append((row, best))
    return pairs


def box_iou(boxes: Floats, objects: Floats, crowd: Bools) -> Floats:
    """Intersection over union [n, m] of boxes [n, 4] and objects [m, 4], x1, y1, x2, y2.

    With a crowd it is the share of the box that lies inside, as COCO defines it.
    """
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)[:, None]
    object_area = np.prod(np.clip(objects[:, 2:] - objects[:, :2], 0, None), axis=1)[None]
    union = np.where(crowd[None], area, area + object_area - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _corners(boxes: Floats) -> Floats:
    """Convert boxes x, y, w, h to x1, y1, x2, y2."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], axis=1)
