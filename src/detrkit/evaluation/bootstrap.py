"""Bootstrap of average precision and panoptic quality over images (Efron 1979, "Bootstrap methods", section 2).

A resample draws as many images as there are, with replacement; the spread of a metric over resamples shows how far
another choice of images would have moved it. Images are matched independently of each other, so nothing is matched
again: each match counts as often as its image was drawn. The values are those of an evaluation of the drawn images, in
rising order, an image drawn twice being two images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.arrays import Bools, Floats, Ints, index_in
from detrkit.evaluation.average_precision import IOUS, RECALLS, MatchTable
from detrkit.evaluation.panoptic_quality import UNIT, PanopticCounts

Draws = NDArray[np.int16]
"""[R, I]: how often each of I images is drawn in each of R resamples."""

RESAMPLES = 1000
"""Number of resamples where no other is chosen."""

LEVEL = 0.95
"""Probability that an interval is meant to hold the value of all images that could have been drawn."""

CELLS_AT_ONCE = 2**19
"""Most cells of a table of detections and resamples that are computed together, so that it stays in the cache."""


def draw_images(images: int, resamples: int, seed: int = 0) -> Draws:
    """Draw resamples of images with replacement; the same numbers give the same resamples, so that models can be
    compared on them.

    Args:
        images: number of images.
        resamples: number of resamples.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    draws = np.zeros((resamples, images), dtype=np.int16)
    for row in draws:
        row += np.bincount(rng.integers(0, max(images, 1), images), minlength=images).astype(np.int16)
    return draws


@dataclass(frozen=True)
class APSamples:
    """Average precision of R resamples and C classes, over objects of any size; NaN where a resample has no object."""

    per_class: dict[str, Floats]
    """`AP`, `AP50`, `AP75`: [R, C]."""

    @property
    def metrics(self) -> dict[str, Floats]:
        """`AP`, `AP50`, `AP75`: [R], the mean over the classes that have an object in the resample."""
        return {name: mean_of_classes(values) for name, values in self.per_class.items()}


def resample_ap(matches: MatchTable, draws: Draws, most: int) -> APSamples:
    """Compute the average precision of each resample.

    Args:
        matches: matches of the detections in all images.
        draws: the resamples.
        most: most detections of one class counted in one image, the best.
    """
    objects = matches.objects_of_images @ draws.T.astype(np.int64)  # [C, R]
    ap = np.full((3, len(draws), len(objects)), np.nan)
    for c, table in _class_tables(matches, most, draws):
        width = max(1, CELLS_AT_ONCE // max(len(table.units), 1))
        for begin in range(0, len(draws), width):
            here = slice(begin, begin + width)
            ap[:, here, c] = table.average_precision(here, objects[c, here])
    return APSamples(dict(zip(("AP", "AP50", "AP75"), ap, strict=True)))


def resample_pq(counts: PanopticCounts, image_ids: Ints, num_classes: int, draws: Draws) -> dict[str, Floats]:
    """Compute PQ, SQ and RQ [R, C] of each resample, as `pq`, `sq`, `rq`; NaN for a class that is neither in the ground
    truth nor predicted.

    Args:
        counts: the counts of each image.
        image_ids: [I], in rising order, the images that are drawn.
        num_classes: number of classes, C.
        draws: the resamples.
    """
    from scipy.sparse import csr_array

    cells = counts.classes, index_in(image_ids, counts.image_ids)
    shape, times = (num_classes, len(image_ids)), draws.T.astype(np.int64)
    units, *numbers = ((csr_array((column, cells), shape=shape) @ times).T for column in counts.values.T)
    iou, (tp, fp, fn) = units / UNIT, numbers  # [R, C]
    base = np.where(tp + fp + fn > 0, tp + fp / 2 + fn / 2, np.nan)
    return {"pq": iou / base, "sq": iou / np.where(tp > 0, tp, base), "rq": tp / base}


def mean_of_classes(values: Floats) -> Floats:
    """Mean [R] over the classes of values [R, C] that are not NaN; NaN where there are none."""
    measured = ~np.isnan(values)
    count = measured.sum(axis=1)
    sums = np.where(measured, values, 0.0).sum(axis=1)
    return np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)


def percentile_interval(samples: Floats, level: float = LEVEL) -> tuple[float, float] | None:
    """The interval that leaves the same share of samples [R] at both sides; None where all are NaN."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _Rows(NamedTuple):
    """Detections as the bootstrap counts them."""

    rows: Ints
    """[n], in rising order: rows of `MatchTable`. Those of equal score, class and image come in copies: d1, d2, d1, d2,
    ... as in an evaluation of an image drawn twice."""
    copies: Ints
    """[n]: the copy counts if the image is drawn as often; 0: the only copy, counted as often as the image is drawn."""


@dataclass(frozen=True)
class _ClassTable:
    """D detections of one class that overlap an object, and how often each counts in R resamples."""

    units: Ints
    """[D]: row of `weights`."""
    right: Bools
    """[D, T]: whether it is a true positive."""
    change: NDArray[np.int8]
    """[D, T]: what `before` counts for it too little: 1 for a true positive out of range, -1 for an ignored one."""
    before: Any
    """Sparse [D, U]: detections of any kind since the one before, by the row of `weights`."""
    weights: Draws
    """[U, R]: how often each image counts in a resample, and how often copies of detections of equal score do."""

    def average_precision(self, resamples: slice, objects: Ints) -> Floats:
        """AP, AP50 and AP75 [3, r].

        Args:
            resamples: columns of `weights`.
            objects: [r], number of ground-truth objects in each resample.
        """
        weights = self.weights[:, resamples].astype(np.float64)
        ap = np.zeros((len(IOUS), weights.shape[1]))
        positives = np.cumsum(self.before @ weights, axis=0)  # TP + FP if nothing were ignored, [d, r]
        for t in range(len(IOUS)):
            hits, changed = np.flatnonzero(self.right[:, t]), np.flatnonzero(self.change[:, t])
            if not len(hits):
                continue
            true_positives = np.cumsum(weights[self.units[hits]], axis=0)  # [h, r]
            counted = positives[hits]
            if len(changed):
                sums = np.zeros((len(changed) + 1, weights.shape[1]))
                np.cumsum(weights[self.units[changed]] * self.change[changed, t, None], axis=0, out=sums[1:])
                counted += sums[np.searchsorted(changed, hits, "right")]
            precision = true_positives / (counted + np.spacing(1))  # the official guard against 0 / 0
            best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # of this recall and any higher
            # how many of the 101 recalls are reached; recall 0 by the first true positive
            reached = np.searchsorted(RECALLS, true_positives / np.maximum(objects, 1), "right") * (true_positives > 0)
            ap[t] = (best * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
        ap[:, objects == 0] = np.nan
        return np.stack([ap.mean(axis=0), ap[0], ap[5]])


def _class_tables(matches: MatchTable, most: int, draws: Draws) -> Iterator[tuple[int, _ClassTable]]:
    """The table of each class that has objects, of the `most` best detections per image."""
    from scipy.sparse import csr_array

    near = np.zeros(len(matches.classes), dtype=np.bool_)
    near[matches.near] = True
    alone = matches.inside[:, 0]
    for c in np.flatnonzero(matches.objects[:, 0]).tolist():
        begin, end = np.searchsorted(matches.classes, [c, c + 1])
        rows = begin + np.flatnonzero(matches.ranks[begin:end] < most)
        rows, copies = _copies(matches, rows, near, draws)
        pairs, units = np.unique(np.stack([matches.images[rows], copies]), axis=1, return_inverse=True)
        images, copy = pairs[:, :, None]
        weights = draws.T[images[:, 0]]
        weights = np.where(copy > 0, weights >= copy, weights).astype(np.int16)

        chosen = np.flatnonzero(near[rows])
        of_near = np.searchsorted(matches.near, rows[chosen])
        right, ignored = matches.right[of_near, 0], matches.ignored[of_near, 0]
        already = alone[rows[chosen], None]
        segments = np.searchsorted(chosen, np.arange(len(rows)))  # the first near detection at or after each row
        counted = alone[rows] & (segments < len(chosen))
        cells = segments[counted], units[counted]
        yield (
            c,
            _ClassTable(
                units=units[chosen],
                right=right,
                change=(right & ~already).astype(np.int8) - (ignored & already),
                before=csr_array((np.ones(len(cells[0])), cells), shape=(len(chosen), len(weights))),
                weights=weights,
            ),
        )


def _copies(matches: MatchTable, rows: Ints, near: Bools, draws: Draws) -> _Rows:
    """Repeat the detections whose order in an image drawn several times matters: those of equal score in one image and
    class, one of which overlaps an object.

    Args:
        matches: the matches.
        rows: [n], the rows of one class that count.
        near: bool [N]: whether a row overlaps an object.
        draws: the resamples.
    """
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (np.diff(matches.images[rows]) != 0) | (np.diff(matches.scores[rows]) != 0)
    block = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    sizes = np.diff(first, append=len(rows))
    several = (sizes > 1) & (np.bincount(block, near[rows], minlength=len(first)) > 0)
    times = np.where(several, draws.max(axis=0, initial=0)[matches.images[rows[first]]], 1)
    of_block = np.repeat(np.arange(len(first)), times)  # a block per copy
    copy = np.arange(len(of_block)) - np.repeat(np.cumsum(times) - times, times) + 1
    copy[~several[of_block]] = 0
    lengths = sizes[of_block]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return _Rows(rows[np.repeat(first[of_block], lengths) + within], np.repeat(copy, lengths))
