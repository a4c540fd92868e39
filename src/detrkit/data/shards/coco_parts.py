"""Cut a COCO file that is too large for memory into parts of consecutive images with their annotations.

The file is read element by element. What is kept per image and per annotation are a few numbers; the text of the
elements goes to temporary files, one per part, from which each part is read as a small COCO file would be.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detrkit.data.files.json_stream import stream_lists
from detrkit.data.files.split_names import split_of_name, split_of_parts
from detrkit.data.formats.coco import LARGEST_ID, as_id, image_name
from detrkit.data.split_arrays import Ints
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError

PART_BYTES = 1 << 24
"""Bytes of the COCO file per part; a part takes about seven times that in memory."""
_BUFFERED = 1 << 23
"""Characters that wait to be written."""
_NO_ID = -(2**63)

Progress = Callable[[str, int], Callable[[int], object]]


@dataclass
class CocoPart:
    """The records of consecutive images, as a COCO file has them."""

    content: dict[str, Any]
    """`images`, `annotations` and `categories`."""
    image_numbers: list[int]
    """Position of each image in the file."""
    annotation_numbers: list[int]
    """Position of each annotation in the file."""


class CocoParts:
    """A COCO file, cut into parts.

    Args:
        path: the COCO file.
        folder: an empty folder for temporary files, which need as much space as the COCO file.
        findings: takes images that are listed twice.
        progress: called with a title and the number of bytes to read; returns a function that is called with the
            number of those that were read.

    Raises:
        DataError: the file is no COCO json.
    """

    def __init__(
        self, path: Path, folder: Path, findings: Findings, progress: Progress = lambda title, total: lambda done: None
    ) -> None:
        self.path, self.folder, self.findings, self._progress = path, folder, findings, progress
        self.number = -(-path.stat().st_size // PART_BYTES)
        self.categories: list[Any] = []
        self.split_names: set[str] = set()
        """Splits that the images name, by a field or by their folders."""
        self._category_ids: set[int] = set()
        self._keys, self._names = array("q"), array("q")
        self._sorted: tuple[Ints, Ints] | None = None
        self._object_ids, self._all_crowds, self._waiting = array("q"), True, _Waiting(folder)
        if not self._read():
            self._read(only_annotations=True)  # they came before the images
        self._waiting.flush()
        self._new_ids_at = _not_first(np.frombuffer(self._object_ids, np.int64))
        self._first_new_id = max(0, int(np.frombuffer(self._object_ids, np.int64).max(initial=0))) + 1
        if not self.categories:
            self.categories = [{"id": number, "name": str(number)} for number in sorted(self._category_ids)]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._keys)

    def _read(self, *, only_annotations: bool = False) -> bool:
        """Read the file; returns whether the annotations came after all images."""
        in_order = True
        again = " again, since its annotations precede its images" * only_annotations
        advance = self._progress(f"Reading {self.path.name}{again}", self.path.stat().st_size)
        with (self.folder / "images").open("a", encoding="utf-8") as file:
            for key, value, text in stream_lists(self.path, advance):
                if key == "annotations" and not isinstance(value, list):
                    self._find_images()
                    if self._sorted is None:
                        in_order = False
                    else:
                        self._add_annotation(value, text)
                elif key == "images" and not only_annotations:
                    file.write(f"{_one_line(text)}\n")
                    self._add_image(value)
                elif key == "categories" and not only_annotations:
                    self.categories.append(value)
        if not self._keys:
            raise DataError(f"expected images under 'images' in the COCO file {self.path}, found none")
        self._find_images()
        return in_order

    def _add_image(self, row: Any) -> None:
        number = len(self._keys)
        reference = row.get("id") if isinstance(row, dict) else None
        self._keys.append(_key(reference) if reference is not None else _hash(f"\0{number}"))
        name = image_name(row)
        self._names.append(_hash(name or f"\0{number}"))
        listed = split_of_name(str(row.get("split") or "")) if isinstance(row, dict) else ""
        if split := listed or split_of_parts(name.split("/")[:-1]):
            self.split_names.add(split)

    def _find_images(self) -> None:
        """Sort the ids of images, once all are known."""
        if self._sorted is None and self._keys:
            keys = np.frombuffer(self._keys, np.int64)
            order = np.argsort(keys, kind="stable")
            self._sorted = keys[order], order
            self._first_of_name = _first_of(np.frombuffer(self._names, np.int64))

    def _add_annotation(self, row: Any, text: str) -> None:
        position, fields = len(self._object_ids), row if isinstance(row, dict) else {}
        number = as_id(fields.get("id"))
        self._object_ids.append(number if number is not None and 0 < number <= LARGEST_ID else _NO_ID)
        is_crowd = as_id(fields.get("iscrowd")) == 1 or as_id(fields.get("ignore")) == 1
        self._all_crowds &= is_crowd and fields.get("segmentation") not in (None, [])
        if not self.categories and (category := as_id(fields.get("category_id"))) is not None:
            self._category_ids.add(category)
        self._waiting.add(self._part_of(fields.get("image_id")), f"{position}\t{_one_line(text)}\n")

    def _part_of(self, image_id: Any) -> int:
        """The part of an image; 0 if there is no such image, where its annotations are reported."""
        assert self._sorted is not None
        keys, order = self._sorted
        key = _key(image_id)
        at = int(keys.searchsorted(key))
        known = at < len(keys) and keys[at] == key
        return self._part(int(self._first_of_name[order[at]])) if known else 0

    def _part(self, image: int) -> int:
        return image * self.number // len(self._keys)

    def __iter__(self) -> Iterator[CocoPart]:
        """Read the parts, in the order of the images; the temporary files of each are deleted."""
        repeated = self._repeated()
        with (self.folder / "images").open(encoding="utf-8") as file:
            image = 0
            for number in range(self.number):
                part = CocoPart({"images": [], "annotations": [], "categories": self.categories}, [], [])
                while image < self.images and self._part(image) == number:
                    row = json.loads(file.readline())
                    if self._first_of_name[image] == image:
                        for position, each in [(image, row), *repeated.get(image, ())]:
                            part.content["images"].append(each)
                            part.image_numbers.append(position)
                    image += 1
                self._read_annotations(number, part)
                yield part

    def _repeated(self) -> dict[int, list[tuple[int, Any]]]:
        """First image of a name -> position and record of each further one, which belong to the same part."""
        further = set(np.flatnonzero(self._first_of_name != np.arange(self.images)).tolist())
        repeated: dict[int, list[tuple[int, Any]]] = {}
        if further:
            with (self.folder / "images").open(encoding="utf-8") as file:
                for position, line in enumerate(file):
                    if position in further:
                        repeated.setdefault(int(self._first_of_name[position]), []).append((position, json.loads(line)))
        return repeated

    def _read_annotations(self, number: int, part: CocoPart) -> None:
        path = self.folder / f"part{number}"
        if not path.exists():
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                position, _, text = line.partition("\t")
                row = json.loads(text)
                if isinstance(row, dict):
                    self._complete(row, int(position))
                part.content["annotations"].append(row)
                part.annotation_numbers.append(int(position))
        path.unlink()

    def _complete(self, row: dict[str, Any], position: int) -> None:
        """Give an id to an annotation without one, or with one that another has; make objects of crowds if all are."""
        at = int(self._new_ids_at.searchsorted(position)) if len(self._new_ids_at) else 0
        if at < len(self._new_ids_at) and self._new_ids_at[at] == position:
            kind = "annotation_id_absent" if self._object_ids[position] == _NO_ID else "annotation_id_twice"
            self.findings.add(kind, self.path, f"annotations[{position}]", f"id {row.get('id')}")
            row["id"] = self._first_new_id + at
        if self._all_crowds:  # tools mark objects with an RLE so, as CVAT
            row["iscrowd"] = row["ignore"] = 0


class _Waiting:
    """Lines that wait to be appended to the files of their parts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._size = folder, 0
        self._lines: dict[int, list[str]] = {}

    def add(self, part: int, line: str) -> None:
        """Append a line to the file of a part, now or later."""
        self._lines.setdefault(part, []).append(line)
        self._size += len(line)
        if self._size > _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write all lines."""
        for part, lines in self._lines.items():
            with (self._folder / f"part{part}").open("a", encoding="utf-8") as file:
                file.writelines(lines)
        self._lines, self._size = {}, 0


def _one_line(text: str) -> str:
    """JSON text on one line: line breaks stand between its parts alone, never in a string."""
    return text.replace("\r", " ").replace("\n", " ")


def _key(reference: Any) -> int:
    """A number for the id of an image: the integer that it stands for, or a hash of its text."""
    number = as_id(reference)
    return number if number is not None and abs(number) <= LARGEST_ID else _hash(str(reference).strip())


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _first_of(values: npt.NDArray[np.int64]) -> Ints:
    """Position of the first equal value, for each value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _not_first(values: npt.NDArray[np.int64]) -> Ints:
    """Positions of values that occurred before, or are no id, in rising order."""
    return np.flatnonzero((_first_of(values) != np.arange(len(values))) | (values == _NO_ID))
