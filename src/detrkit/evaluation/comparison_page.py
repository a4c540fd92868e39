"""The HTML page of a comparison: differences with their intervals, classes, and the images where detectors differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.evaluation.comparison import ComparisonResult, Difference, ImageDifference
from detrkit.evaluation.image_differences import ErrorCounts
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
    Interval,
    Notes,
    Section,
    Settings,
    Summary,
    Table,
)


def write_comparison_page(
    path: str | Path,
    result: ComparisonResult,
    errors: Mapping[str, ErrorCounts],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None,
    *,
    most: int,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a comparison as one HTML page.

    Args:
        path: file to write.
        result: the comparison.
        errors: letter of each detector -> its errors; empty: there are panoptic maps alone.
        image_paths: the file of each image id.
        value_range: values that become black and white in images of more than 8 bits.
        most: most images to show.
        settings: settings to list; None: none.

    Raises:
        DataError: an image cannot be read.
    """
    sections: list[Section] = [_summary(result), Notes(result.sentences(), "In words"), _models(result)]
    for model in result.models[1:]:
        whole, single = result.of_model(model.letter)
        heads = result.models[0].letter, model.letter
        note = (
            f"95 % intervals of the difference: {result.resamples:,} paired resamples of {result.image_count:,} images."
        )
        sections.append(_differences(f"{model.letter} and {heads[0]}, all classes", whole, heads, note))
        sections.append(_differences(f"{model.letter} and {heads[0]}, class by class", single, heads, note))
    if errors:
        sections.append(_gallery(result.images[:most], errors, image_paths, value_range, len(result.images)))
    sections.append(Settings({name: value for name, value in (settings or {}).items() if value not in ("", None)}))
    title = "Comparison of " + ", ".join(f"{model.letter} {model.source}" for model in result.models)
    return write_page(path, Page(title, sections, f"{result.data}, {result.split}", command_line()))


def _summary(result: ComparisonResult) -> Summary:
    values: dict[str, Cell] = {}
    for name in ("AP", "mask_AP", "PQ"):
        values |= {f"{name.replace('_', ' ')} of {m.letter}": _measured(m.metrics.get(name, -1)) for m in result.models}
    shown = {name: value for name, value in values.items() if value is not None}
    return Summary(shown | {"images": result.image_count})


def _models(result: ComparisonResult) -> Table:
    """The detectors, with their errors and times."""
    kinds = list(next(iter(result.models)).errors)
    columns = [
        Column("detector"),
        Column("source"),
        Column("ms per image", 1),
        Column("score threshold"),
        *map(Column, kinds),
    ]
    rows: list[list[Cell]] = [
        [m.letter, m.source, m.ms_per_image, m.threshold, *(m.errors.get(kind) for kind in kinds)]
        for m in result.models
    ]
    return Table("Detectors", columns, rows, note="Errors at IoU 0.5 and the score threshold with the best F1.")


def _differences(title: str, differences: Sequence[Difference], heads: tuple[str, str], note: str) -> Table:
    rows: list[list[Cell]] = []
    for each in differences:
        change = each.difference
        shown: Cell = change if each.interval is None else Interval(change, *each.interval)
        name = each.metric.replace("_", " ")
        needed = each.images_needed
        reachable = needed if needed and needed <= 100 * each.images else None  # as in the sentences
        values: list[Cell] = [each.baseline_value, each.value, shown, each.outcome, reachable]
        rows.append([name, *([each.class_name] if each.class_id is not None else []), each.images, *values])
    first = [Column("metric"), *([Column("class")] if differences and differences[0].class_id is not None else [])]
    last = [
        Column(heads[0]),
        Column(heads[1]),
        Column("difference"),
        Column("outcome"),
        Column("images that would show it"),
    ]
    return Table(title, [*first, Column("images"), *last], rows, note=note)


def _gallery(
    images: Sequence[ImageDifference],
    errors: Mapping[str, ErrorCounts],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None,
    total: int,
) -> Gallery:
    """The images with the largest difference in the number of errors, one layer of boxes per detector."""
    first = next(iter(errors.values())).arrays
    shown = []
    for image in images:
        if image.image_id not in image_paths:
            continue
        row = int(np.searchsorted(first.image_ids, image.image_id))
        boxes = [
            BoxOverlay(
                first.object_boxes[k].tolist(), first.names[first.object_classes[k]], "ground truth", dashed=True
            )
            for k in np.flatnonzero(first.object_images == row).tolist()
        ]
        for letter, each in errors.items():
            arrays = each.arrays
            for k in np.flatnonzero(each.confusion.shown & (arrays.images == row)).tolist():
                label = f"{letter} {arrays.names[arrays.classes[k]]} {arrays.scores[k]:.2f}"
                boxes.append(BoxOverlay(arrays.boxes[k].tolist(), label, letter))
        read = partial(_read, Path(image_paths[image.image_id]), value_range)
        caption = "Errors: " + ", ".join(f"{letter} {count}" for letter, count in image.totals.items())
        shown.append(GalleryImage(read, caption, boxes, image.file))
    note = "Those with the largest difference in the number of errors first; ground truth is dashed."
    return Gallery("Images with different numbers of errors", shown, total, note, ("ground truth", *errors))


def _read(path: Path, value_range: ValueRange | None) -> ImageArray:
    return as_image(read_image(path, value_range, unknown=ignore_unknown_range))


def _measured(value: float) -> float | None:
    """A metric; None for -1, which stands for nothing to measure."""
    return None if value == -1 else value
