"""Statistics of a checked split: image and object sizes, aspect ratios, objects per class and per image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from detrkit.data.records import Split

SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2
"""Limits of COCO between small, medium and large objects, in square pixels."""
_PERCENTILES = (5, 50, 95)


def split_statistics(split: Split, num_queries: int) -> dict[str, Any]:
    """Compute the statistics that `detrkit check` prints for one split, as JSON-like data.

    Objects are counted without crowd regions, except for `crowds`. Sizes are in pixels of the file; `side` is the
    square root of the box area, `aspect` is width / height.
    """
    objects = [obj for image in split.images for obj in image.objects if not obj.crowd]
    each = np.array([sum(not obj.crowd for obj in image.objects) for image in split.images], dtype=np.int64)
    boxes = np.array([obj.box for obj in objects], dtype=np.float64).reshape(-1, 4)
    areas = np.array([obj.area for obj in objects], dtype=np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sizes = np.array([(image.width, image.height) for image in split.images], dtype=np.int64).reshape(-1, 2)
    name_of = dict(zip(split.categories.ids, split.categories.names, strict=True))
    per_class = dict.fromkeys(split.categories.names, 0)
    images_of = dict.fromkeys(split.categories.names, 0)
    for obj in objects:
        per_class[name_of[obj.category_id]] += 1
    for image in split.images:
        for category_id in {obj.category_id for obj in image.objects if not obj.crowd}:
            images_of[name_of[category_id]] += 1
    return {
        "images": len(split.images),
        "objects": len(objects),
        "crowds": sum(len(image.objects) for image in split.images) - len(objects),
        "images_without_objects": int((each == 0).sum()),
        "objects_per_image": {"median": _median(each), "max": int(each.max(initial=0))},
        "images_with_more_objects_than_queries": int((each > num_queries).sum()),
        "small": int((areas < SMALL_AREA).sum()),
        "medium": int(((areas >= SMALL_AREA) & (areas <= LARGE_AREA)).sum()),
        "large": int((areas > LARGE_AREA).sum()),
        "side": _percentiles(np.sqrt(width * height)),
        "relative_side": _percentiles(_relative_sides(split)),
        "aspect": _percentiles(width / height),
        "image_width": _percentiles(sizes[:, 0]),
        "image_height": _percentiles(sizes[:, 1]),
        "objects_per_class": per_class,
        "images_per_class": images_of,
    }


def _relative_sides(split: Split) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Square root of box area / image area, per object: a size that does not change when images are resized."""
    return np.array(
        [
            ((obj.box[2] - obj.box[0]) * (obj.box[3] - obj.box[1]) / (image.width * image.height)) ** 0.5
            for image in split.images
            for obj in image.objects
            if not obj.crowd
        ],
        dtype=np.float64,
    )


def _median(values: np.ndarray[Any, Any]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _percentiles(values: Iterable[float]) -> dict[str, float]:
    """5th, 50th and 95th percentile; empty if there are no values."""
    values = np.asarray(values)
    if not len(values):
        return {}
    return {f"p{p}": round(float(v), 4) for p, v in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)}
