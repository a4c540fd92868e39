"""F1 over the score threshold, per class and over all classes: the best threshold and its precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.evaluation.arrays import Bools, Floats
from detrkit.evaluation.matching import EvalArrays, MatchResult

DEFAULT_THRESHOLD = 0.5
"""The threshold where none is better than another, since no detection is right."""


@dataclass(frozen=True)
class F1Curve:
    """Precision, recall and F1 of all detections with at least a score, for every score that occurs (IoU 0.5)."""

    thresholds: Floats
    """[T], falling."""
    precision: Floats
    """[T], 0..1."""
    recall: Floats
    """[T], 0..1; rising."""
    f1: Floats
    """[T], 0..1."""
    objects: int
    """Number of ground-truth objects."""

    @property
    def best(self) -> Operating:
        """The threshold with the highest F1; of equal ones the highest threshold."""
        if not self.objects:
            return Operating(None, -1.0, -1.0, -1.0)
        if not len(self.f1) or self.f1.max() == 0:
            return Operating(None, 0.0, 0.0, 0.0)
        k = int(self.f1.argmax())
        return Operating(float(self.thresholds[k]), float(self.f1[k]), float(self.precision[k]), float(self.recall[k]))


@dataclass(frozen=True)
class Operating:
    """A score threshold with its F1, precision and recall; all in 0..1, or -1 without ground-truth objects."""

    threshold: float | None
    """Lowest score of a detection to keep; None where no detection is right."""
    f1: float
    precision: float
    recall: float


def f1_curve(scores: Floats, right: Bools, objects: int) -> F1Curve:
    """Compute F1 = 2 TP / (detections + objects) at every threshold.

    Args:
        scores: [n], any order.
        right: [n], whether each detection is a true positive.
        objects: number of ground-truth objects.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, dtype=np.int64)
    counted, hits = ends + 1.0, hits[ends].astype(np.float64)  # equal scores pass a threshold together
    return F1Curve(
        thresholds=scores[ends],
        precision=hits / counted,
        recall=hits / max(objects, 1),
        f1=2 * hits / (counted + objects),
        objects=objects,
    )


def f1_curves(arrays: EvalArrays, matches: MatchResult) -> tuple[F1Curve, list[F1Curve]]:
    """F1 curve of all classes together (every object counts the same), and of each class, in the order of `names`.

    Detections in crowds are left out, as in the official metrics.
    """
    judged = ~matches.ignored
    objects = arrays.objects_per_class()
    overall = f1_curve(arrays.scores[judged], matches.right[judged], int(objects.sum()))
    curves = []
    for k in range(len(arrays.names)):
        mine = judged & (arrays.classes == k)
        curves.append(f1_curve(arrays.scores[mine], matches.right[mine], int(objects[k])))
    return overall, curves
