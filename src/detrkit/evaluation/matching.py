"""Which detection found which object, at one IoU: what thresholds, confusion matrix and error images are made of.

COCO results and ground truth become columns of numbers here (structure of arrays), sorted by image and falling score,
so that half a million detections are judged in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrkit.evaluation.arrays import Bools, DetectionArrays, Floats, GroundTruthArrays, Ints, places

MATCH_IOU = 0.5
"""The overlap from which a box counts as found, for everything but the averages of `coco`."""

_SLACK = 1e-10  # the official evaluation accepts an IoU this far below its threshold


@dataclass(frozen=True)
class EvalArrays:
    """Truth and detections of a data set as arrays: N detections, M objects, C classes, I images.

    Classes and images are indices into `category_ids` and `image_ids`. Boxes are x1, y1, x2, y2 in pixels.
    """

    image_ids: Ints
    """[I], rising."""
    category_ids: Ints
    """[C], rising."""
    names: tuple[str, ...]
    """[C]."""
    boxes: Floats
    """[N, 4], sorted by image, then falling score."""
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
    """[M]: regions of many objects; detections in them are not judged."""

    @classmethod
    def from_coco(cls, gt: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> EvalArrays:
        """From COCO instances, and results that `coco_metrics.read_detection_arrays` has passed."""
        found, objects = DetectionArrays.from_rows(detections), GroundTruthArrays.from_coco(gt)
        images = places(objects.image_ids, found.image_ids)
        order = np.lexsort((-found.scores, images))  # stable, as the official evaluation breaks ties
        by_image = np.argsort(objects.images, kind="stable")
        return cls(
            image_ids=objects.image_ids,
            category_ids=objects.category_ids,
            names=objects.names,
            boxes=_corners(found.boxes[order]),
            scores=found.scores[order],
            classes=places(objects.category_ids, found.category_ids[order]),
            images=images[order],
            object_boxes=_corners(objects.boxes[by_image]),
            object_classes=objects.classes[by_image],
            object_images=objects.images[by_image],
            crowd=objects.crowd[by_image],
        )

    def objects_per_class(self) -> Ints:
        """[C]: objects to be found, crowds not counted."""
        return np.bincount(self.object_classes[~self.crowd], minlength=len(self.names)).astype(np.int64)

    def per_image(self) -> Iterator[tuple[slice, slice]]:
        """The rows of detections and of objects, image by image; only images that have both."""
        detected = np.searchsorted(self.images, np.arange(len(self.image_ids) + 1))
        present = np.searchsorted(self.object_images, np.arange(len(self.image_ids) + 1))
        for k in np.flatnonzero((np.diff(detected) > 0) & (np.diff(present) > 0)):
            yield slice(detected[k], detected[k + 1]), slice(present[k], present[k + 1])


@dataclass(frozen=True)
class MatchResult:
    """The judgement of every detection at `MATCH_IOU`, class by class, as the official evaluation matches.

    In the order of falling score a detection takes the free object of its class that it overlaps most. A detection
    that only meets a crowd of its class is ignored. Whom a detection gets never depends on weaker ones, so the same
    matches hold for any score threshold.
    """

    object_of: Ints
    """[N]: row of the object that the detection found; -1: none."""
    ignored: Bools
    """[N]: the detection lies in a crowd of its class."""

    @property
    def right(self) -> Bools:
        """[N]: true positives."""
        return self.object_of >= 0


def match_detections(columns: EvalArrays) -> MatchResult:
    """Match detections to objects of their class."""
    object_of = np.full(len(columns.scores), -1, dtype=np.int64)
    ignored = np.zeros(len(columns.scores), dtype=np.bool_)
    for found, present in columns.per_image():
        overlap = box_iou(columns.boxes[found], columns.object_boxes[present], columns.crowd[present])
        overlap[columns.classes[found][:, None] != columns.object_classes[present][None]] = 0
        crowd = columns.crowd[present]
        pairs = greedy(np.where(crowd, 0, overlap))
        for d, g in pairs:
            object_of[found.start + d] = present.start + g
        in_crowd = (overlap[:, crowd] >= MATCH_IOU - _SLACK).any(axis=1)
        ignored[found] = in_crowd & (object_of[found] < 0)
    return MatchResult(object_of, ignored)


def greedy(overlap: Floats) -> list[tuple[int, int]]:
    """Pairs (row, column) of a table [n, m] of overlaps: row by row, each takes its best free column of at least
    `MATCH_IOU`. Of equal overlaps the last counts, as in the official evaluation."""
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

    Against a crowd it is the share of the box that lies inside, as COCO defines it.
    """
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)[:, None]
    object_area = np.prod(np.clip(objects[:, 2:] - objects[:, :2], 0, None), axis=1)[None]
    union = np.where(crowd[None], area, area + object_area - shared)
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _corners(boxes: Floats) -> Floats:
    """Boxes x, y, w, h as x1, y1, x2, y2."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], axis=1)
