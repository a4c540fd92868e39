"""Statistics of a checked split: image and object sizes, aspect ratios, objects per class and per image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from detrkit.data.records import Split, StoredRecords
from detrkit.data.split_arrays import SplitArrays

SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2
"""Limits of COCO between small, medium and large objects, in square pixels."""
_PERCENTILES = (5, 50, 95)


def split_statistics(split: Split, num_queries: int) -> dict[str, Any]:
    """Compute the statistics that `detrkit check` prints for one split, as JSON-like data.

    Objects are counted without crowd regions, except for `crowds`. Sizes are in pixels of the file; `side` is the
    square root of the box area, `relative_side` that of its share of the image, which does not change when images are
    resized, `aspect` is width / height.
    """
    arrays = split.arrays
    each = arrays.counts
    crowded = {"images_with_more_objects_than_queries": int((each > num_queries).sum())}
    if isinstance(split.images, StoredRecords) and (stored := split.images.statistics()) is not None:
        return {**stored, **crowded}
    areas = arrays.areas[~np.asarray(arrays.crowd)]
    names = split.categories.names
    per_class, images_of = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for name, number in zip(names, arrays.class_counts().tolist(), strict=False):
        per_class[name] += number
    for name, number in zip(names, _images_per_class(arrays), strict=False):
        images_of[name] += number
    return {
        "images": len(split.images),
        "objects": int(each.sum()),
        "crowds": int(arrays.crowd.sum()),
        "images_without_objects": int((each == 0).sum()),
        "objects_per_image": {"median": _median(each), "max": int(each.max(initial=0))},
        **crowded,
        "small": int((areas < SMALL_AREA).sum()),
        "medium": int(((areas >= SMALL_AREA) & (areas <= LARGE_AREA)).sum()),
        "large": int((areas > LARGE_AREA).sum()),
        "side": _percentiles(arrays.measure(lambda w, h, *image: np.sqrt(w * h))),
        "relative_side": _percentiles(arrays.measure(lambda w, h, *image: np.sqrt(w * h / (image[0] * image[1])))),
        "aspect": _percentiles(arrays.measure(lambda w, h, *image: w / h)),
        "image_width": _percentiles(arrays.widths),
        "image_height": _percentiles(arrays.heights),
        "objects_per_class": per_class,
        "images_per_class": images_of,
    }


def _images_per_class(arrays: SplitArrays) -> list[int]:
    """Number of images with objects of each class index."""
    counts = np.zeros(int(arrays.class_indices.max(initial=-1)) + 1, np.int64)
    for _, classes in arrays.class_pairs():
        counts += np.bincount(classes, minlength=len(counts))
    return [int(count) for count in counts]


def _median(values: np.ndarray[Any, Any]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _percentiles(values: Iterable[float]) -> dict[str, float]:
    """5th, 50th and 95th percentile; empty if there are no values."""
    values = np.asarray(values)
    if not len(values):
        return {}
    return {f"p{p}": round(float(v), 4) for p, v in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)}
