"""Interpret whole annotation files: apply the user's box format, doubt boxes and classes that cannot be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detrkit.data.formats.raw import RawDataset, RawImage
from detrkit.data.validation.box_formats import FORMAT_OF_FORM, chosen_format, rewrite_boxes
from detrkit.data.validation.crowds import crowds_as_objects
from detrkit.data.validation.file_groups import group_by_file
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.data.validation.plausibility import Doubt, doubt_boxes, doubt_classes
from detrkit.errors import DataError

Probed = tuple[list[RawImage], list[ImageInfo]]
"""The images of a split, each once, and the properties of their files."""


def interpret_annotations(raw: RawDataset, probed: dict[str, Probed]) -> list[Doubt]:
    """Convert boxes from the format that the user named, or else doubt boxes that do not fit the data format.

    Also doubts class ids that seem shifted, and turns crowds into objects if a split has nothing else.

    Args:
        raw: the data set; takes findings and notes.
        probed: split -> its images, whose objects are changed, and the properties of their files.

    Raises:
        ConfigError: the box format that the user named does not fit the data.
    """
    doubts: list[Doubt] = []
    for name, (images, infos) in probed.items():
        raw_split = raw.splits[name]
        reading = chosen_format(raw.box_format, raw_split)
        if reading is None and not raw_split.boxes_from_masks:
            parts = [
                (replace(raw_split, source=file), *part)
                for file, part in group_by_file(raw_split, images, infos).items()
            ]
            doubts += [doubt for part in parts if (doubt := doubt_boxes(*part)) is not None]
        elif reading is not None and reading != FORMAT_OF_FORM[raw_split.box_form]:
            rewrite_boxes(raw_split, images, infos, reading)
            note = f"boxes are read as {reading.words} (--box_format {reading.name})"
            raw.notes += [note] if note not in raw.notes else []
        doubts += [doubt for doubt in (doubt_classes(raw_split, images),) if doubt is not None]
        if not raw.is_part:
            crowds_as_objects(raw_split, images, raw.findings)
    for doubt in doubts:
        raw.findings.add(doubt.kind, doubt.source, "", doubt.detail)
    return doubts


def raise_doubt(doubts: Sequence[Doubt]) -> None:
    """Raise the first doubt that is strong enough to reject the data.

    Raises:
        DataError: there is such a doubt.
    """
    for doubt in doubts:
        if doubt.refuse:
            raise DataError(doubt.sentence)
