"""Wrong labels drawn on purpose, and a classifier that tells them from the labels of a data set by the detections.

A detector that has not seen an image does not change when a label of it is exchanged. So the evidence on wrong labels
can be drawn: a class is exchanged, a box moved, a label put where there is none. This gives probabilities for kinds of
errors that have no common scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detrkit.evaluation.arrays import Floats, Ints
from detrkit.evaluation.matching import EvalArrays, box_iou

MOST = 4000
"""Most labels of which errors are drawn."""

LEAST = 400
"""Least number of drawn errors of each kind: with fewer labels, several are drawn of each."""

SHIFTED_IOU = 0.3, 0.6
"""IoU of a shifted box with the true one."""

_TRIES = 64
_SUPPORT_IOU = 0.5  # a detection shows the object of a label from here on
_NEAR_IOU = 0.2  # a detection may show the object of a badly placed label from here on
_LEAST_SCORE = 0.01  # added to scores before logarithms


@dataclass(frozen=True)
class LabelEvidence:
    """Evidence of the detections of an image on n labels, which need not be those of the data set."""

    features: Floats
    """[n, 8], see `gather_evidence`."""
    same: Ints
    """[n]: row of the detection of the label's class that fits it best, by score times IoU; -1: none."""
    other: Ints
    """[n]: row of the best detection of another class at IoU 0.5; -1: none."""


def gather_evidence(arrays: EvalArrays, rows: slice, boxes: Floats, classes: Ints) -> LabelEvidence:
    """Compare labels with the detections of their image.

    The features are the logits of the best score at IoU 0.5 in the label's class, in another class and in any, of the
    best score in the label's class at IoU 0.2, of the best product of score and IoU in the class; the log-ratio of the
    first two; the IoU of the detection at IoU 0.2, and that times its score.

    Args:
        arrays: detections.
        rows: the detections of the image.
        boxes: labels, [n, 4], x1, y1, x2, y2 in pixels.
        classes: [n].
    """
    count = len(boxes)
    none = np.full(count, -1, dtype=np.int64)
    if not count or rows.start == rows.stop:
        return LabelEvidence(_features(np.zeros((count, 5))), none, none)
    scores, columns = arrays.scores[rows][:, None], np.arange(count)
    iou = box_iou(arrays.boxes[rows], boxes, np.zeros(count, dtype=np.bool_))
    own = arrays.classes[rows][:, None] == classes[None]
    supports = iou >= _SUPPORT_IOU
    of_class = np.where(supports & own, scores, 0.0).max(axis=0)
    others = np.where(supports & ~own, scores, 0.0)
    near = np.where((iou >= _NEAR_IOU) & own, scores, 0.0)
    fits = np.where(own, scores * iou, 0.0)
    nearest, best = near.argmax(axis=0), fits.argmax(axis=0)
    near_iou = np.where(near.max(axis=0) > 0, iou[nearest, columns], 0.0)
    plain = np.stack([of_class, others.max(axis=0), near.max(axis=0), near_iou, fits.max(axis=0)], axis=1)
    same = np.where((fits.max(axis=0) > 0) & (iou[best, columns] >= _NEAR_IOU), rows.start + best, -1)
    other = np.where(others.max(axis=0) > 0, rows.start + others.argmax(axis=0), -1)
    return LabelEvidence(_features(plain), same, other)


def _features(plain: Floats) -> Floats:
    of_class, other, near, near_iou, fit = plain.T
    ratio = np.log((other + _LEAST_SCORE) / (of_class + _LEAST_SCORE))
    logits = [_logit(values) for values in (of_class, other, np.maximum(of_class, other), near, fit)]
    return np.stack([*logits, ratio, near_iou, near_iou * near], axis=1)


def _logit(values: Floats) -> Floats:
    return np.asarray(np.log((values + _LEAST_SCORE) / (1 - values + _LEAST_SCORE)))


def draw_errors(arrays: EvalArrays, sizes: Floats, rows: Ints, rng: np.random.Generator) -> dict[str, Floats]:
    """Draw errors and gather the evidence on them.

    Args:
        arrays: labels and detections.
        sizes: width and height of each image in pixels, [I, 2].
        rows: labels that errors are drawn of.
        rng: generator.

    Returns:
        Features [n, 8] of labels without an object (`no object`), with another class (`wrong class`; only if there are
        several classes) and with a shifted box (`wrong box`).
    """
    parts: dict[str, list[Floats]] = {"no object": [], "wrong class": [], "wrong box": []}
    ends = np.searchsorted(arrays.images, np.arange(len(arrays.image_ids) + 1))
    starts = np.searchsorted(arrays.object_images, np.arange(len(arrays.image_ids) + 1))
    for row in np.resize(rows, max(len(rows), LEAST)).tolist():
        home, box, label = int(arrays.object_images[row]), arrays.object_boxes[row], arrays.object_classes[[row]]
        detections = slice(ends[home], ends[home + 1])
        if len(arrays.names) > 1:
            changed = (label + rng.integers(1, len(arrays.names))) % len(arrays.names)
            parts["wrong class"].append(gather_evidence(arrays, detections, box[None], changed).features)
        moved = shift_box(box, sizes[home], rng)
        if moved is not None:
            parts["wrong box"].append(gather_evidence(arrays, detections, moved[None], label).features)
        image = int(rng.integers(len(sizes)))
        present = arrays.object_boxes[starts[image] : starts[image + 1]]
        placed = place_box(box[2:] - box[:2], present, sizes[image], rng)
        detections = slice(ends[image], ends[image + 1])
        parts["no object"].append(gather_evidence(arrays, detections, placed[None], label).features)
    return {kind: np.concatenate(some) for kind, some in parts.items() if some}


def shift_box(box: Floats, size: Floats, rng: np.random.Generator) -> Floats | None:
    """Move and stretch a box [4] inside an image so that its IoU with itself is within `SHIFTED_IOU`.

    None if no such box was found.
    """
    sides = box[2:] - box[:2]
    low = np.clip(box[:2] + rng.uniform(-0.6, 0.6, (_TRIES, 2)) * sides, 0, size)
    tries = np.concatenate([low, np.clip(low + rng.uniform(0.7, 1.4, (_TRIES, 2)) * sides, 0, size)], axis=1)
    iou = box_iou(tries, box[None], np.zeros(1, dtype=np.bool_))[:, 0]
    good = np.flatnonzero((iou >= SHIFTED_IOU[0]) & (iou <= SHIFTED_IOU[1]))
    return tries[good[0]] if len(good) else None


def place_box(sides: Floats, present: Floats, size: Floats, rng: np.random.Generator) -> Floats:
    """Place a box of these sides [2] where it overlaps the boxes [n, 4] of an image little: IoU below 0.1, or least."""
    sides = np.minimum(sides, size / 2)
    low = rng.uniform(0, 1, (_TRIES, 2)) * (size - sides)
    tries = np.concatenate([low, low + sides], axis=1)
    if not len(present):
        return tries[0]
    most = box_iou(tries, present, np.zeros(len(present), dtype=np.bool_)).max(axis=1)
    return tries[int(np.argmax(most < 0.1)) if (most < 0.1).any() else int(most.argmin())]


def fit_classifier(groups: Sequence[Floats], prior: float) -> Callable[[Floats], Floats]:
    """Fit a multinomial logistic regression (maximum likelihood with a small L2 penalty) to groups of features.

    Args:
        groups: features [n, F] of each group; the first are labels of the data set, most of them right.
        prior: weight of every other group relative to the first.

    Returns:
        A function from features [n, F] to probabilities of the groups [n, G].
    """
    inputs = torch.from_numpy(np.concatenate(groups))
    mean, spread = inputs.mean(0), inputs.std(0, correction=0) + 1e-6
    inputs = (inputs - mean) / spread
    targets = torch.cat([torch.full((len(group),), k) for k, group in enumerate(groups)])
    weights = torch.cat(
        [torch.full((len(group),), (prior if k else 1.0) / len(group)) for k, group in enumerate(groups)]
    )
    weights = weights.double() / weights.sum()
    slope = torch.zeros(inputs.shape[1], len(groups), dtype=torch.double, requires_grad=True)
    offset = torch.zeros(len(groups), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(inputs @ slope + offset, targets, reduction="none")
        value = (losses * weights).sum() + 1e-3 * slope.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope, offset = slope.detach(), offset.detach()
    return lambda features: np.asarray(
        torch.softmax((torch.from_numpy(features) - mean) / spread @ slope + offset, dim=1).numpy()
    )
