"""COCO's average precision of boxes and masks, for all classes, sizes and thresholds at once.

The definition is that of the official evaluation (https://cocodataset.org/#detection-eval; Lin et al. 2014), down to
ties: in the order of falling score, each detection takes the free object of its class and image that it overlaps most,
real objects before ignored ones, the last among equals. It is fast because most detections overlap no object by half:
these are false positives at every threshold, for which a running count is enough. Only pairs that overlap are matched
one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.arrays import Bools, DetectionArrays, Floats, GroundTruthArrays, Ints, index_in

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Ranges of area in square pixels, bounds included: all objects, small, medium and large ones."""

PAIRS_AT_ONCE = 2**20
"""Most pairs of detection and object whose overlap is computed together."""

Rle = Mapping[str, Any]
"""A mask in COCO's compressed run lengths: `size` and `counts`."""

Overlap = Callable[[Ints, Ints], Floats]
"""The overlap [P] of pairs, given by the rows of their detections [P] and objects [P]."""


@dataclass(frozen=True)
class MatchTable:
    """Matches of N detections, sorted by class and falling score, those of equal score by image.

    T IoU thresholds, C classes, A ranges of area.
    """

    classes: Ints
    """[N], in rising order."""
    images: Ints
    """[N]: index of the image."""
    scores: Floats
    """[N]."""
    ranks: Ints
    """[N]: how many detections of the same class and image come before."""
    inside: Bools
    """[N, A]: whether the area of the box is in the range."""
    near: Ints
    """[D], in rising order: rows of the detections that overlap an object by half or more; the others match nothing."""
    right: Bools
    """[D, A, T]: whether it is a true positive: matched to an object of the range."""
    ignored: Bools
    """[D, A, T]: whether it is matched to a crowd or an object outside of the range, and so is not counted."""
    objects: Ints
    """[C, A]: number of ground-truth objects."""
    objects_of_images: Ints
    """[C, I]: number of ground-truth objects of any area in each image."""

    def recall(self, most: int) -> Floats:
        """Recall [T, C, A] of the `most` best detections of each class and image; -1 without objects."""
        rows = self.ranks[self.near] < most
        ends = np.searchsorted(self.classes[self.near[rows]], np.arange(len(self.objects) + 1))
        sums = np.zeros((int(rows.sum()) + 1, *self.right.shape[1:]), dtype=np.int32)
        np.cumsum(self.right[rows], axis=0, out=sums[1:])
        true_positives = np.diff(sums[ends], axis=0).transpose(2, 0, 1)  # [T, C, A]
        return np.where(self.objects > 0, true_positives / np.maximum(self.objects, 1), -1.0)

    def precision(self, most: int) -> tuple[Floats, Floats]:
        """Precision of the `most` best detections of each class and image, at 101 recalls.

        Returns:
            Precision at recall 0:0.01:1, the best of this recall and any higher, 0 where it is not reached; and the
            score at which it is. [T, 101, C, A] each; -1 where there are no objects.
        """
        counts = self.ranks < most
        classes, areas, steps = *self.objects.shape, len(IOUS)
        precision, scores = (np.full((steps, len(RECALLS), classes, areas), -1.0) for _ in range(2))
        rows = counts[self.near]
        near, right, ignored = self.near[rows], self.right[rows], self.ignored[rows]
        alone = self.inside & counts[:, None]  # detections that would count if none were matched
        alone_before: Ints = np.cumsum(alone, axis=0) - alone
        already = alone[near][:, :, None]
        change = (right & ~already).astype(np.int8) - (ignored & already)
        bounds = np.searchsorted(self.classes, np.arange(classes + 1))
        near_bounds = np.searchsorted(self.classes[near], np.arange(classes + 1))
        for c, a in np.argwhere(self.objects > 0).tolist():
            precision[:, :, c, a] = scores[:, :, c, a] = 0
            if bounds[c] == bounds[c + 1]:
                continue
            mine, total = slice(near_bounds[c], near_bounds[c + 1]), int(self.objects[c, a])
            hits = right[mine, a]  # [d, T]
            up_to = alone_before[near[mine], a] + alone[near[mine], a] - alone_before[bounds[c], a]
            counted = up_to[:, None] + np.cumsum(change[mine, a], axis=0, dtype=np.int64)  # TP + FP, [d, T]
            true_positives = np.cumsum(hits, axis=0)  # [d, T]
            row, step = np.nonzero(hits)
            k = true_positives[row, step]
            # row k - 1 belongs to the k-th true positive; one row per object, so that recalls not reached stay 0
            at_hit, score = np.zeros((total, steps)), np.zeros((total, steps))
            at_hit[k - 1, step] = k / (counted[row, step] + np.spacing(1))  # the official guard against 0 / 0
            score[k - 1, step] = self.scores[near[mine]][row]
            best = np.maximum.accumulate(at_hit[::-1], axis=0)[::-1]  # of this recall and any higher
            needed = np.maximum(np.searchsorted(np.arange(total + 1) / total, RECALLS), 1) - 1
            precision[:, :, c, a], scores[:, :, c, a] = best[needed].T, score[needed].T
            scores[:, 0, c, a] = self.scores[bounds[c]]  # any detection reaches recall 0
        return precision, scores


def match(gt: GroundTruthArrays, detections: DetectionArrays, most: int, overlap: Overlap | None = None) -> MatchTable:
    """Match detections to objects, at every threshold and in every range of area.

    Args:
        gt: ground-truth objects, M of them.
        detections: detections in images and of classes of the ground truth.
        most: most detections of one class in one image, the best.
        overlap: overlap of what is compared; None: of the boxes. It is called for all pairs of one class and image in
            a row: the first detection with each object, then the second, and so on.
    """
    classes = index_in(gt.category_ids, detections.category_ids)
    images = index_in(gt.image_ids, detections.image_ids)
    groups = images * len(gt.names) + classes
    order = np.argsort(images, kind="stable")
    order = order[np.argsort(-detections.scores[order], kind="stable")]
    order = order[np.argsort(_short(classes[order]), kind="stable")]
    by_image = np.argsort(_short(images[order]), kind="stable")  # by image, class and falling score
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[by_image] = _within(groups[order[by_image]])
    kept = ranks < most
    by_image = (np.cumsum(kept) - 1)[by_image[kept[by_image]]]
    order, ranks = order[kept], ranks[kept]

    low, high = np.array(AREAS).T
    skip = (gt.areas[:, None] < low) | (gt.areas[:, None] > high) | gt.crowd[:, None]  # [M, A]
    width, height = detections.boxes[order, 2:].T
    area = (width * height)[:, None]  # that of the box, even where masks are compared
    rows = order[by_image]
    pairs = _pairs(rows, groups[rows], gt, overlap or _of_boxes(detections.boxes, gt))
    matched, right, ignored = _greedy(*pairs, groups[rows], skip, gt.crowd)
    near = by_image[matched]
    rising = np.argsort(near)
    return MatchTable(
        classes=classes[order],
        images=images[order],
        scores=detections.scores[order],
        ranks=ranks,
        inside=(area >= low) & (area <= high),
        near=near[rising],
        right=right[rising],
        ignored=ignored[rising],
        objects=np.stack([np.bincount(gt.classes[~s], minlength=len(gt.names)) for s in skip.T], axis=1),
        objects_of_images=_objects_of_images(gt, ~skip[:, 0]),
    )


def _objects_of_images(gt: GroundTruthArrays, counted: Bools) -> Ints:
    """Count the objects of each class and image, [C, I], among the `counted` ones, bool [M]."""
    shape = len(gt.names), len(gt.image_ids)
    cells = gt.classes[counted] * shape[1] + gt.images[counted]
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64, copy=False)


def _pairs(rows: Ints, groups: Ints, gt: GroundTruthArrays, overlap: Overlap) -> tuple[Ints, Ints, Floats]:
    """Pair detections and objects of one class and image that overlap by the lowest threshold or more.

    Args:
        rows: [N], the detections.
        groups: [N], in rising order: image and class of each.
        gt: the objects.
        overlap: see `match`.

    Returns:
        Indices into `rows` [P], in rising order; objects [P], in rising order per detection; and the overlap [P].
    """
    of_object = gt.images * len(gt.names) + gt.classes
    by_group = np.argsort(of_object, kind="stable")
    first, last = (np.searchsorted(of_object[by_group], groups, side) for side in ("left", "right"))
    some = np.flatnonzero(last > first)  # detections of a group that has objects
    counts = (last - first)[some]
    ends = np.cumsum(counts)
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    begin = done = 0
    while begin < len(some):
        end = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
        d = np.repeat(some[begin:end], counts[begin:end])
        g = by_group[first[d] + _within(d)]
        values = overlap(rows[d], g)
        enough = values >= IOUS[0]
        parts.append((d[enough], g[enough], values[enough]))
        begin, done = end, int(ends[end - 1])
    d, g, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return d, g, values


def _greedy(
    detections: Ints, objects: Ints, overlap: Floats, groups: Ints, skip: Bools, crowd: Bools
) -> tuple[Ints, Bools, Bools]:
    """Match greedily, in rounds: round k matches the k-th detection of every class and image at once, since detections
    of different groups do not compete for objects.

    Args:
        detections: [P], see `_pairs`.
        objects: [P], likewise.
        overlap: [P], likewise.
        groups: [N], likewise.
        skip: bool [M, A], objects that are matched only if no other is free.
        crowd: bool [M], objects that can be matched again and again.

    Returns:
        The detections that are in a pair [D], in rising order; whether each is matched to an object, and whether it is
        matched to one to be skipped, bool [D, A, T].
    """
    row_of = np.cumsum(np.diff(detections, prepend=-1) > 0) - 1
    rows = detections[np.flatnonzero(np.diff(row_of, prepend=-1))]
    rounds = _within(groups[rows])
    order = np.lexsort((objects, overlap, row_of, rounds[row_of]))
    objects, row_of, enough = objects[order], row_of[order], overlap[order][:, None] >= IOUS
    first = np.flatnonzero(np.diff(row_of, prepend=-1))  # first pair of each detection, in the order of the rounds
    bounds = np.searchsorted(rounds[row_of[first]], np.arange(rounds.max(initial=-1) + 2))
    first = np.append(first, len(objects))
    shape = (skip.shape[1], len(IOUS))
    right, skipped = np.zeros((len(rows), *shape), dtype=np.bool_), np.zeros((len(rows), *shape), dtype=np.bool_)
    taken = np.zeros((len(skip), *shape), dtype=np.bool_)
    for begin, end in pairwise(bounds):
        here = slice(first[begin], first[end])
        mine, count = objects[here], int(first[end] - first[begin])
        free = enough[here][:, None] & ~taken[mine]  # [p, A, T]
        # pairs are sorted by overlap, so the last one is the best; objects to be skipped come after all others
        worth = np.arange(1, count + 1, dtype=np.int32)[:, None] + np.int32(count) * ~skip[mine]
        best = np.maximum.reduceat(free * worth[:, :, None], first[begin:end] - here.start, axis=0)  # [d, A, T]
        rows_now = row_of[first[begin:end]]
        right[rows_now], skipped[rows_now] = best > count, (best > 0) & (best <= count)
        d, area, step = np.nonzero(best)
        chosen = mine[(best[d, area, step] - 1) % count]
        taken[chosen, area, step] = ~crowd[chosen]
    return rows, right, skipped


def _of_boxes(boxes: Floats, gt: GroundTruthArrays) -> Overlap:
    """Intersection over union of boxes x, y, w, h, in COCO's order of operations; with a crowd the share of the
    detection that lies inside."""

    def overlap(detections: Ints, objects: Ints) -> Floats:
        (x, y, w, h), (gx, gy, gw, gh) = boxes[detections].T, gt.boxes[objects].T
        width = np.minimum(x + w, gx + gw) - np.maximum(x, gx)
        height = np.minimum(y + h, gy + gh) - np.maximum(y, gy)
        shared = width * height
        union = np.where(gt.crowd[objects], w * h, w * h + gw * gh - shared)
        meet = (width > 0) & (height > 0)
        return np.divide(shared, union, out=np.zeros_like(shared), where=meet)

    return overlap


def of_masks(masks: Sequence[Rle], object_masks: Sequence[Rle], gt: GroundTruthArrays) -> Overlap:
    """The overlap of masks as compressed RLE.

    Args:
        masks: masks of all detections.
        object_masks: masks of all objects.
        gt: the objects.
    """
    from faster_coco_eval.core import mask as coco_mask

    def overlap(detections: Ints, objects: Ints) -> Floats:
        parts = [np.zeros(0)]
        of_pair = gt.images[objects] * len(gt.names) + gt.classes[objects]
        starts = np.flatnonzero(np.diff(of_pair, prepend=-1))
        for begin, end in zip(starts, np.append(starts, len(objects))[1:], strict=True):
            count = int(np.argmax(np.append(detections[begin:end] != detections[begin], True)))  # objects per detection
            here = objects[begin : begin + count]
            predicted = [masks[k] for k in detections[begin:end:count]]
            table = coco_mask.iou(predicted, [object_masks[k] for k in here], gt.crowd[here].astype(np.uint8).tolist())
            parts.append(np.asarray(table, dtype=np.float64).ravel())
        return np.concatenate(parts)

    return overlap


def _within(values: Ints) -> Ints:
    """Count the equal values directly before each value; values must not be negative."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))


def _short(values: Ints) -> NDArray[np.integer]:
    """Convert to 16 bits where the values fit: NumPy sorts those many times as fast."""
    return values.astype(np.uint16) if values.max(initial=0) < 2**16 else values
