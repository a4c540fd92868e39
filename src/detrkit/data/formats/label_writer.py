"""The base class of all writers of labels: names, images, and notes on content that a format cannot hold.

A writer takes one image at a time, so that memory stays flat. `coco_writer`, `voc_writer` and `yolo_writer` write data
sets that training reads; `labelme_writer`, `cvat_writer` and `label_studio_writer` write files that labeling tools
import.
"""

from __future__ import annotations

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from detrkit.data.decode.mask_files import MaskFiles
from detrkit.data.files.pairing import layout_key
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.data.shards.packed_index import is_member, open_file, read_file
from detrkit.errors import DISK_FULL, DataError
from detrkit.files import save_image
from detrkit.structures import Categories

Plain = dict[str, Any]
"""JSON-like data."""
_NOT_PORTABLE = re.compile(r'[\x00-\x1f\x7f-\x9f"*:<>?|\\\ud800-\udfff]')
"""Characters that no file name has on some system, or that are no text."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML does not allow."""
_SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "PPM": ".ppm"}
"""Format of Pillow -> usual ending, where that is not the name of the format."""


class LabelWriter(ABC):
    """Writes images, as hard links or copies, and their objects in one format.

        writer = YoloWriter(folder, split.categories, masks=split.has_masks)
        for image in split.images:
            writer.add(image, split.name)
        writer.close()

    Args:
        folder: an empty folder.
        categories: classes of the objects.
        masks: whether objects have masks, which the format then has to hold.
        tolerance: largest distance in pixels of polygons from the masks that they are made of; 0: exact. Masks that
            are polygons already stay as they are.
    """

    title: ClassVar[str]
    """Name of the format in messages."""
    losses: ClassVar[dict[str, str]] = {}
    """Kind of content that the format cannot hold -> sentence on it, which ends before the number of cases."""
    flat: ClassVar[bool] = False
    """Whether images of all splits lie in one folder without subfolders, which become a part of their names."""

    def __init__(self, folder: Path, categories: Categories, *, masks: bool, tolerance: float = 0.0) -> None:
        self.folder, self.categories, self.masks, self.tolerance = folder, categories, masks, tolerance
        self.index_of_id = categories.index_of_id
        self.images: Counter[str] = Counter()
        """Split -> number of images."""
        self.objects = 0
        """Number of objects that were written."""
        self._lost: Counter[str] = Counter()
        self._taken: set[tuple[str, ...]] = set()
        self._renamed: list[tuple[str, str]] = []
        self._copied = 0

    @abstractmethod
    def image_path(self, name: str, split: str) -> str:
        """Path of an image below the folder.

        Args:
            name: its unique name, relative, with forward slashes.
            split: `train` or `val`.
        """

    @abstractmethod
    def write(self, image: ImageRecord, name: str, split: str, scores: Sequence[float]) -> None:
        """Write the objects of an image whose file is in place.

        Args:
            image: the image with its objects.
            name: see `image_path`.
            split: `train` or `val`.
            scores: score of each object, 0..1; empty for ground truth.
        """

    @abstractmethod
    def close(self) -> None:
        """Write the files that all images share, such as the names of the classes."""

    def add(
        self,
        image: ImageRecord,
        split: str,
        scores: Sequence[float] = (),
        pixels: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Write an image and its objects.

        Args:
            image: the image with its objects; boxes and masks refer to the upright image.
            split: `train` or `val`.
            scores: score of each object, 0..1; empty for ground truth.
            pixels: uint8 RGB [H, W, 3] of an image that is no file, as a frame of a video; it is written as JPEG.

        Raises:
            DataError: the image file, or a mask file, can no longer be read.
        """
        name = self._unique(image, split, ".jpg" if pixels is not None else "")
        target = self.folder / self.image_path(name, split)
        if pixels is not None:
            save_image(target, pixels)
        else:
            self._place(image.path, target)
        self.images[split] += 1
        self.write(image, name, split, scores)

    def lose(self, kind: str, count: int = 1) -> None:
        """Count content that the format cannot hold.

        Args:
            kind: a key of `losses`.
            count: number of cases.
        """
        self._lost[kind] += count

    def lose_ids(self) -> None:
        """Count category ids that are not the class indices 0, 1, ..., which formats without ids restore."""
        if self.categories.ids != tuple(range(len(self.categories))):
            self.lose("ids", len(self.categories))

    def files_of(self, image: ImageRecord) -> MaskFiles:
        """A reader of the mask files of an image, which has its size."""
        return MaskFiles(image.height, image.width)

    def class_name(self, obj: ObjectRecord) -> str:
        """The name of an object's class."""
        return self.categories.names[self.index_of_id[obj.category_id]]

    @property
    def notes(self) -> list[str]:
        """What the format does not hold and what was changed, one sentence each."""
        notes = [f"{self.losses[kind]}: {count}" for kind, count in self._lost.items()]
        if self._renamed:
            old, new = self._renamed[0]
            notes.append(f"images that got another name, as {new} for {old}: {len(self._renamed)}")
        if self._copied:
            notes.append(f"images that were copied, since a hard link was not possible: {self._copied}")
        return notes

    def _unique(self, image: ImageRecord, split: str, suffix: str) -> str:
        """A name that no other image of the folder has, also without its ending and on systems that ignore case."""
        wish = portable_name(image.file_name, suffix or _suffix_of(image.path))
        wish = wish.replace("/", "_") if self.flat else wish
        stem, ending = os.path.splitext(wish)  # noqa: PTH122 - a name, not a path
        name, number = wish, 1
        while (key := ("" if self.flat else split, *layout_key(PurePosixPath(name).parts))) in self._taken:
            number += 1
            name = f"{stem}_{number}{ending}"
        self._taken.add(key)
        if name != wish or PurePosixPath(wish).name != PurePosixPath(image.file_name).with_suffix(ending).name:
            self._renamed.append((image.file_name, name))
        return name

    def _place(self, source: Path, target: Path) -> None:
        """Link or copy an image file, or write one of packed data."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_member(source):
            target.write_bytes(read_file(source))
            return
        try:
            source = source.resolve(strict=True)  # a link to a link would be a link
            try:
                os.link(source, target)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(source, target)
                self._copied += 1
        except OSError as error:
            if error.errno in DISK_FULL:
                raise OSError(error.errno, error.strerror, str(target)) from None
            raise DataError(f"cannot copy the image {source}: {error.strerror or error}") from None


def portable_name(file_name: str, suffix: str) -> str:
    """The name of an image, fit for any system and for pairing with a label file.

    Folders that say nothing (`images`, `labels`) are left out, as are dots and blanks at the ends of names; characters
    that some systems do not allow become `_`.

    Args:
        file_name: relative name, with forward slashes.
        suffix: ending of the file, with its dot.
    """
    parts = PurePosixPath(file_name).parts
    *folders, stem = layout_key(parts, fold=False) if parts else ("image",)
    while os.path.splitext(stem)[1].lower() in (*IMAGE_SUFFIXES, ".xml", ".txt", ".json"):  # noqa: PTH122
        stem = "_".join(stem.rsplit(".", 1))  # a list that names `a.png` for `a.png.jpg` would be misread
    clean = [_NOT_PORTABLE.sub("_", part).strip(" .") or "_" for part in (*folders, stem)]
    return "/".join(clean) + suffix


def _suffix_of(path: Path) -> str:
    """The ending of an image file, by its content if its name has none."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(path) as file, Image.open(file) as image:
            kind = image.format or "PNG"
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return ".png"
    return _SUFFIX_OF.get(kind, f".{kind.lower()}")


def plain_number(value: float, digits: int = 6) -> str:
    """A number without needless decimals: `3` for 3.0."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def xml_text(text: str) -> str:
    """The text with `_` for characters that XML does not allow."""
    return _NOT_XML.sub("_", text)
