"""What the readers hand to the check: exactly what the files say, right or wrong."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detrkit.data.validation.findings import Findings
from detrkit.structures import Categories

BoxForm = Literal["xywh", "xyxy", "relative"]
"""xywh: x, y, w, h in pixels (COCO). xyxy: corners in pixels (VOC). relative: cx, cy, w, h in 0..1 (YOLO)."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".mpo"),
    *(".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".sgi", ".ras", ".qoi"),
)
"""Endings, in lower case, of the image files that the decoders read: what the finders of images look for."""
OTHER_IMAGE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".dcm", ".nii", ".svs", ".ndpi", ".czi"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Endings of image files that cannot be read here: named with their number, never passed over in silence."""


@dataclass(slots=True)
class RawObject:
    """An object as the file has it; nothing is known to be right."""

    id: Any
    category: Any
    """The file's category id."""
    box: Any
    area: Any
    crowd: bool
    segmentation: Any
    where: str
    rotation: float = 0.0
    """Degrees by which the box is to be turned clockwise about its centre, as some tools write rotated rectangles."""


@dataclass(slots=True)
class RawImage:
    """An image as the file lists it."""

    id: Any
    path: Path
    file_name: str
    height: Any
    width: Any
    """None where the format has no sizes."""
    objects: list[RawObject]
    file: str
    """The annotation file of this image, for messages."""
    where: str = ""
    panoptic: Path | None = None
    """The COCO panoptic PNG of this image."""
    split_name: str = ""
    """The split that the record itself names (`split` of COCO images): train, val, test or nothing."""
    text_id: str = ""
    """The id as the file has it, where that is no integer of 64 bits and another one takes its place."""
    unread: int = 0
    """How many records of objects on it could not be read at all."""


@dataclass
class RawSplit:
    """One side of a data set as read."""

    name: str
    images: list[RawImage]
    categories: Categories
    box_form: BoxForm
    source: str
    has_ids_and_areas: bool = False
    """Whether the files give an id and an area to each object, so that missing ones are findings."""
    masks_in_files: bool = False
    """Whether masks lie in files beside the images, whose size tells how they lie."""
    boxes_from_masks: bool = False
    """Whether boxes are made from masks here, so that no file writes any."""


@dataclass
class RawDataset:
    """A data set as read, with what was noticed on the way."""

    format: str
    source: str
    splits: dict[str, RawSplit]
    """`train` and `val`; either may be absent."""
    findings: Findings
    notes: list[str] = field(default_factory=list)
    """What was chosen where there was a choice, each a sentence to print."""
    strict: bool = False
    """Refuse it where anything of it is left out."""
    val_fraction: float = 0.0
    """Share of the usable images, 0..1, that the check holds out where there is no `val`."""
    seed: int = 42
    """Of that choice."""
    held_out: Collection[str] = ()
    """File names of the images that a run held out, where they are known: these are taken instead."""
    box_format: str = "auto"
    """How boxes are written, where the user says it: a name of `box_formats.FORMATS`."""
    made_split: dict[str, Any] | None = None
    """Where the check held a validation split out: the seed, the fraction, and the file names of both splits."""
