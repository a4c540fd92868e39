"""Labels that the detections contradict, ranked over a data set: missing and needless labels, wrong classes and boxes.

The detections must come from a detector that has not seen the images, as those of folds do: one that was trained on a
wrong label may repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression

from detrkit.evaluation.arrays import Bools, Floats, Ints
from detrkit.evaluation.drawn_errors import MOST, LabelEvidence, draw_errors, fit_classifier, gather_evidence
from detrkit.evaluation.matching import EvalArrays, box_iou, match_detections

Reason = Literal["no label", "no object", "wrong class", "wrong box", "repeated label"]
REASONS: dict[Reason, str] = {
    "no label": "object without a label",
    "no object": "label without an object",
    "wrong class": "label of another class",
    "wrong box": "box that fits badly",
    "repeated label": "second label of one object",
}
"""Reason -> its meaning."""

PRIOR = 0.02
"""Assumed share of the labels with each kind of error. It decides the scores, and hardly their order."""

REPEATED_IOU = 0.85
"""IoU of two labels of one class from which on the second is taken for a repetition."""

_SAME_IOU = 0.5  # detections of one object overlap at least so much, as do a label and its object
_LEAST_SCORE = 0.02  # of a detection without a label


@dataclass(frozen=True)
class SuspectRow:
    """A suspect as rows of `EvalArrays`."""

    reason: Reason
    score: float
    """0..1: about the probability that the label is wrong, if each kind of error had the share `PRIOR`."""
    object: int
    """Row of the label, or -1 for an object without one."""
    detection: int
    """Row of the detection that contradicts the label, or -1."""


@dataclass(frozen=True)
class RankedSuspects:
    """The suspects of a data set."""

    rows: list[SuspectRow]
    """Worst first."""
    expected_recall: dict[Reason, float]
    """Of errors of this kind, drawn at random in the labels: the share among the first suspects, as many as a tenth of
    the labels."""


def find_suspects(arrays: EvalArrays, sizes: Floats, seed: int = 0) -> RankedSuspects:
    """Rank all labels, and the detections that no label explains, by how likely something is wrong.

    Every label has one row, with its likeliest reason. Crowds are left out. The probabilities of labels are those of a
    logistic regression that tells the labels from errors that are drawn on purpose (`drawn_errors`). A detection
    without a label has the score PRIOR * p / (1 - p), at most 1, where p is the share of the detections of its score
    (isotonic regression) that have a label.

    Args:
        arrays: labels and detections.
        sizes: width and height of each image in pixels, [I, 2].
        seed: seed of the drawn errors.

    Returns:
        The suspects, and the share of errors that is expected among the first.
    """
    evidence = _of_all_labels(arrays)
    suspects, drawn_scores = _label_suspects(arrays, sizes, evidence, np.random.default_rng(seed))
    missing, drawn_scores["no label"] = _missing_labels(arrays, evidence)
    suspects = sorted(suspects + missing, key=lambda suspect: (-suspect.score, suspect.object, suspect.detection))
    tenth = int((~arrays.crowd).sum()) // 10
    least = suspects[tenth].score if tenth < len(suspects) else 0.0
    return RankedSuspects(suspects, {kind: float((drawn_scores[kind] > least).mean()) for kind in sorted(drawn_scores)})


def _bounds(arrays: EvalArrays) -> tuple[Ints, Ints]:
    """[I + 1] first rows of detections and of objects of each image."""
    edges = np.arange(len(arrays.image_ids) + 1)
    return np.searchsorted(arrays.images, edges), np.searchsorted(arrays.object_images, edges)


def _of_all_labels(arrays: EvalArrays) -> LabelEvidence:
    detections, objects = _bounds(arrays)
    parts = []
    for image in range(len(arrays.image_ids)):
        rows, labels = slice(*detections[image : image + 2]), slice(*objects[image : image + 2])
        parts.append(gather_evidence(arrays, rows, arrays.object_boxes[labels], arrays.object_classes[labels]))
    return LabelEvidence(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.same for part in parts]),
        np.concatenate([part.other for part in parts]),
    )


def _label_suspects(
    arrays: EvalArrays, sizes: Floats, evidence: LabelEvidence, rng: np.random.Generator
) -> tuple[list[SuspectRow], dict[Reason, Floats]]:
    """One suspect per label that is no crowd, and the scores of the drawn errors of each kind."""
    single = np.flatnonzero(~arrays.crowd)
    if not len(single):
        return [], {}
    sample = rng.permutation(single)[:MOST]
    drawn = draw_errors(arrays, sizes, sample, rng)
    classify = fit_classifier([evidence.features[sample], *drawn.values()], PRIOR)
    probabilities = classify(evidence.features)
    kinds: list[Reason] = [kind for kind in REASONS if kind in drawn]
    columns = [1 + list(drawn).index(kind) for kind in kinds]
    repeated = _repeated(arrays)
    suspects = []
    for row in single.tolist():
        shares = probabilities[row, columns]
        reason, score, detection = kinds[int(shares.argmax())], float(1 - probabilities[row, 0]), -1
        if reason == "wrong class":
            detection = int(evidence.other[row])
        elif reason == "wrong box":
            detection = int(evidence.same[row])
        if detection < 0:  # nothing contradicts the label, it is only not confirmed
            reason = "no object"
        if repeated[row] > score:
            reason, score, detection = "repeated label", float(repeated[row]), -1
        suspects.append(SuspectRow(reason, score, row, detection))
    return suspects, {kind: 1 - classify(drawn[kind])[:, 0] for kind in kinds}


def _repeated(arrays: EvalArrays) -> Floats:
    """[M]: largest IoU of each label with an earlier one of its class and image, if at least `REPEATED_IOU`, else 0."""
    result = np.zeros(len(arrays.object_classes))
    _, objects = _bounds(arrays)
    for image in range(len(arrays.image_ids)):
        labels = slice(*objects[image : image + 2])
        boxes, classes, crowd = arrays.object_boxes[labels], arrays.object_classes[labels], arrays.crowd[labels]
        if len(boxes) < 2:
            continue
        iou = box_iou(boxes, boxes, np.zeros(len(boxes), dtype=np.bool_))
        iou[(classes[:, None] != classes[None]) | crowd[:, None] | crowd[None]] = 0
        most = np.tril(iou, -1).max(axis=1)
        result[labels] = np.where(most >= REPEATED_IOU, most, 0)
    return result


def _missing_labels(arrays: EvalArrays, evidence: LabelEvidence) -> tuple[list[SuspectRow], Floats]:
    """Detections that no label explains, and the scores of those of each label, were it missing: [number of labels]."""
    candidates = np.flatnonzero(_unexplained(arrays, evidence))
    right = arrays.scores[match_detections(arrays).right]
    scores = np.concatenate([right, arrays.scores[candidates]])
    labeled = np.concatenate([np.ones(len(right)), np.zeros(len(candidates))])
    order = np.argsort(scores, kind="stable")
    share = np.zeros(len(scores))
    if len(scores):
        share[order] = isotonic_regression(labeled[order]).x
    odds = np.minimum(1, PRIOR * share / np.maximum(1 - share, 1e-9))
    values = 0.999 * odds + 0.001 * scores  # of equal ones the more confident first
    of_labels = np.zeros(int((~arrays.crowd).sum()))  # 0 for labels without a detection
    of_labels[: len(right)] = values[: len(right)]
    found = zip(candidates.tolist(), values[len(right) :].tolist(), strict=True)
    return [SuspectRow("no label", value, -1, row) for row, value in found], of_labels


def _unexplained(arrays: EvalArrays, evidence: LabelEvidence) -> Bools:
    """[N]: whether a detection is the best of its place, overlaps no label, and is not meant by a badly placed one."""
    result = np.zeros(len(arrays.scores), dtype=np.bool_)
    detections, objects = _bounds(arrays)
    for image in range(len(arrays.image_ids)):
        rows, labels = slice(*detections[image : image + 2]), slice(*objects[image : image + 2])
        boxes = arrays.boxes[rows]
        good = int((arrays.scores[rows] >= _LEAST_SCORE).sum())  # sorted by falling score
        overlap = box_iou(boxes[:good], boxes[:good], np.zeros(good, dtype=np.bool_)) >= _SAME_IOU
        best = np.zeros(good, dtype=np.bool_)
        for k in range(good):
            best[k] = not (overlap[k] & best).any()
        result[rows.start : rows.start + good] = best
        if labels.start < labels.stop and good:
            most = box_iou(boxes[:good], arrays.object_boxes[labels], arrays.crowd[labels]).max(axis=1)
            result[rows.start : rows.start + good] &= most < _SAME_IOU
    result[evidence.same[evidence.same >= 0]] = False
    return result
