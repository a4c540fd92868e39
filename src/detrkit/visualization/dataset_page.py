"""The HTML page of `detrkit check`: statistics, findings, and images with their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.data.records import ImageRecord, Split
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.tables import statistics_rows
from detrkit.data.validation.validate import CheckReport
from detrkit.ops.value_range import ValueRange
from detrkit.visualization.canvas import ImageArray, as_image, color_of
from detrkit.visualization.html_report.page import Page, write_page
from detrkit.visualization.html_report.sections import (
    BoxOverlay,
    Cell,
    Chart,
    Charts,
    Column,
    Curve,
    Gallery,
    GalleryImage,
    Notes,
    Section,
    Settings,
    Summary,
    Table,
)

IMAGES = 16
"""Images per split in the gallery."""

FINDINGS = 1000
"""Most findings to list."""


def write_dataset_page(
    path: str | Path, report: CheckReport, *, command: str = "", settings: Mapping[str, Any] | None = None
) -> Path:
    """Write what `detrkit check` found as one HTML page.

    Args:
        path: file to write.
        report: the checked data set.
        command: command to show; empty: none.
        settings: settings to list; None: none.

    Raises:
        DataError: an image can no longer be read.
    """
    notes = [
        *([f"Training and evaluation reject this data: {report.refused}"] if report.refused else []),
        *report.notes,
    ]
    sections: list[Section] = [
        _summary(report),
        Notes([f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in notes]),
        _kinds(report),
        _class_table(report.statistics),
        _statistics(report.statistics),
        _distributions(list(report.splits.values())),
        _gallery(list(report.splits.values())),
        _findings(report),
        Settings({name: value for name, value in (settings or {}).items() if value not in ("", None)}),
    ]
    title = f"Data set {Path(report.source).name or report.source}"
    return write_page(path, Page(title, sections, f"{report.source}, format {report.format.upper()}", command))


def _summary(report: CheckReport) -> Summary:
    values: dict[str, Cell] = {}
    for name, numbers in report.statistics.items():
        values |= {f"images in {name}": numbers["images"], f"objects in {name}": numbers["objects"]}
    outcomes = [ACTIONS[finding.kind].outcome for finding in report.findings]
    classes = next(iter(report.splits.values())).categories
    values |= {"classes": len(classes)}
    return Summary(values | {f"findings, {name}": outcomes.count(name) for name in dict.fromkeys(sorted(outcomes))})


def _kinds(report: CheckReport) -> Table:
    lost = dict.fromkeys(report.counts(), 0)
    for finding in report.findings:
        lost[finding.kind] += finding.dropped_objects
    rows: list[list[Cell]] = [
        [ACTIONS[kind].defect, count, lost[kind], ACTIONS[kind].outcome, ACTIONS[kind].remedy]
        for kind, count in report.counts().items()
    ]
    columns = [Column(name) for name in ("defect", "number", "objects left out", "outcome", "action")]
    return Table("Kinds of findings", columns, rows)


def _findings(report: CheckReport) -> Table:
    rows: list[list[Cell]] = [
        [ACTIONS[f.kind].defect, f.file, f.record, f.detail, f.action] for f in report.findings[:FINDINGS]
    ]
    columns = [Column(name) for name in ("defect", "file", "record", "detail", "outcome")]
    note = "The option --json writes all of them." if len(report.findings) > FINDINGS else ""
    return Table("All findings", columns, rows, total=len(report.findings), note=note)


def _class_table(statistics: Mapping[str, Any]) -> Table:
    """Objects of each class, and images with it, in each split; the most frequent class first."""
    names = next(iter(statistics.values()))["objects_per_class"]
    columns = [Column("class")]
    for split in statistics:
        columns += [Column(f"objects in {split}", bar=True), Column(f"images in {split}")]
    rows: list[list[Cell]] = [
        [name, *(s[key][name] for s in statistics.values() for key in ("objects_per_class", "images_per_class"))]
        for name in names
    ]
    rows.sort(key=lambda row: -sum(value for value in row[1::2] if isinstance(value, int)))
    return Table("Class by class", columns, rows)


def _statistics(statistics: Mapping[str, Any]) -> Table:
    columns = [Column("statistic"), *(Column(name, align_right=True) for name in statistics)]
    return Table("Sizes", columns, statistics_rows(statistics), note="Three values: 5th, 50th and 95th percentile.")


def _distributions(splits: Sequence[Split]) -> Charts:
    """Shares of the objects up to each size, and of the images up to each number of objects."""
    boxes = {split.name: _boxes(split) for split in splits}
    sides = {name: np.sqrt(box[:, 0] * box[:, 1]) for name, box in boxes.items()}
    shares = {
        name: side / np.sqrt(box[:, 2] * box[:, 3])
        for (name, box), side in zip(boxes.items(), sides.values(), strict=True)
    }
    counts = {
        split.name: np.array([sum(not obj.crowd for obj in image.objects) for image in split.images], dtype=np.float64)
        for split in splits
    }
    charts = [
        _cumulative("Share of the objects up to a side", sides, "square root of width x height in px"),
        _cumulative("Share of the objects up to a relative side", shares, "side of the object / side of the image"),
        _cumulative("Share of the images up to a number of objects", counts, "objects per image"),
    ]
    return Charts("Distributions", charts)


def _boxes(split: Split) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[n, 4]: width and height of each object that is no crowd, and of its image."""
    rows = [
        (obj.box[2] - obj.box[0], obj.box[3] - obj.box[1], image.width, image.height)
        for image in split.images
        for obj in image.objects
        if not obj.crowd
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _cumulative(title: str, values: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]], x_label: str) -> Chart:
    """Cumulative distribution of each split on common points, up to a value that few exceed."""
    present = {name: np.sort(array) for name, array in values.items() if len(array)}
    top = max((float(np.percentile(array, 99.5)) for array in present.values()), default=1.0)
    whole = all(np.all(array == np.round(array)) for array in present.values())
    grid = np.arange(0, top + 1, max(1, round(top / 200))) if whole else np.linspace(0, top, 201)
    curves = [
        Curve(name, grid.tolist(), (np.searchsorted(array, grid, side="right") / len(array)).tolist())
        for name, array in present.items()
    ]
    return Chart(title, curves, x_label, (0, 1))


def _gallery(splits: Sequence[Split]) -> Gallery:
    images = []
    for split in splits:
        chosen = choose_images(split, IMAGES)
        images += [_gallery_image(image, split, split.value_range) for image in chosen]
    total = sum(len(split.images) for split in splits)
    return Gallery("Images", images, total=total, note="Images of rare classes first. Crowds are dashed.")


def choose_images(split: Split, most: int) -> list[ImageRecord]:
    """Choose an image of each class, the rarest class first; further images are spread evenly over the split."""
    images_of: dict[int, list[int]] = {}
    for k, image in enumerate(split.images):
        for category_id in {obj.category_id for obj in image.objects}:
            images_of.setdefault(category_id, []).append(k)
    chosen: dict[int, None] = {}
    for category_id in sorted(images_of, key=lambda c: (len(images_of[c]), c)):
        if not any(k in chosen for k in images_of[category_id]):
            chosen[images_of[category_id][0]] = None
    spread = np.linspace(0, len(split.images) - 1, min(most, len(split.images)), dtype=int).tolist()
    chosen |= dict.fromkeys(spread)
    return [split.images[k] for k in list(chosen)[:most]]


def _gallery_image(image: ImageRecord, split: Split, value_range: ValueRange | None) -> GalleryImage:
    name_of = dict(zip(split.categories.ids, split.categories.names, strict=True))
    layered = len(name_of) < 6  # one layer per class, and one for crowds
    boxes = [
        BoxOverlay(
            obj.box,
            name_of[obj.category_id],
            "crowds" if obj.crowd else name_of[obj.category_id] if layered else "objects",
            color_of(obj.category_id),
            dashed=obj.crowd,
        )
        for obj in image.objects
    ]
    count = len(image.objects)
    caption = f"{count} object{'' if count == 1 else 's'}, {image.width} x {image.height} px"
    return GalleryImage(partial(_read, image.path, value_range), caption, boxes, image.file_name, group=split.name)


def _read(path: Path, value_range: ValueRange | None) -> ImageArray:
    return as_image(read_image(path, value_range, unknown=ignore_unknown_range))
