"""The HTML page of a review: suspects by reason and class, and each with its surroundings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.evaluation.arrays import Floats
from detrkit.evaluation.error_gallery import ERROR_COLOR, LEAST_SIDE
from detrkit.evaluation.label_errors import REASONS, SuspectRow
from detrkit.evaluation.review_source import ReviewData
from detrkit.ops.text import command_line
from detrkit.ops.value_range import ValueRange
from detrkit.visualization.canvas import ImageArray, as_image
from detrkit.visualization.html_report.page import Page, write_page
from detrkit.visualization.html_report.sections import (
    BoxOverlay,
    Cell,
    Column,
    Gallery,
    GalleryImage,
    Notes,
    Section,
    Settings,
    Summary,
    Table,
)

if TYPE_CHECKING:
    from detrkit.evaluation.review_labels import LabelSuspect

LEAST_SCORE = 0.3
"""Lowest score of other detections that are drawn around a suspect."""


def write_review_page(
    path: Path,
    data: ReviewData,
    rows: Sequence[SuspectRow],
    suspects: Sequence[LabelSuspect],
    notes: Sequence[str],
    settings: Mapping[str, Any],
    *,
    most: int,
) -> Path:
    """Write the page.

    Args:
        path: file to write.
        data: labels and detections.
        rows: the suspects as rows of the arrays.
        suspects: the same with names.
        notes: further sentences.
        settings: settings to list.
        most: number of suspects to show with their image.

    Raises:
        DataError: an image cannot be read.
    """
    counts = Counter(suspect.reason for suspect in suspects)
    numbers = {"labels": int((~data.arrays.crowd).sum()), "images": len(data.images), "suspects": len(suspects)}
    sections: list[Section] = [
        Summary({**numbers, **{reason: counts[reason] for reason in REASONS if counts[reason]}}),
        Notes([*_notes(data), *notes], "How to read this"),
        _gallery(data, rows, suspects, most),
        _suspect_table(suspects),
        _class_table(data, suspects),
        Settings({name: value for name, value in settings.items() if value not in ("", None)}),
    ]
    return write_page(path, Page("Labels to look at", sections, data.source, command_line()))


def _notes(data: ReviewData) -> list[str]:
    by = (
        f"Each image was reviewed by the one of {data.folds} models (folds) that has not seen it."
        if data.folds
        else "All images were reviewed by one model. On images that it was trained on, it repeats wrong labels, so few "
        "are found there; folds find more."
    )
    meanings = "; ".join(f"{reason}: {meaning}" for reason, meaning in REASONS.items())
    return [by, f"The most suspicious come first. Reasons are {meanings}. A suspect is no proof: look at the image."]


def _suspect_table(suspects: Sequence[LabelSuspect]) -> Table:
    rows: list[list[Cell]] = [
        [s.rank, s.reason, s.score, s.split, s.file_name, s.label_id, s.label, s.detected, s.detected_score]
        for s in suspects
    ]
    names = ("rank", "reason", "score", "split", "file", "label id", "label", "detected", "score of detection")
    return Table("Suspects", [Column(name) for name in names], rows, note="The same list is in suspects.csv.")


def _class_table(data: ReviewData, suspects: Sequence[LabelSuspect]) -> Table:
    """Number of suspects by class and reason."""
    counts = Counter((suspect.label or suspect.detected, suspect.reason) for suspect in suspects)
    objects = data.arrays.objects_per_class().tolist()
    rows: list[list[Cell]] = [
        [name, number, *(counts[name, reason] for reason in REASONS)]
        for name, number in zip(data.arrays.names, objects, strict=True)
    ]
    return Table("Class by class", [Column("class"), Column("labels"), *map(Column, REASONS)], rows)


def _gallery(data: ReviewData, rows: Sequence[SuspectRow], suspects: Sequence[LabelSuspect], most: int) -> Gallery:
    """The first suspects, each with its surroundings."""
    images = [_image(data, row, suspect) for row, suspect in zip(rows[:most], suspects, strict=False)]
    note = "Labels are dashed, detections are solid; the suspect itself is red."
    return Gallery("Suspects with their images", images, len(suspects), note, ("labeled", "detected"))


def _image(data: ReviewData, row: SuspectRow, suspect: LabelSuspect) -> GalleryImage:
    arrays = data.arrays
    position = int(arrays.object_images[row.object] if row.object >= 0 else arrays.images[row.detection])
    boxes = []
    for k in np.flatnonzero(arrays.object_images == position).tolist():
        color = ERROR_COLOR if k == row.object else None
        name = arrays.names[arrays.object_classes[k]]
        boxes.append(BoxOverlay(arrays.object_boxes[k].tolist(), name, "labeled", color, dashed=True))
    near = (arrays.images == position) & (arrays.scores >= LEAST_SCORE)
    if row.detection >= 0:
        near[row.detection] = True
    for k in np.flatnonzero(near).tolist():
        color = ERROR_COLOR if k == row.detection else None
        label = f"{arrays.names[arrays.classes[k]]} {arrays.scores[k]:.2f}"
        boxes.append(BoxOverlay(arrays.boxes[k].tolist(), label, "detected", color))
    boxes.sort(key=lambda box: box.color is not None)  # the suspect above the others
    read = partial(_read, data.images[position].path, next(iter(data.check.splits.values())).value_range)
    name = f"{suspect.file_name}" + (f", label {suspect.label_id}" if suspect.label_id is not None else "")
    return GalleryImage(read, _words(suspect), boxes, name, _window(arrays, row), group=suspect.reason)


def _words(suspect: LabelSuspect) -> str:
    """The suspect in a few words."""
    seen = "" if suspect.detected_score is None else f"{suspect.detected}, score {suspect.detected_score:.2f}"
    words = {
        "no label": f"no label: {seen}",
        "no object": f"label without an object? {suspect.label}",
        "wrong class": f"labeled {suspect.label}, detected {seen}",
        "wrong box": f"box of {suspect.label} fits badly; detected {seen}",
        "repeated label": f"{suspect.label} labeled twice",
    }
    return f"{suspect.rank}. {words[suspect.reason]}"


def _window(arrays: Any, row: SuspectRow) -> tuple[int, int, int, int]:
    """The corners of a window around label and detection, with their surroundings."""
    boxes: list[Floats] = [arrays.object_boxes[row.object]] if row.object >= 0 else []
    boxes += [arrays.boxes[row.detection]] if row.detection >= 0 else []
    x1, y1 = np.min(boxes, axis=0)[:2].tolist()
    x2, y2 = np.max(boxes, axis=0)[2:].tolist()
    high = max(2.5 * (y2 - y1), 2 * (x2 - x1), LEAST_SIDE)
    left, top = (x1 + x2 - high * 4 / 3) / 2, (y1 + y2 - high) / 2
    return round(left), round(top), round(left + high * 4 / 3), round(top + high)


def _read(path: Path, value_range: ValueRange | None) -> ImageArray:
    return as_image(read_image(path, value_range, unknown=ignore_unknown_range))
