"""Convert data sets from one format to another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detrkit.config.commands import ConvertDataConfig
from detrkit.config.options import config_from_options
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.registry import format_by_name
from detrkit.data.records import ImageRecord, Split
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError
from detrkit.files import atomic_folder, expect_new_folder

_MANY = 2**31
"""More objects than any image has, so that none is reported for the number of queries."""


@dataclass(frozen=True)
class ConversionResult:
    """A converted data set."""

    path: Path
    """The folder that was written."""
    images: dict[str, int]
    """Split (train, val) -> number of images."""
    objects: int
    """Number of objects that were written."""
    notes: list[str]
    """What was left out and changed, by the check or since the format does not hold it, one sentence each."""
    report: CheckReport
    """The check of the original data set: what of it could not be used, and why."""


def convert_data(
    data: str | os.PathLike[str], output: str | os.PathLike[str], to: str, **options: Any
) -> ConversionResult:
    """Write a data set of any format that detrkit reads as COCO, Pascal VOC or YOLO.

        result = detrkit.convert_data("DATA", "as-yolo", "yolo")
        print(*result.notes, sep="\\n")

    Images become hard links where the file system allows it, else copies. Boxes, masks, classes and their order, splits
    and crowds are kept where the format can hold them; `notes` lists the rest.

    Args:
        data: folder or file of the data set.
        output: folder to write; it must be new or empty, and appears only when it is complete.
        to: coco, voc or yolo.
        options: further settings of `detrkit convert_data`, under the names of its flags (`ConvertDataConfig`).

    Raises:
        ConfigError: there is no such option or format, or the output has content or lies inside the data set.
        DataError: the data set cannot be read.
    """
    options = {"quiet": True, **options, "to": to}
    return write_dataset(
        config_from_options(ConvertDataConfig, data=os.fspath(data), output=os.fspath(output), **options)
    )


def write_dataset(
    config: ConvertDataConfig, progress: Callable[[int], Callable[[], object]] = lambda total: lambda: None
) -> ConversionResult:
    """Check a data set and write it in another format; see `convert_data`.

    Args:
        config: the settings of `detrkit convert_data`.
        progress: called with the number of images; returns a function that is called once per written image.
    """
    output = Path(config.output)
    expect_new_folder(output)
    _expect_outside(output, Path(config.data))
    raw = open_dataset(**config.dataset_kwargs(), val_fraction=0)
    report = check_dataset(raw, num_queries=_MANY, value_range=None)
    splits = {name: _without_stuff(split) for name, split in report.splits.items()}
    kind = format_by_name(config.to).writer
    assert kind is not None
    categories = next(iter(splits.values())).categories
    masks = any(split.has_masks for split in splits.values())
    advance = progress(sum(len(split) for split in splits.values()))
    with atomic_folder(output) as folder:
        writer = kind(folder, categories, masks=masks, tolerance=config.polygon_tolerance)
        for name, split in splits.items():
            for image in split.images:
                writer.add(image, name)
                advance()
        writer.close()
    notes = [*report.notes, *_left_out(report), *_notes(report, splits), *writer.notes]
    return ConversionResult(output, dict(writer.images), writer.objects, notes, report)


def _expect_outside(output: Path, data: Path) -> None:
    """Refuse to write into the data set, where the copies would be read as a part of it.

    Raises:
        ConfigError: the output lies inside the data set.
    """
    root = data if data.is_dir() else data.parent
    if data.is_dir() and output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"expected a folder outside of the data set {data} to write to, found {output}; name another")


def _without_stuff(split: Split) -> Split:
    """A split of panoptic data with its things alone, as objects of an instance format; other splits are unchanged."""
    if not split.categories.isthing:
        return split
    things = split.categories.thing_ids
    images: list[ImageRecord] = [
        replace(image, objects=[obj for obj in image.objects if obj.category_id in things]) for image in split.images
    ]
    rows = [row for row in split.categories.to_plain() if row["id"] in things]
    return replace(split, images=images, categories=type(split.categories).from_plain(rows))


def _left_out(report: CheckReport) -> list[str]:
    """One sentence on the files and records that the check left out, if any."""
    counts = report.counts()
    kinds = [kind for kind in counts if ACTIONS[kind].outcome in ("dropped", "unused")]
    return (
        [f"left out by the check (see detrkit check): {', '.join(f'{counts[k]} {k}' for k in kinds)}"] if kinds else []
    )


def _notes(report: CheckReport, splits: dict[str, Split]) -> list[str]:
    """Notes on the original data set, as far as they concern the copy."""
    notes = []
    stuff = sum(
        len(image.objects) - len(kept.objects)
        for name, split in splits.items()
        for image, kept in zip(report.splits[name].images, split.images, strict=True)
    )
    if stuff:
        notes.append(f"segments of stuff, which no format of instances has and which are left out: {stuff}")
    turned = report.counts().get("image_rotated", 0)
    if turned:
        notes.append(
            "images with an EXIF rotation, which are copied with it; boxes and masks refer to the rotated image, as "
            f"programs show it: {turned}"
        )
    return notes
