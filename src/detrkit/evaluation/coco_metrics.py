"""The official COCO metrics, from plain COCO data or from arrays of it.

One rule for what cannot be measured: a metric is -1, as in the official tool, where there is no ground-truth object (of
that class, of that size, or at all). With objects but no detections it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detrkit.errors import DataError
from detrkit.evaluation.arrays import DetectionArrays, Floats, GroundTruthArrays, index_in
from detrkit.evaluation.average_precision import RECALLS, MatchTable, Overlap, match, of_masks
from detrkit.ops.masks import as_rle, segmentation_fault
from detrkit.ops.text import first_names

IouType = Literal["bbox", "segm"]

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve official metrics, in the official order. AP and AR average over IoU 0.50:0.05:0.95; s, m, l are objects
below 32 x 32, between, and above 96 x 96 pixels; AR1, AR10, AR100 count so many detections per image and class."""

OFFICIAL_MAX_DETS = 100
"""Most detections per image and class that the official metrics count."""

_INTEGERS = (int, np.integer)
_NUMBERS = (int, float, np.number)


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class. All are in 0..1, or -1 where the ground truth holds no object of the
    class."""

    id: int
    """The data set's own category id."""
    name: str
    objects: int
    """Ground-truth objects, crowds not counted."""
    detections: int
    AP: float
    AP50: float
    AP75: float
    AR: float
    """Average recall over the IoU thresholds, with `max_dets` detections per image."""


@dataclass(frozen=True, repr=False)
class CocoMetrics:
    """The COCO metrics of a set of detections. Printed with `str`, the table of the official tool."""

    metrics: dict[str, float]
    """The metrics of `COCO_NAMES` by name; with `max_dets` K above 100 also `AP@K` and `ARK`."""
    per_class: list[ClassMetrics]
    """One entry per category, in the order of their ids."""
    precision: NDArray[np.float64]
    """[10, 101, C]: interpolated precision at IoU 0.50:0.05:0.95 and recall 0:0.01:1; -1 without objects."""
    scores: NDArray[np.float64]
    """[10, 101, C]: the score at which that recall is reached."""
    matches: MatchTable
    """The matches that the metrics are computed from."""
    max_dets: int
    """Most detections per image and class that `per_class`, `precision` and `scores` count."""
    iou_type: IouType = "bbox"
    """Whether boxes (bbox) or masks (segm) were compared."""

    def __str__(self) -> str:
        return summary(self.metrics, self.iou_type)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {self.metrics[name]:.3f}" for name in ("AP", "AP50", "AP75", "AR100"))
        classes = f"{len(self.per_class)} class{'' if len(self.per_class) == 1 else 'es'}"
        return f"CocoMetrics({_NOUNS[self.iou_type]}: {values}; {classes})"

    @property
    def recall_points(self) -> NDArray[np.float64]:
        """[101]: the recalls that `precision` belongs to."""
        return RECALLS


def compute_coco_metrics(
    gt: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    iou_type: IouType = "bbox",
    *,
    max_dets: int = OFFICIAL_MAX_DETS,
) -> CocoMetrics:
    """Compute average precision and recall of detections, as the COCO evaluation defines them.

    Args:
        gt: COCO instances: `images`, `annotations` (`bbox` x, y, w, h in pixels), `categories`, original ids. An
            absent `area` is the box's; crowds (`iscrowd`) need not be detected, and detections in them are ignored.
        detections: COCO results: `image_id`, `category_id`, `bbox` x, y, w, h in pixels, `score`; with
            `segmentation` (RLE) for `segm`. May be empty.
        iou_type: compare boxes or masks.
        max_dets: most detections of one class counted in one image. The twelve official metrics always use 100;
            a larger value, for images with more objects than that, adds `AP@K` and `ARK`.

    Raises:
        DataError: a detection has an image or category that the ground truth does not know, lacks a key, or is not
            finite; or masks are to be compared and one is missing.
    """
    if max_dets < OFFICIAL_MAX_DETS:
        raise DataError(f"expected max_dets of at least {OFFICIAL_MAX_DETS}, the official limit, found {max_dets}")
    arrays = read_detection_arrays(gt, detections, iou_type)
    objects = GroundTruthArrays.from_coco(gt)
    limits = sorted({1, 10, OFFICIAL_MAX_DETS, max_dets})
    overlap = _of_masks(gt, objects, arrays) if iou_type == "segm" else None
    matched = match(objects, arrays, limits[-1], overlap)
    precision, scores = official, _ = matched.precision(OFFICIAL_MAX_DETS)
    recalls = {most: matched.recall(most) for most in limits}
    recall = recalls[OFFICIAL_MAX_DETS]
    values = [_mean(official[..., 0]), _mean(official[0, ..., 0]), _mean(official[5, ..., 0])]
    values += [_mean(official[..., a]) for a in (1, 2, 3)]
    values += [_mean(recalls[most][..., 0]) for most in (1, 10, OFFICIAL_MAX_DETS)]
    values += [_mean(recall[..., a]) for a in (1, 2, 3)]
    metrics = dict(zip(COCO_NAMES, values, strict=True))
    if max_dets > OFFICIAL_MAX_DETS:
        precision, scores = matched.precision(max_dets)
        recall = recalls[max_dets]
        metrics[f"AP@{max_dets}"] = _mean(precision[..., 0])
        metrics[f"AR{max_dets}"] = _mean(recall[..., 0])
    return CocoMetrics(
        metrics=metrics,
        per_class=_per_class(objects, arrays, precision[..., 0], recall[..., 0]),
        precision=precision[..., 0],
        scores=scores[..., 0],
        matches=matched,
        max_dets=max_dets,
        iou_type=iou_type,
    )


def read_detection_arrays(
    gt: Mapping[str, Any], detections: Iterable[Mapping[str, Any]], iou_type: IouType = "bbox", *, where: str = ""
) -> DetectionArrays:
    """Convert detections to arrays, after making sure that they belong to the ground truth; see `check_detections`."""
    if not isinstance(detections, DetectionArrays):
        detections = list(detections)
    try:
        arrays = DetectionArrays.from_rows(detections)
    except (KeyError, TypeError, ValueError, OverflowError):
        arrays = None
    images, categories = ([int(row["id"]) for row in gt[key]] for key in ("images", "categories"))
    if (
        arrays is None
        or iou_type == "segm"
        or not np.isin(arrays.image_ids, images).all()
        or not np.isin(arrays.category_ids, categories).all()
        or not np.isfinite(arrays.boxes).all()
        or not np.isfinite(arrays.scores).all()
    ):
        check_detections(gt, detections, iou_type, where=where)  # one at a time, to name the wrong one
    return DetectionArrays.from_rows(detections) if arrays is None else arrays


def summary(metrics: Mapping[str, float], iou_type: str = "bbox") -> str:
    """Format `CocoMetrics.metrics` under a heading, in the official order and wording."""
    lines = [f" {_WORDS.get(name) or _extra_words(name)} = {value:0.3f}" for name, value in metrics.items()]
    return "\n".join([f"IoU of {_NOUNS[iou_type]}:", *lines])


def check_detections(
    gt: Mapping[str, Any], detections: Iterable[Mapping[str, Any]], iou_type: IouType = "bbox", *, where: str = ""
) -> None:
    """Refuse detections that do not belong to the ground truth.

    Args:
        gt: COCO instances.
        detections: COCO results.
        iou_type: `segm` also requires a mask.
        where: name of the file they come from, for the message.

    Raises:
        DataError: names the first offending entry.
    """
    images = {int(image["id"]): image for image in gt["images"]}
    categories = {int(category["id"]) for category in gt["categories"]}
    needed = ("image_id", "category_id", "bbox", "score") + (("segmentation",) if iou_type == "segm" else ())
    of = f" of {where}" if where else ""
    for position, row in enumerate(detections):
        for key in needed:
            if key not in row:
                raise DataError(
                    f"expected {', '.join(needed)} in each detection, but entry {position}{of} has no {key!r}; "
                    "write COCO results, one object per detection"
                )
        if not isinstance(row["image_id"], _INTEGERS) or row["image_id"] not in images:
            raise DataError(
                f"detection {position}{of} is for image id {row['image_id']!r}, which is not among the "
                f"{len(images)} images of the ground truth; evaluate against the split these detections were made on"
            )
        if not isinstance(row["category_id"], _INTEGERS) or row["category_id"] not in categories:
            raise DataError(
                f"detection {position}{of} has category id {row['category_id']!r}, which is not among the ids of the "
                f"ground truth ({first_names(sorted(categories))}); write the data set's original category ids"
            )
        box = row["bbox"]
        if not isinstance(box, Sequence | np.ndarray) or len(box) != 4 or not all(map(_finite, (*box, row["score"]))):
            raise DataError(
                f"expected a finite box x, y, w, h and score as numbers, but detection {position}{of} has bbox "
                f"{box!r} and score {row['score']!r}; remove it or repair what wrote it"
            )
        image = images[int(row["image_id"])]
        if iou_type == "segm" and {"height", "width"} <= image.keys():
            fault = segmentation_fault(row["segmentation"], image["height"], image["width"])
            if fault:
                raise DataError(
                    f"expected polygons or RLE of its image's size as segmentation, but detection {position}{of} has "
                    f"{fault}; leave it out to measure boxes only, or repair what wrote it"
                )


def merge_ranks(parts: Iterable[tuple[Sequence[int], DetectionArrays]]) -> DetectionArrays:
    """Join the detections of several processes, every image once, in order of image id.

    Args:
        parts: the image ids and the detections of each process. An image of several processes, because a sampler filled
            up its last batch, is taken from the first of them.
    """
    taken: set[int] = set()
    kept = []
    for image_ids, detections in parts:
        new = list(set(image_ids) - taken)
        kept.append(detections.take(np.flatnonzero(np.isin(detections.image_ids, new))))
        taken.update(new)
    merged = DetectionArrays.concatenate(kept)
    return merged.take(np.argsort(merged.image_ids, kind="stable"))


def gather_detections(image_ids: Sequence[int], detections: DetectionArrays) -> DetectionArrays:
    """Join the detections of all processes of the run, on every process; see `merge_ranks`."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return merge_ranks([(image_ids, detections)])
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (list(image_ids), detections))
    return merge_ranks(parts)


def _of_masks(gt: Mapping[str, Any], objects: GroundTruthArrays, arrays: DetectionArrays) -> Overlap:
    """The overlap of masks; every object must have one."""
    sizes = {int(image["id"]): (image["height"], image["width"]) for image in gt["images"]}
    of_objects = []
    for number, row in enumerate(gt["annotations"], 1):
        if not row.get("segmentation"):
            raise DataError(
                f"expected a segmentation in every annotation to compare masks, but annotation "
                f"{row.get('id', number)} of image {row['image_id']} has none; evaluate boxes instead"
            )
        of_objects.append(as_rle(row["segmentation"], *sizes[int(row["image_id"])]))
    images = arrays.image_ids.tolist()
    masks = [as_rle(mask, *sizes[i]) for mask, i in zip(arrays.segmentations or (), images, strict=True)]
    return of_masks(masks, of_objects, objects)


def _per_class(
    objects: GroundTruthArrays, arrays: DetectionArrays, precision: Floats, recall: Floats
) -> list[ClassMetrics]:
    detections = np.bincount(index_in(objects.category_ids, arrays.category_ids), minlength=len(objects.names))
    return [
        ClassMetrics(
            id=int(objects.category_ids[k]),
            name=name,
            objects=int(objects.objects_per_class()[k]),
            detections=int(detections[k]),
            AP=_mean(precision[:, :, k]),
            AP50=_mean(precision[0, :, k]),
            AP75=_mean(precision[5, :, k]),
            AR=_mean(recall[:, k]),
        )
        for k, name in enumerate(objects.names)
    ]


def _mean(values: NDArray[np.float64]) -> float:
    """Mean over the values that could be measured; -1 where none could."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def _finite(value: object) -> bool:
    return isinstance(value, _NUMBERS) and math.isfinite(value)


def _line(kind: str, iou: str, area: str, most: int) -> str:
    what = {"AP": "Average Precision", "AR": "Average Recall   "}[kind]
    return f"{what} ({kind}) @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ]"


_NOUNS = {"bbox": "boxes", "segm": "masks"}
_ALL = "0.50:0.95"
_WORDS = {
    "AP": _line("AP", _ALL, "all", 100),
    "AP50": _line("AP", "0.50", "all", 100),
    "AP75": _line("AP", "0.75", "all", 100),
    "APs": _line("AP", _ALL, "small", 100),
    "APm": _line("AP", _ALL, "medium", 100),
    "APl": _line("AP", _ALL, "large", 100),
    "AR1": _line("AR", _ALL, "all", 1),
    "AR10": _line("AR", _ALL, "all", 10),
    "AR100": _line("AR", _ALL, "all", 100),
    "ARs": _line("AR", _ALL, "small", 100),
    "ARm": _line("AR", _ALL, "medium", 100),
    "ARl": _line("AR", _ALL, "large", 100),
}


def _extra_words(name: str) -> str:
    return _line(name[:2], _ALL, "all", int(name[2:].lstrip("@")))
