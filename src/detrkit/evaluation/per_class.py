"""F1 over the score threshold, class by class and over all: which threshold to use, and what it will give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.evaluation.arrays import Bools, Floats
from detrkit.evaluation.matching import EvalArrays, MatchResult

DEFAULT_THRESHOLD = 0.5
"""Used where no threshold is better than another, because nothing right was found."""


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
    """Objects to be found."""

    @property
    def best(self) -> Operating:
        """The threshold with the highest F1; of equal ones the highest."""
        if not self.objects:
            return Operating(None, -1.0, -1.0, -1.0)
        if not len(self.f1) or self.f1.max() == 0:
            return Operating(None, 0.0, 0.0, 0.0)
        k = int(self.f1.argmax())
        return Operating(float(self.thresholds[k]), float(self.f1[k]), float(self.precision[k]), float(self.recall[k]))


@dataclass(frozen=True)
class Operating:
    """A threshold and what it gives; all in 0..1, or -1 where there is no object to find."""

    threshold: float | None
    """Keep detections of at least this score; None where no detection is right."""
    f1: float
    precision: float
    recall: float


def f1_curve(scores: Floats, right: Bools, objects: int) -> F1Curve:
    """F1 = 2 TP / (detections + objects) at every threshold.

    Args:
        scores: [n], any order.
        right: [n], whether each detection found an object.
        objects: how many there are to find.
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


def f1_curves(columns: EvalArrays, matches: MatchResult) -> tuple[F1Curve, list[F1Curve]]:
    """Of all classes together (every object counts the same), and of each class in the order of `columns.names`.

    Detections in crowds are left out, as in the official numbers.
    """
    judged = ~matches.ignored
    objects = columns.objects_per_class()
    overall = f1_curve(columns.scores[judged], matches.right[judged], int(objects.sum()))
    curves = []
    for k in range(len(columns.names)):
        mine = judged & (columns.classes == k)
        curves.append(f1_curve(columns.scores[mine], matches.right[mine], int(objects[k])))
    return overall, curves
