"""Raw records: the content of annotation files, unchecked, as the loaders of all formats return it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detrkit.data.records import ImageRecord, Split
from detrkit.data.validation.findings import Findings
from detrkit.structures import Categories

BoxForm = Literal["xywh", "xyxy", "relative"]
"""xywh: x, y, w, h in pixels (COCO). xyxy: corners in pixels (VOC). relative: cx, cy, w, h in 0..1 (YOLO)."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".mpo"),
    *(".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".sgi", ".ras", ".qoi"),
)
"""Endings, in lower case, of the image files that can be decoded."""
OTHER_IMAGE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".dcm", ".nii", ".svs", ".ndpi", ".czi"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Endings of image files that cannot be decoded; such files are reported."""


@dataclass(slots=True)
class RawObject:
    """One annotation as the file has it; any value may be wrong."""

    id: Any
    category: Any
    """The category id of the file."""
    box: Any
    area: Any
    crowd: bool
    segmentation: Any
    where: str
    rotation: float = 0.0
    """Clockwise rotation of the box about its center, in degrees."""


@dataclass(slots=True)
class RawImage:
    """One image as the annotation file lists it."""

    id: Any
    path: Path
    file_name: str
    height: Any
    width: Any
    """None if the format has no sizes."""
    objects: list[RawObject]
    file: str
    """The annotation file, for messages."""
    where: str = ""
    panoptic: Path | None = None
    """The COCO panoptic PNG of this image."""
    split_name: str = ""
    """The split that the record itself names (`split` of COCO images): train, val, test or empty."""
    text_id: str = ""
    """The id as written, if it is no 64-bit integer and was replaced by one."""
    unread: int = 0
    """Number of object records that could not be read at all."""


@dataclass
class RawSplit:
    """One split of a data set as loaded, unchecked."""

    name: str
    images: list[RawImage]
    categories: Categories
    box_form: BoxForm
    source: str
    has_ids_and_areas: bool = False
    """Whether the files give an id and an area to each object, so that missing ones are findings."""
    masks_in_files: bool = False
    """Whether masks lie in files of their own, whose size shows the orientation."""
    boxes_from_masks: bool = False
    """Whether boxes were computed from masks by the loader, so that no file contains boxes."""
    checked: Split | None = None
    """The records of packed data, which were checked when they were packed; `images` is then empty."""
    parts: tuple[Split, ...] = ()
    """The splits of packed data that were made one, which is `checked`, a list of records."""

    def __len__(self) -> int:
        return len(self.listed)

    @property
    def listed(self) -> Sequence[RawImage | ImageRecord]:
        """The images, as they were read or as they were packed."""
        return self.images if self.checked is None else self.checked.images


@dataclass
class RawDataset:
    """A data set as loaded, unchecked, with findings and notes."""

    format: str
    source: str
    splits: dict[str, RawSplit]
    """`train` and `val`; either may be absent."""
    findings: Findings
    notes: list[str] = field(default_factory=list)
    """Decisions of the loader, one sentence each, to be printed."""
    strict: bool = False
    """Refuse the data set if anything of it is left out (`--strict`)."""
    val_fraction: float = 0.0
    """Share of the usable images, 0..1, that the check holds out if there is no `val`."""
    seed: int = 42
    """Seed of the held-out split."""
    held_out: Collection[str] = ()
    """File names of the images to hold out instead of a random share: those that a training run held out."""
    pooled: bool = False
    """Whether train and val are one split, `train`, of which the images of a fold are held out."""
    box_format: str = "auto"
    """Box format that the user named, a name of `box_formats.BOX_FORMATS`; auto: that of the data format."""
    is_part: bool = False
    """Whether the records are a part of a large file, so that nothing is decided of the whole."""
    held_out_split: dict[str, Any] | None = None
    """The split that the check held out, if any: seed, fraction, and the file names of both splits."""

    @property
    def is_packed(self) -> bool:
        """Whether the records were checked when they were packed."""
        return any(split.checked is not None for split in self.splits.values())
