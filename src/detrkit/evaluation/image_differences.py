"""Images on which detectors differ most, drawn side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.evaluation.arrays import Bools, Floats, Ints
from detrkit.evaluation.comparison import ImageDifference
from detrkit.evaluation.confusion import KINDS, Confusion, confusion_matrix, mistakes
from detrkit.evaluation.matching import EvalArrays, match_detections
from detrkit.evaluation.per_class import DEFAULT_THRESHOLD, f1_curves
from detrkit.ops.value_range import ValueRange
from detrkit.results import Detections
from detrkit.visualization.draw import ImageArray, as_image, draw_detections, save_image, titled

FOLDER = "differences"
"""Folder of the drawn images, in the output folder."""

SIDE = 480
"""Longer side of each drawn image in pixels."""


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """The errors of a detector at its best threshold, image by image."""

    arrays: EvalArrays
    confusion: Confusion
    per_image: dict[int, dict[str, int]]
    """Image id -> kind of mistake -> number; images without errors are absent."""

    @classmethod
    def of(cls, arrays: EvalArrays) -> ErrorCounts:
        """Count the errors at IoU 0.5 and the score threshold with the best F1."""
        matches = match_detections(arrays)
        best = f1_curves(arrays, matches)[0].best.threshold
        confusion = confusion_matrix(arrays, matches, DEFAULT_THRESHOLD if best is None else best)
        per_image: dict[int, dict[str, int]] = {}
        for kind, ranked in mistakes(arrays, confusion).items():
            for mistake in ranked:
                counts = per_image.setdefault(mistake.image_id, dict.fromkeys(KINDS, 0))
                counts[kind] += 1
        return cls(arrays, confusion, per_image)

    @property
    def totals(self) -> dict[str, int]:
        """Kind of mistake -> number in all images."""
        return {kind: sum(counts[kind] for counts in self.per_image.values()) for kind in KINDS}


def rank_images(errors: Mapping[str, ErrorCounts], files: Mapping[int, str]) -> list[ImageDifference]:
    """List the images on which the numbers of errors differ, those of the largest spread first.

    Args:
        errors: letter of each detector -> its errors.
        files: image id -> name in the data set.
    """
    none: dict[str, int] = dict.fromkeys(KINDS, 0)
    images = [
        ImageDifference(i, file, {letter: dict(each.per_image.get(i, none)) for letter, each in errors.items()})
        for i, file in files.items()
    ]
    differ = [image for image in images if image.spread]
    return sorted(differ, key=lambda image: (-image.spread, image.image_id))


def draw_differences(
    output_dir: Path,
    ranked: Sequence[ImageDifference],
    errors: Mapping[str, ErrorCounts],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None,
    most: int,
) -> list[ImageDifference]:
    """Draw the first `most` images into `differences/`: the ground truth, then the detections of each detector.

    Images of an earlier comparison are removed.

    Returns:
        The ranked images, those that were drawn with their `drawing`.

    Raises:
        DataError: an image cannot be read.
    """
    folder = output_dir / FOLDER
    for old in folder.glob("*.jpg"):
        if re.match(r"\d{2,}-", old.name):
            old.unlink()
    result = []
    for number, image in enumerate(ranked, 1):
        if number <= most and image.image_id in image_paths:
            name = f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', Path(image.file).stem)[:80]}.jpg"
            rgb = as_image(read_image(image_paths[image.image_id], value_range, unknown=ignore_unknown_range))
            save_image(folder / name, _side_by_side(rgb, image, errors))
            image = replace(image, drawing=f"{FOLDER}/{name}")
        result.append(image)
    return result


def _side_by_side(rgb: ImageArray, image: ImageDifference, errors: Mapping[str, ErrorCounts]) -> ImageArray:
    first = next(iter(errors.values())).arrays
    here = first.object_images == np.searchsorted(first.image_ids, image.image_id)
    gt = _detections(first, first.object_boxes, first.object_classes, np.ones(len(here)), here)
    count = f"{len(gt)} object{'' if len(gt) == 1 else 's'}"
    parts = [(f"ground truth: {count}", draw_detections(rgb, gt, side=SIDE, with_scores=False))]
    for letter, each in errors.items():
        arrays = each.arrays
        shown = each.confusion.shown & (arrays.images == np.searchsorted(arrays.image_ids, image.image_id))
        objects = _detections(arrays, arrays.boxes, arrays.classes, arrays.scores, shown)
        parts.append((f"{letter}: {_words(image.errors[letter])}", draw_detections(rgb, objects, side=SIDE)))
    return titled(parts, image.file)


def _words(counts: Mapping[str, int]) -> str:
    """The errors of an image: "2 missed, 1 false alarm"."""
    plural = {"missed": "missed", "wrong class": "wrong classes", "false alarm": "false alarms"}
    words = [f"{count} {kind if count == 1 else plural[kind]}" for kind, count in counts.items() if count]
    return ", ".join(words) or "no error"


def _detections(arrays: EvalArrays, boxes: Floats, classes: Ints, scores: Floats, kept: Bools) -> Detections:
    rows = np.flatnonzero(kept)
    return Detections(
        xyxy=torch.as_tensor(boxes[rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.as_tensor(scores[rows], dtype=torch.float32),
        class_ids=torch.as_tensor(arrays.category_ids[classes[rows]]),
        class_names=tuple(arrays.names[k] for k in classes[rows].tolist()),
    )
