"""Read a whole file as it is meant: boxes, classes and crowds, by what the user says or what all of it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detrkit.data.formats.raw import RawDataset, RawImage
from detrkit.data.validation.box_formats import OWN, chosen_format, rewrite_boxes
from detrkit.data.validation.by_file import by_file
from detrkit.data.validation.crowds import crowds_as_objects
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.data.validation.plausibility import Doubt, doubt_boxes, doubt_classes
from detrkit.errors import DataError

Looked = tuple[list[RawImage], list[ImageInfo]]
"""The images of a split, each once, and what a look at their files told."""


def read_as_meant(raw: RawDataset, looked: dict[str, Looked]) -> list[Doubt]:
    """Rewrite boxes as the user says, else doubt those that do not look as the format has them; doubt classes, and
    take crowds as objects where there is nothing else.

    Args:
        raw: the data set; takes findings and notes.
        looked: its images by split, whose objects are changed, and the facts of their files.

    Raises:
        ConfigError: the box format that the user named does not fit the data.
    """
    doubts: list[Doubt] = []
    for name, (images, facts) in looked.items():
        side = raw.splits[name]
        read = chosen_format(raw.box_format, side)
        if read is None and not side.boxes_from_masks:
            parts = [(replace(side, source=file), *part) for file, part in by_file(side, images, facts).items()]
            doubts += [doubt for part in parts if (doubt := doubt_boxes(*part)) is not None]
        elif read is not None and read != OWN[side.box_form]:
            rewrite_boxes(side, images, facts, read)
            note = f"boxes are read as {read.words} (--box_format {read.name})"
            raw.notes += [note] if note not in raw.notes else []
        doubts += [doubt for doubt in (doubt_classes(side, images),) if doubt is not None]
        crowds_as_objects(side, images, raw.findings)
    for doubt in doubts:
        raw.findings.add(doubt.kind, doubt.source, "", doubt.detail)
    return doubts


def refuse(doubts: Sequence[Doubt]) -> None:
    """Raise the first doubt that nearly everything in a file shows.

    Raises:
        DataError: there is one.
    """
    for doubt in doubts:
        if doubt.refuse:
            raise DataError(doubt.sentence)
