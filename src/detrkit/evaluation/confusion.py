"""Confusion matrix of a detector, and the list of its single mistakes, worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrkit.evaluation.arrays import Bools, Ints
from detrkit.evaluation.matching import MATCH_IOU, EvalArrays, MatchResult, box_iou, greedy

BACKGROUND = "background"

Kind = Literal["missed", "wrong class", "false alarm"]
KINDS: tuple[Kind, ...] = ("missed", "wrong class", "false alarm")


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of the detections that score at least `threshold`, matched at IoU 0.5."""

    threshold: float
    names: tuple[str, ...]
    """[C] classes; the matrix has one more row and column, for background."""
    counts: Ints
    """[C + 1, C + 1]: rows are the ground truth, columns the prediction. The last column holds missed objects, the last
    row false alarms; their corner is 0. A row of a class sums to its objects."""
    object_of: Ints
    """[N]: row of the object that a detection is paired with, of the same class or another; -1: none."""
    shown: Bools
    """[N]: detections that reach the threshold and do not lie in a crowd."""


@dataclass(frozen=True)
class Mistake:
    """One missed object, false alarm or confused class."""

    kind: Kind
    image_id: int
    severity: float
    """The area in square pixels of a missed object, else the score; mistakes of one kind are ranked by it."""
    detection: int
    """Row in `EvalArrays`, or -1 for a missed object."""
    object: int
    """Row in `EvalArrays`, or -1 for a false alarm."""
    doubled: bool = False
    """Whether a false alarm lies on an object that another detection is paired with."""


def confusion_matrix(arrays: EvalArrays, matches: MatchResult, threshold: float) -> Confusion:
    """Pair detections with objects, first within their class, then the rest across classes, and count the pairs.

    The first step is the official matching, so the diagonal counts the true positives of `per_class`. In the second,
    each detection, by falling score, gets the free object of any class that it overlaps most.

    Args:
        arrays: ground truth and detections.
        matches: their matching within classes.
        threshold: lowest score of a detection to count, 0..1.
    """
    # object_of: the pairs of the same class, to which pairs of other classes are added
    shown = (arrays.scores >= threshold) & ~matches.ignored
    object_of = np.where(shown, matches.object_of, -1)
    free = ~arrays.crowd
    free[object_of[object_of >= 0]] = False
    for detections, present in arrays.per_image():
        rows = detections.start + np.flatnonzero(shown[detections] & (object_of[detections] < 0))
        objects = present.start + np.flatnonzero(free[present])
        if not len(rows) or not len(objects):
            continue
        overlap = box_iou(arrays.boxes[rows], arrays.object_boxes[objects], arrays.crowd[objects])
        overlap[arrays.classes[rows][:, None] == arrays.object_classes[objects][None]] = 0
        for d, g in greedy(overlap):
            object_of[rows[d]] = objects[g]
    size = len(arrays.names) + 1
    counts = np.zeros((size, size), dtype=np.int64)
    paired = object_of >= 0
    cells = arrays.object_classes[object_of[paired]] * size + arrays.classes[paired]
    counts += np.bincount(cells, minlength=size * size).reshape(size, size)
    counts[-1, :-1] = np.bincount(arrays.classes[shown & ~paired], minlength=size - 1)
    counts[:-1, -1] = np.bincount(arrays.object_classes[_missed(arrays, object_of)], minlength=size - 1)
    return Confusion(threshold, arrays.names, counts, object_of, shown)


def mistakes(arrays: EvalArrays, confusion: Confusion) -> dict[Kind, list[Mistake]]:
    """List every mistake off the diagonal of `confusion`, worst first: misses by size, the others by score."""
    by_kind: dict[Kind, list[Mistake]] = {kind: [] for kind in KINDS}
    image_ids = arrays.image_ids
    for row in _missed(arrays, confusion.object_of).tolist():
        x1, y1, x2, y2 = arrays.object_boxes[row].tolist()
        image_id = int(image_ids[arrays.object_images[row]])
        by_kind["missed"].append(Mistake("missed", image_id, (x2 - x1) * (y2 - y1), -1, row))
    paired = confusion.object_of
    rows = np.flatnonzero(paired >= 0)
    for row in rows[arrays.object_classes[paired[rows]] != arrays.classes[rows]].tolist():
        image_id, score = int(image_ids[arrays.images[row]]), float(arrays.scores[row])
        by_kind["wrong class"].append(Mistake("wrong class", image_id, score, row, int(paired[row])))
    alone = np.flatnonzero(confusion.shown & (paired < 0))
    doubled = set(_doubled(arrays, alone))
    for row in alone.tolist():
        image_id, score = int(image_ids[arrays.images[row]]), float(arrays.scores[row])
        by_kind["false alarm"].append(Mistake("false alarm", image_id, score, row, -1, row in doubled))
    for ranked in by_kind.values():
        ranked.sort(key=lambda mistake: -mistake.severity)
    return by_kind


def _missed(arrays: EvalArrays, object_of: Ints) -> Ints:
    """Rows of the objects that no detection is paired with."""
    alone = ~arrays.crowd
    alone[object_of[object_of >= 0]] = False
    return np.flatnonzero(alone)


def _doubled(arrays: EvalArrays, alone: Ints) -> Iterator[int]:
    """Rows among the unpaired detections that lie on an object of their class nevertheless."""
    for detections, present in arrays.per_image():
        rows = alone[(alone >= detections.start) & (alone < detections.stop)]
        overlap = box_iou(arrays.boxes[rows], arrays.object_boxes[present], arrays.crowd[present])
        same = arrays.classes[rows][:, None] == arrays.object_classes[present][None]
        yield from rows[(same & (overlap >= MATCH_IOU)).any(axis=1)].tolist()
