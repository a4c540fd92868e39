"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation", section 4), counted as the official evaluation does.

A predicted segment matches a ground-truth segment of its class where their IoU is above 0.5, which can hold for one
only. Per class, over true positives (pairs), false positives and false negatives,

    PQ = sum of IoU / (TP + FP / 2 + FN / 2) = SQ * RQ,    SQ = sum of IoU / TP,    RQ = TP / (TP + FP / 2 + FN / 2)

Void, the pixels without a segment in the ground truth, does not count in a union. Crowds need not be matched, and an
unmatched prediction is ignored where more than half of it lies in void or in a crowd of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.data.formats.coco_panoptic import read_panoptic_gt
from detrkit.data.records import Split
from detrkit.errors import DataError
from detrkit.evaluation.prediction_files import PanopticPredictions
from detrkit.structures import Categories

Segments = Sequence[Mapping[str, Any]]
"""Rows with `id` and `category_id`; those of the ground truth may have `iscrowd`."""


UNIT = 2**40
"""Sums of IoU are kept as whole numbers of 1 / UNIT."""


@dataclass(frozen=True)
class ClassQuality:
    """Panoptic quality of one class; all 0 where it is neither in the ground truth nor predicted."""

    id: int
    """The data set's own category id."""
    name: str
    isthing: bool
    pq: float
    """0..1, like `sq` and `rq`."""
    sq: float
    rq: float
    segments: int
    """Ground-truth segments, crowds not counted."""
    predicted: int
    """Predicted segments, ignored ones not counted."""


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """The numbers that panoptic quality is computed from, for K pairs of an image and a class that occurs in it."""

    image_ids: NDArray[np.int64]
    """[K], ids of the data set."""
    classes: NDArray[np.int64]
    """[K], indices of the categories."""
    values: NDArray[np.int64]
    """[K, 4]: sum of IoU in 1 / UNIT, true positives, false positives, false negatives. Whole numbers, so that the
    order in which images are added does not matter."""

    @classmethod
    def concatenate(cls, parts: Sequence[PanopticCounts]) -> PanopticCounts:
        """Join the counts of several parts, in order."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([none, *(part.image_ids for part in parts)]),
            np.concatenate([none, *(part.classes for part in parts)]),
            np.concatenate([none.reshape(0, 4), *(part.values for part in parts)]),
        )


@dataclass(frozen=True)
class PanopticMetrics:
    """Panoptic quality of a data set."""

    per_class: list[ClassQuality]
    """In the order of the categories."""
    counts: PanopticCounts = field(default_factory=lambda: PanopticCounts.concatenate([]), repr=False, compare=False)
    """The counts of each image."""

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """Means over the classes that occur: `pq`, `sq`, `rq` and the number `n` of classes, for `All`, `Things`,
        `Stuff`.

        Without any class the means are -1.
        """
        groups = {}
        for group, kinds in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
            rows = [row for row in self.per_class if row.isthing in kinds and (row.segments or row.predicted)]
            means = {
                name: float(np.mean([getattr(row, name) for row in rows])) if rows else -1.0
                for name in ("pq", "sq", "rq")
            }
            groups[group] = {**means, "n": len(rows)}
        return groups

    @property
    def metrics(self) -> dict[str, float]:
        """PQ, SQ, RQ, then PQ_things, ..., RQ_stuff, in 0..1; -1 where there is nothing to measure."""
        return {
            name.upper() + ending: self.groups[group][name]
            for group, ending in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff"))
            for name in ("pq", "sq", "rq")
        }


@dataclass(frozen=True)
class PanopticGroundTruth:
    """Ground-truth panoptic maps; each is read when it is needed."""

    categories: Categories
    """The data set's categories, with `isthing`."""
    of: Callable[[int], tuple[Tensor, list[dict[str, Any]]]]
    """Image id -> int64 [H, W], the segment id of each pixel, and one row per segment: `id`, `category_id`,
    `iscrowd`."""

    @classmethod
    def from_split(cls, split: Split) -> Self:
        """The maps of a checked split, all of whose images have `panoptic`."""
        images = {image.id: image for image in split.images}
        return cls(split.categories, lambda image_id: read_panoptic_gt(images[image_id]))


class PanopticSums:
    """The counts that panoptic quality is computed from, of a growing number of images.

    Args:
        categories: the data set's; where `isthing` is empty, all are things.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self._parts: list[PanopticCounts] = []

    @property
    def counts(self) -> PanopticCounts:
        """The counts of all images so far."""
        self._parts = [PanopticCounts.concatenate(self._parts)]
        return self._parts[0]

    @property
    def sums(self) -> NDArray[np.int64]:
        """[C, 4]: the sums over all images so far, see `PanopticCounts.values`."""
        sums = np.zeros((len(self.categories), 4), dtype=np.int64)
        np.add.at(sums, self.counts.classes, self.counts.values)
        return sums

    @property
    def things(self) -> dict[int, bool]:
        """Category id -> whether it is a thing."""
        isthing = self.categories.isthing or (True,) * len(self.categories)
        return dict(zip(self.categories.ids, isthing, strict=True))

    def add(
        self,
        gt_ids: Tensor | NDArray[Any],
        gt_segments: Segments,
        ids: Tensor | NDArray[Any],
        segments: Segments,
        *,
        image_id: int,
    ) -> None:
        """Add one image.

        Args:
            gt_ids: int [H, W], the segment of each pixel; void where there is no row of that id.
            gt_segments: segments of the ground truth.
            ids: int [H, W], the predicted segment of each pixel; unlabeled where there is no row of that id.
            segments: predicted segments, with the category ids of the data set; those of another count as unlabeled.
            image_id: id of the image.

        Raises:
            DataError: the maps differ in size, or the ground truth has a category that the data set does not know.
        """
        if gt_ids.shape != ids.shape:
            raise DataError(
                f"expected a panoptic map of the image's size {_size(gt_ids)}, found {_size(ids)}; predict at the "
                "size of the image's file"
            )
        index_of = self.categories.index_of_id
        unknown = [row["category_id"] for row in gt_segments if row["category_id"] not in index_of]
        if unknown:
            raise DataError(f"expected only categories of the data set in its panoptic maps, found id {unknown[0]}")
        segments = [row for row in segments if row["category_id"] in index_of]
        gt_classes = np.array([index_of[row["category_id"]] for row in gt_segments], dtype=np.int64)
        pred_classes = np.array([index_of[row["category_id"]] for row in segments], dtype=np.int64)
        crowd = np.array([bool(row.get("iscrowd")) for row in gt_segments], dtype=np.bool_)

        shared = _shared(gt_ids, gt_segments, ids, segments)
        gt_present, pred_present = shared.sum(1)[:-1] > 0, shared.sum(0)[:-1] > 0  # a row without pixels is no segment
        overlap, void = shared[:-1, :-1], shared[-1, :-1]
        union = shared.sum(1)[:-1, None] + (shared.sum(0)[:-1] - void)[None] - overlap
        comparable = (gt_classes[:, None] == pred_classes[None]) & ~crowd[:, None]
        iou = np.divide(overlap, union, out=np.zeros(union.shape), where=comparable & (union > 0))
        gt_rows, pred_rows = np.nonzero(iou > 0.5)  # the true positives

        # one crowd per class counts, the last, as in the official evaluation
        last_crowd = {label: row for row, label in enumerate(gt_classes.tolist()) if crowd[row]}
        in_crowd = [
            overlap[last_crowd[label], k] if label in last_crowd else 0 for k, label in enumerate(pred_classes.tolist())
        ]
        ignored = 2 * (void + np.array(in_crowd, dtype=np.int64)) > shared.sum(0)[:-1]
        false_positives = pred_present & ~ignored
        false_positives[pred_rows] = False
        false_negatives = gt_present & ~crowd
        false_negatives[gt_rows] = False
        units = np.rint(iou[gt_rows, pred_rows] * UNIT).astype(np.int64)
        matched = gt_classes[gt_rows]
        counts = [
            (matched, units),
            (matched, None),
            (pred_classes[false_positives], None),
            (gt_classes[false_negatives], None),
        ]
        values = np.zeros((len(self.categories), 4), dtype=np.int64)
        for column, (rows, weights) in enumerate(counts):
            np.add.at(values[:, column], rows, 1 if weights is None else weights)
        classes = np.flatnonzero(values.any(axis=1))
        self._parts.append(PanopticCounts(np.full(len(classes), image_id), classes, values[classes]))

    def merge(self, counts: PanopticCounts) -> None:
        """Add the `counts` of another process, which had other images."""
        self._parts.append(counts)

    def result(self) -> PanopticMetrics:
        """Panoptic quality over all images so far."""
        things, rows = list(self.things.values()), []
        for k, (units, tp, fp, fn) in enumerate(self.sums.tolist()):
            iou, base = units / UNIT, tp + fp / 2 + fn / 2
            rows.append(
                ClassQuality(
                    id=self.categories.ids[k],
                    name=self.categories.names[k],
                    isthing=things[k],
                    pq=iou / base if base else 0.0,
                    sq=iou / tp if tp else 0.0,
                    rq=tp / base if base else 0.0,
                    segments=tp + fn,
                    predicted=tp + fp,
                )
            )
        return PanopticMetrics(rows, self.counts)


def panoptic_quality(
    gt: PanopticGroundTruth, predictions: PanopticPredictions, image_ids: Sequence[int]
) -> PanopticMetrics:
    """Panoptic quality of predicted maps in files; images without a map count as empty predictions.

    Raises:
        DataError: a map is of no such image, of another size, has an unknown category, or comes twice.
    """
    sums = PanopticSums(gt.categories)
    missing = set(image_ids)
    for image_id, ids, segments in predictions.maps():
        if image_id not in missing:
            wrong = "has a second map" if image_id in image_ids else "is not among the images"
            raise DataError(
                f"expected a map for each image of the data set in {predictions.path}, but image id {image_id!r} "
                f"{wrong}; evaluate against the split these maps were made on"
            )
        unknown = [row["category_id"] for row in segments if row["category_id"] not in sums.things]
        if unknown:
            raise DataError(
                f"expected the data set's own category ids in {predictions.path}, found {unknown[0]} in the map of "
                f"image id {image_id}; write them as the data set's json file has them"
            )
        missing.remove(image_id)
        sums.add(*gt.of(image_id), ids, segments, image_id=image_id)
    for image_id in sorted(missing):
        gt_ids, gt_segments = gt.of(image_id)
        sums.add(gt_ids, gt_segments, torch.zeros_like(gt_ids), [], image_id=image_id)
    return sums.result()


def _shared(
    gt_ids: Tensor | NDArray[Any], gt_segments: Segments, ids: Tensor | NDArray[Any], segments: Segments
) -> NDArray[np.int64]:
    """[T + 1, P + 1]: pixels that each segment of the ground truth shares with each predicted one; last those of
    neither."""
    rows, arrays = _positions(gt_ids, gt_segments), _positions(ids, segments)
    shape = len(gt_segments) + 1, len(segments) + 1
    return np.bincount(rows * shape[1] + arrays, minlength=shape[0] * shape[1]).reshape(shape)


def _positions(ids: Tensor | NDArray[Any], segments: Segments) -> NDArray[np.int64]:
    """The row of each pixel's segment, or the number of rows where it has none; int64 [H * W]."""
    pixels = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids).ravel()
    known = np.array([row["id"] for row in segments], dtype=np.int64)
    if not len(known):
        return np.zeros(len(pixels), dtype=np.int64)
    order = np.argsort(known)
    nearest = np.searchsorted(known[order], pixels).clip(max=len(known) - 1)
    rows = order[nearest]
    return np.where(known[rows] == pixels, rows, len(known))


def _size(ids: Tensor | NDArray[Any]) -> str:
    return " x ".join(map(str, ids.shape))
