"""images.json of a report: the objects and detections of each image, and which belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.evaluation.arrays import Floats
from detrkit.evaluation.confusion import BACKGROUND, Confusion
from detrkit.evaluation.matching import EvalArrays
from detrkit.files import write_atomic

NAME = "images.json"


def write_image_pairs(
    folder: Path,
    gt: Mapping[str, Any],
    arrays: EvalArrays,
    confusion: Confusion,
    image_paths: Mapping[int, Path],
) -> None:
    """Write images.json, from which the cells of the confusion matrix can be looked up.

    It has `threshold`, `labels` (the classes, then background) and `images`, each with `id`, `file`, `path` (relative
    to the folder; null: not known), `width`, `height`, `objects` (rows of class, x1, y1, x2, y2), `crowds` (indices of
    objects that are regions of many) and `detections` (rows of class, score, x1, y1, x2, y2 and the index of the object
    that it is paired with, or -1). Classes are indices of `labels`, boxes are in pixels. Detections below the threshold
    are left out.

    Args:
        folder: folder of the report.
        gt: COCO instances.
        arrays: ground truth and detections.
        confusion: which of them are paired.
        image_paths: the file of each image id.
    """
    rows = {int(image["id"]): image for image in gt["images"]}
    everywhere = np.arange(len(arrays.image_ids) + 1)
    first_object = np.searchsorted(arrays.object_images, everywhere)
    first_detection = np.searchsorted(arrays.images, everywhere)
    images = []
    for k, image_id in enumerate(arrays.image_ids.tolist()):
        objects = np.arange(first_object[k], first_object[k + 1])
        shown = first_detection[k] + np.flatnonzero(confusion.shown[first_detection[k] : first_detection[k + 1]])
        paired = confusion.object_of[shown]
        row, path = rows[image_id], image_paths.get(image_id)
        images.append(
            {
                "id": image_id,
                "file": str(row.get("file_name", "")),
                "path": None if path is None else relative(path, folder),
                "width": row["width"],
                "height": row["height"],
                "objects": [
                    [class_index, *box]
                    for class_index, box in zip(
                        arrays.object_classes[objects].tolist(), _rounded(arrays.object_boxes[objects]), strict=True
                    )
                ],
                "crowds": np.flatnonzero(arrays.crowd[objects]).tolist(),
                "detections": [
                    [class_index, round(score, 4), *box, partner]
                    for class_index, score, box, partner in zip(
                        arrays.classes[shown].tolist(),
                        arrays.scores[shown].tolist(),
                        _rounded(arrays.boxes[shown]),
                        np.where(paired >= 0, paired - first_object[k], -1).tolist(),
                        strict=True,
                    )
                ],
            }
        )
    content = {"threshold": confusion.threshold, "labels": [*arrays.names, BACKGROUND], "images": images}
    write_atomic(folder / NAME, json.dumps(content, ensure_ascii=False))


def relative(path: Path, folder: Path) -> str:
    """The path seen from a folder; an absolute path where there is none, as between drives of Windows."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def _rounded(boxes: Floats) -> list[list[float]]:
    return [[round(value, 2) for value in box] for box in boxes.tolist()]
