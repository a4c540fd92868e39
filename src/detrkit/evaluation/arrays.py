"""Ground truth and detections of a data set as arrays, one per key of COCO's files, so that millions fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from detrkit.ops.boxes import best_of_overlapping

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DetectionArrays(Sequence[dict[str, Any]]):
    """N detections as arrays. As a sequence, it gives one dict per detection; arrays take an eighth of their memory."""

    image_ids: Ints
    """[N], ids of the data set."""
    category_ids: Ints
    """[N], ids of the data set."""
    boxes: Floats
    """[N, 4], x, y, w, h in pixels."""
    scores: Floats
    """[N]."""
    segmentations: tuple[Any, ...] | None = None
    """N polygons or RLE, with None for detections without a mask; or None: there are no masks."""

    @classmethod
    def empty(cls) -> DetectionArrays:
        """Make arrays of no detections."""
        ids = np.zeros(0, dtype=np.int64)
        return cls(ids, ids, np.zeros((0, 4)), np.zeros(0))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> DetectionArrays:
        """Convert COCO results.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or is not a number; see `coco_metrics.check_detections`.
        """
        if isinstance(rows, cls):
            return rows
        rows = list(rows)  # iterated over once per column
        masks = tuple(row.get("segmentation") for row in rows)
        return cls(
            image_ids=_column([row["image_id"] for row in rows], "biu").astype(np.int64),
            category_ids=_column([row["category_id"] for row in rows], "biu").astype(np.int64),
            boxes=_column([row["bbox"] for row in rows], "biuf", 4).astype(np.float64),
            scores=_column([row["score"] for row in rows], "biuf").astype(np.float64),
            segmentations=masks if any(mask is not None for mask in masks) else None,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[DetectionArrays]) -> DetectionArrays:
        """Join the detections of several parts, in order."""
        if not parts:
            return cls.empty()
        masks: tuple[Any, ...] | None = None
        if any(part.segmentations is not None for part in parts):
            masks = tuple(mask for part in parts for mask in part.segmentations or (None,) * len(part))
        return cls(
            image_ids=np.concatenate([part.image_ids for part in parts]),
            category_ids=np.concatenate([part.category_ids for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            segmentations=masks,
        )

    def with_masks(self) -> DetectionArrays:
        """Select the detections that have a mask."""
        masks = self.segmentations or (None,) * len(self)
        return self.take(np.flatnonzero([bool(mask) for mask in masks]))

    def without_overlaps(self, max_overlap: float) -> DetectionArrays:
        """Of every two detections of an image whose boxes have a larger IoU, 0..1, select the better, whatever their
        classes; see `Detections.without_overlaps`."""
        corners = self.boxes.copy()
        corners[:, 2:] += corners[:, :2]
        order = np.argsort(self.image_ids, kind="stable")
        starts = np.flatnonzero(np.diff(self.image_ids[order])) + 1
        kept = []
        for rows in np.split(order, starts):
            boxes, scores = torch.from_numpy(corners[rows]), torch.from_numpy(self.scores[rows])
            kept.append(rows[best_of_overlapping(boxes, scores, max_overlap).numpy()])
        return self.take(np.sort(np.concatenate(kept)))

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, k: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, k: slice) -> DetectionArrays: ...
    def __getitem__(self, k: int | slice) -> dict[str, Any] | DetectionArrays:
        """One detection as a dict, or a slice of them as arrays."""
        rows = np.arange(len(self))[k]
        return self.take(rows) if isinstance(k, slice) else next(iter(self.take(rows[None])))

    def take(self, rows: Ints) -> DetectionArrays:
        """Select detections by their rows [n], in that order."""
        masks = None
        if self.segmentations is not None:
            masks = tuple(self.segmentations[k] for k in rows.tolist())
        return DetectionArrays(
            self.image_ids[rows], self.category_ids[rows], self.boxes[rows], self.scores[rows], masks
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the detections as COCO results."""
        arrays = (self.image_ids, self.category_ids, self.boxes, self.scores)
        rows = zip(*(column.tolist() for column in arrays), strict=True)
        for k, (image_id, category_id, box, score) in enumerate(rows):
            row = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            if self.segmentations is not None and self.segmentations[k] is not None:
                row["segmentation"] = self.segmentations[k]
            yield row


@dataclass(frozen=True)
class GroundTruthArrays:
    """M objects of I images and C classes, as arrays. `classes` and `images` are indices into `category_ids` and
    `image_ids`."""

    image_ids: Ints
    """[I], in rising order."""
    category_ids: Ints
    """[C], in rising order."""
    names: tuple[str, ...]
    """[C]."""
    images: Ints
    """[M], in the order of the annotations, like all arrays below."""
    classes: Ints
    """[M]."""
    boxes: Floats
    """[M, 4], x, y, w, h in pixels."""
    areas: Floats
    """[M], in square pixels: `area` of the annotation, else that of the box."""
    crowd: Bools
    """[M]: whether it is a region of many objects."""

    @classmethod
    def from_coco(cls, gt: Mapping[str, Any]) -> GroundTruthArrays:
        """Convert COCO instances, whose annotations must refer to its images and categories."""
        names = {int(row["id"]): str(row.get("name", row["id"])) for row in gt["categories"]}
        image_ids = np.unique(np.array([int(row["id"]) for row in gt["images"]], dtype=np.int64))
        category_ids = np.array(sorted(names), dtype=np.int64)
        rows = gt["annotations"]
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        areas = np.array([row.get("area") for row in rows], dtype=np.float64)  # None is NaN
        return cls(
            image_ids=image_ids,
            category_ids=category_ids,
            names=tuple(names[i] for i in category_ids.tolist()),
            images=index_in(image_ids, np.array([row["image_id"] for row in rows], dtype=np.int64)),
            classes=index_in(category_ids, np.array([row["category_id"] for row in rows], dtype=np.int64)),
            boxes=boxes,
            areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
            crowd=np.array([bool(row.get("iscrowd")) for row in rows], dtype=np.bool_),
        )

    def objects_per_class(self) -> Ints:
        """[C]: number of objects, crowds not counted."""
        return np.bincount(self.classes[~self.crowd], minlength=len(self.names)).astype(np.int64)


def index_in(known: Ints, ids: Ints) -> Ints:
    """Indices of ids in an array of known ids, which are in rising order and contain them all."""
    return np.searchsorted(known, ids).astype(np.int64, copy=False)


def _column(values: list[Any], kinds: str, *shape: int) -> NDArray[Any]:
    """Convert to an array [N, *shape].

    Raises:
        ValueError: it is not of one of the `kinds`, see `numpy.dtype.kind`, or of another shape.
    """
    column = np.array(values) if values else np.zeros((0, *shape), dtype=np.int64)
    if column.dtype.kind not in kinds or column.shape != (len(values), *shape):
        raise ValueError(f"expected numbers, found {column.dtype} {column.shape}")
    return column
