"""The confusion matrix of a detector, and the list of its single mistakes, worst first."""

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
    """Who was taken for whom, among detections of at least `threshold`, at IoU 0.5."""

    threshold: float
    names: tuple[str, ...]
    """[C] classes; the matrix has one more row and column, for background."""
    counts: Ints
    """[C + 1, C + 1]: rows are the ground truth, columns the prediction. The last column holds missed objects, the last
    row false alarms; their corner is 0. A row of a class sums to its objects."""
    object_of: Ints
    """[N]: row of the object a detection was paired with, right or wrong class; -1: none."""
    shown: Bools
    """[N]: detections that reach the threshold and do not lie in a crowd."""


@dataclass(frozen=True)
class Mistake:
    """One thing that went wrong in one image."""

    kind: Kind
    image_id: int
    severity: float
    """Missed: area in square pixels; otherwise the score. Mistakes of one kind are ranked by it."""
    detection: int
    """Row in `EvalArrays`, or -1 for a missed object."""
    object: int
    """Row in `EvalArrays`, or -1 for a false alarm."""
    doubled: bool = False
    """A false alarm on an object that another detection has found already."""


def confusion_matrix(columns: EvalArrays, matches: MatchResult, threshold: float) -> Confusion:
    """Pair detections with objects: first those of their own class, then what is left over across classes.

    The first step is the official matching, so the diagonal counts the true positives of `per_class`; the second goes
    by falling score to the free object of any class that overlaps most.

    Args:
        columns: ground truth and detections.
        matches: their matching within classes.
        threshold: lowest score of a detection to count, 0..1.
    """
    shown = (columns.scores >= threshold) & ~matches.ignored
    object_of = np.where(shown, matches.object_of, -1)
    free = ~columns.crowd
    free[object_of[object_of >= 0]] = False
    for found, present in columns.per_image():
        rows = found.start + np.flatnonzero(shown[found] & (object_of[found] < 0))
        objects = present.start + np.flatnonzero(free[present])
        if not len(rows) or not len(objects):
            continue
        overlap = box_iou(columns.boxes[rows], columns.object_boxes[objects], columns.crowd[objects])
        overlap[columns.classes[rows][:, None] == columns.object_classes[objects][None]] = 0
        for d, g in greedy(overlap):
            object_of[rows[d]] = objects[g]
    size = len(columns.names) + 1
    counts = np.zeros((size, size), dtype=np.int64)
    paired = object_of >= 0
    cells = columns.object_classes[object_of[paired]] * size + columns.classes[paired]
    counts += np.bincount(cells, minlength=size * size).reshape(size, size)
    counts[-1, :-1] = np.bincount(columns.classes[shown & ~paired], minlength=size - 1)
    counts[:-1, -1] = np.bincount(columns.object_classes[_missed(columns, object_of)], minlength=size - 1)
    return Confusion(threshold, columns.names, counts, object_of, shown)


def mistakes(columns: EvalArrays, confusion: Confusion) -> dict[Kind, list[Mistake]]:
    """Every mistake that `confusion` counts off its diagonal, worst first: misses by size, the others by score."""
    found: dict[Kind, list[Mistake]] = {kind: [] for kind in KINDS}
    image_ids = columns.image_ids
    for row in _missed(columns, confusion.object_of).tolist():
        x1, y1, x2, y2 = columns.object_boxes[row].tolist()
        image_id = int(image_ids[columns.object_images[row]])
        found["missed"].append(Mistake("missed", image_id, (x2 - x1) * (y2 - y1), -1, row))
    paired = confusion.object_of
    rows = np.flatnonzero(paired >= 0)
    for row in rows[columns.object_classes[paired[rows]] != columns.classes[rows]].tolist():
        image_id, score = int(image_ids[columns.images[row]]), float(columns.scores[row])
        found["wrong class"].append(Mistake("wrong class", image_id, score, row, int(paired[row])))
    alone = np.flatnonzero(confusion.shown & (paired < 0))
    doubled = set(_doubled(columns, alone))
    for row in alone.tolist():
        image_id, score = int(image_ids[columns.images[row]]), float(columns.scores[row])
        found["false alarm"].append(Mistake("false alarm", image_id, score, row, -1, row in doubled))
    for ranked in found.values():
        ranked.sort(key=lambda mistake: -mistake.severity)
    return found


def _missed(columns: EvalArrays, object_of: Ints) -> Ints:
    """Rows of the objects that no detection was paired with."""
    alone = ~columns.crowd
    alone[object_of[object_of >= 0]] = False
    return np.flatnonzero(alone)


def _doubled(columns: EvalArrays, alone: Ints) -> Iterator[int]:
    """Those rows of detections `alone` that lie on an object of their class nevertheless."""
    for found, present in columns.per_image():
        rows = alone[(alone >= found.start) & (alone < found.stop)]
        overlap = box_iou(columns.boxes[rows], columns.object_boxes[present], columns.crowd[present])
        same = columns.classes[rows][:, None] == columns.object_classes[present][None]
        yield from rows[(same & (overlap >= MATCH_IOU)).any(axis=1)].tolist()
