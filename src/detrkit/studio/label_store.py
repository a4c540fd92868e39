"""The labels of the studio: COCO files beside the data set, and a journal of all saves before them.

    FOLDER/studio_labels/journal.jsonl           one line per save; a save is confirmed once its line is on the disk
    FOLDER/studio_labels/instances_train.json    COCO, written from the source and the journal after saves
    FOLDER/studio_labels/instances_val.json

The folder is a data set of its own: `detrkit train FOLDER/studio_labels`. The labels that the project folder came with
are never written to; images that nobody has saved keep them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detrkit.data.decode.mask_files import MaskFiles
from detrkit.data.files.file_index import STUDIO_LABELS
from detrkit.data.formats.outlines import polygons_or_rle
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.errors import DataError
from detrkit.files import JsonRows, append_whole, atomic_path
from detrkit.serving.refused import RefusedError
from detrkit.studio.class_list import ClassList

Plain = dict[str, Any]
"""JSON-like data."""

SPLITS = ("train", "val")

PAUSE = 1.0
"""Least seconds between two writings of the COCO files, which take the longer the more images there are."""


@dataclass(frozen=True)
class SavedImage:
    """An image as it was saved last."""

    version: int
    """1 for the first save."""
    split: str
    width: int
    height: int
    objects: list[Plain]
    """Annotations of COCO, without `image_id`."""


class LabelStore:
    """Labels of the images of a project, by their paths relative to the project folder.

    Args:
        root: project folder.

    Raises:
        DataError: the files of former saves are damaged.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / STUDIO_LABELS
        self.journal = self.folder / "journal.jsonl"
        self.classes = ClassList()
        self.saved: dict[str, SavedImage] = {}
        self.source: dict[str, tuple[str, ImageRecord]] = {}
        """Path of an image -> its split, and its labels in the data set that the project folder came with."""
        self._class_of: dict[int, int] = {}
        self._sequence = self._written = self._last_id = 0
        self._in_coco = dict.fromkeys(SPLITS, 0)
        self._lock, self._changed, self._ended = threading.RLock(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._read_journal({split: self._read_coco(split) for split in SPLITS if self._file(split).exists()})

    def set_source(self, splits: dict[str, Split], root: Path) -> None:
        """Set the data set that the project folder came with; labels can be saved from then on."""
        with self._lock:
            categories = next(iter(splits.values())).categories if splits else None
            things = categories.thing_ids if categories else set()
            for row in categories.to_plain() if categories else []:
                if row["id"] in things:
                    self._class_of[row["id"]] = self.classes.source_class(row["name"], row["id"])
            for name, split in splits.items():
                for image in split.images:
                    if image.path.is_relative_to(root):
                        self.source[image.path.relative_to(root).as_posix()] = name, image
                    self._last_id = max([self._last_id, *(obj.id for obj in image.objects)])
            used = {split for split, _ in self.source.values()} | {image.split for image in self.saved.values()}
            self._written = min((self._in_coco[split] for split in used), default=self._sequence)
        self._thread = threading.Thread(target=self._keep_writing, name="detrkit labels", daemon=True)
        self._thread.start()
        if self._sequence > self._written:
            self._changed.set()

    def close(self) -> None:
        """Write the COCO files if saves have come since, and end."""
        self._ended = True
        self._changed.set()
        if self._thread:
            self._thread.join()

    def version(self, image: str) -> int:
        """Number of saves of an image."""
        return self.saved[image].version if image in self.saved else 0

    def split(self, image: str) -> str:
        """Split of an image; empty if it has no labels."""
        if image in self.saved:
            return self.saved[image].split
        return self.source[image][0] if image in self.source else ""

    @property
    def has_changes(self) -> bool:
        """Whether the labels differ from those that the project folder came with."""
        return bool(self.saved) or self.classes.edited

    def objects(self, image: str) -> list[Plain]:
        """Annotations of an image, as COCO without `image_id`; masks in files become RLE.

        Raises:
            DataError: a mask file cannot be read.
        """
        ids = self.classes.ids
        return [row for row in self.stored(image) if row["category_id"] in ids]

    def stored(self, image: str) -> list[Plain]:
        """Annotations of an image, also those of deleted classes; see `objects`."""
        if image in self.saved:
            return self.saved[image].objects
        return list(self._source_objects(self.source[image][1])) if image in self.source else []

    def expect_version(self, image: str, version: int) -> None:
        """Refuse changes of a version that is not the present one.

        Raises:
            RefusedError: 409, another version has been saved meanwhile.
        """
        current = self.version(image)
        if version != current:
            raise RefusedError(
                409,
                f"expected changes of version {current} of {image}, found some of version {version}: it has been saved "
                "in another tab; reload the image and repeat them",
            )

    def areas(self, image: str) -> list[tuple[int, float]]:
        """Class and area in pixels of each object of an image, also those of deleted classes."""
        if image in self.saved:
            return [(row["category_id"], row["area"]) for row in self.saved[image].objects]
        rows = self.source[image][1].objects if image in self.source else ()
        return [(self._class_of[row.category_id], _area(row)) for row in rows if row.category_id in self._class_of]

    def count_objects(self) -> dict[int, tuple[int, int]]:
        """Class id -> numbers of its objects and of images with them, deleted classes included."""
        objects: Counter[int] = Counter()
        images: Counter[int] = Counter()
        for name in dict.fromkeys([*self.source, *self.saved]):
            here = [class_id for class_id, _ in self.areas(name)]
            objects.update(here)
            images.update(set(here))
        return {class_id: (count, images[class_id]) for class_id, count in objects.items()}

    def save(self, image: str, version: int, size: tuple[int, int], objects: list[Plain]) -> int:
        """Save the labels of an image; on return they are on the disk.

        Args:
            image: its path.
            version: version that was changed.
            size: width and height.
            objects: annotations of COCO; ids of 0 are numbered. Those of deleted classes are kept beside them.

        Returns:
            The new version.

        Raises:
            RefusedError: 409 if another version has been saved meanwhile.
            OSError: it cannot be written; then nothing is saved.
        """
        with self._lock:
            self.expect_version(image, version)
            last, ids = self._last_id, self.classes.ids
            objects = objects + [row for row in self.stored(image) if row["category_id"] not in ids]
            for row in objects:
                if not row["id"]:
                    row["id"] = last = last + 1
            saved = SavedImage(version + 1, self.split(image) or "train", *size, objects)
            self._append({"image": image, **vars(saved)})
            self.saved[image], self._last_id = saved, last
        self._changed.set()
        return saved.version

    def add_class(self, name: str) -> Plain:
        """Add a class; one that is there is returned.

        Raises:
            OSError: it cannot be written; then nothing is added.
        """
        with self._lock:
            for row in self.classes.shown:
                if row["name"] == name:
                    return row
            rows, row = self.classes.added(name)
            self._set_classes(rows)
        return row

    def rename_class(self, class_id: int, name: str) -> None:
        """Give a class another name; its id stays.

        Raises:
            RefusedError: there is no such class, or another one has that name.
            OSError: it cannot be written; then nothing is changed.
        """
        with self._lock:
            self._set_classes(self.classes.renamed(class_id, name))

    def delete_class(self, class_id: int, deleted: bool = True) -> None:
        """Delete a class with all its objects, or put it back with them.

        Raises:
            RefusedError: there is no such class, or another one has its name by now.
            OSError: it cannot be written; then nothing is changed.
        """
        with self._lock:
            self._set_classes(self.classes.with_deleted(class_id, deleted))

    def _set_classes(self, rows: list[Plain]) -> None:
        if rows != self.classes.rows:
            self._append({"classes": rows})
            self.classes.rows = rows
            self._changed.set()

    def history(self, image: str) -> list[Plain]:
        """All saves of an image, the latest first: `version`, `time` and `objects`."""
        rows = [row for row in self._journal_rows() if row.get("image") == image]
        return [{key: row[key] for key in ("version", "time", "objects")} for row in reversed(rows)]

    def _file(self, split: str) -> Path:
        return self.folder / f"instances_{split}.json"

    def write_coco(self) -> None:
        """Write the COCO files now."""
        with self._lock:
            sequence, saved, classes = self._sequence, dict(self.saved), self.classes.shown
        for split in SPLITS:
            names = {name: None for name, (of, _) in self.source.items() if of == split and name not in saved}
            names |= {name: None for name, image in saved.items() if image.split == split}
            path = self._file(split)
            if names or path.exists():
                self._write_split(path, sorted(names), saved, classes, sequence)
        self._written = sequence

    def _write_split(
        self, path: Path, names: list[str], saved: dict[str, SavedImage], classes: list[Plain], sequence: int
    ) -> None:
        taken = {self.source[name][1].id for name in names if name in self.source}
        following, images, ids = max(taken, default=0), [], {row["id"] for row in classes}
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            rows = JsonRows(file, '{"annotations": [')
            for name in names:
                record = self.source[name][1] if name in self.source else None
                if record is None:
                    following += 1
                number = following if record is None else record.id
                image = saved.get(name)
                width, height = (image.width, image.height) if image else (record.width, record.height)  # type: ignore[union-attr]
                images.append({"id": number, "file_name": name, "height": height, "width": width})
                if image:
                    images[-1]["version"] = image.version
                for row in image.objects if image else self._source_objects(record):  # type: ignore[arg-type]
                    if row["category_id"] in ids:
                        rows.add({**row, "image_id": number})
            info = {"description": "labels of detrkit studio", "sequence": sequence}
            rest = {"info": info, "images": images, "categories": classes}
            rows.close("\n],\n" + json.dumps(rest, ensure_ascii=False)[1:] + "\n")

    def _source_objects(self, record: ImageRecord) -> Iterator[Plain]:
        files = MaskFiles(record.height, record.width)
        for obj in record.objects:
            if obj.category_id in self._class_of:
                x1, y1, x2, y2 = obj.box
                yield {
                    "id": obj.id,
                    "category_id": self._class_of[obj.category_id],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": _area(obj),
                    "iscrowd": int(obj.crowd),
                    "segmentation": polygons_or_rle(obj.segmentation, files) if obj.segmentation else [],
                }

    def _append(self, entry: Plain) -> None:
        """Append a line to the journal, whole or not at all, and wait until it is on the disk."""
        entry = {"sequence": self._sequence + 1, "time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self.folder.mkdir(exist_ok=True)
        with self.journal.open("ab", buffering=0) as file:
            append_whole(file, line, self.journal, sync=True)
        self._sequence += 1

    def _journal_rows(self) -> Iterator[Plain]:
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"expected one save per line in {self.journal}, found another text in line {number}; remove "
                        "that line, or restore the file from a backup"
                    ) from error

    def _read_coco(self, split: str) -> list[Plain]:
        """Read the saved images of a split. Returns its categories."""
        path = self._file(split)
        try:
            content = json.loads(path.read_bytes())
            self._in_coco[split] = int(content["info"].get("sequence", 0))
            self._sequence = max(self._sequence, self._in_coco[split])
            categories = [{"id": row["id"], "name": row["name"]} for row in content["categories"]]
            by_id: dict[int, list[Plain]] = {row["id"]: [] for row in content["images"]}
            for row in content["annotations"]:
                by_id[row.pop("image_id")].append(row)
                self._last_id = max(self._last_id, row["id"])
            for row in content["images"]:
                if row.get("version"):
                    size = row["width"], row["height"]
                    self.saved[row["file_name"]] = SavedImage(row["version"], split, *size, by_id[row["id"]])
            return categories
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"expected COCO as the studio writes it in {path}, but it cannot be read ({type(error).__name__}: "
                f"{error}); correct the file, or remove it: the journal beside it has all saves"
            ) from error

    def _read_journal(self, categories: dict[str, list[Plain]]) -> None:
        """Repeat the saves that are not in the COCO files; a last line without an end was never confirmed.

        Args:
            categories: classes of the COCO files by split, which other programs may have changed.
        """
        classes, since, last = [], 0, dict[str, Plain]()
        if self.journal.exists():
            content = self.journal.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(self.journal, content.rfind(b"\n") + 1)
        for row in self._journal_rows():
            self._sequence = max(self._sequence, row["sequence"])
            if "classes" in row:
                classes, since = row["classes"], row["sequence"]
                continue
            self._last_id = max([self._last_id, *(obj["id"] for obj in row["objects"])])
            last[row["image"]] = row
        known = {split: {category["id"] for category in rows} for split, rows in categories.items()}
        for name, row in last.items():
            split = row["split"]
            if row["sequence"] > self._in_coco[split]:  # killed between the two files, one may be older
                self.saved[name] = SavedImage(row["version"], split, row["width"], row["height"], row["objects"])
            elif name in self.saved:  # the COCO files have no objects of deleted classes
                self.saved[name].objects.extend(obj for obj in row["objects"] if obj["category_id"] not in known[split])
        self.classes.rows = classes
        for split, rows in categories.items():
            if since <= self._in_coco[split]:
                self.classes.take_categories(rows)

    def _keep_writing(self) -> None:
        """Write the COCO files after saves, in a thread of its own."""
        while True:
            self._changed.wait()
            self._changed.clear()
            started = time.monotonic()
            if self._sequence > self._written:
                with contextlib.suppress(OSError, DataError):  # the journal has it; the next save tries again
                    self.write_coco()
            if self._ended:
                return
            pause = max(PAUSE, 5 * (time.monotonic() - started))
            ended = time.monotonic() + pause
            while not self._ended and time.monotonic() < ended:
                time.sleep(0.05)


def _area(obj: ObjectRecord) -> float:
    x1, y1, x2, y2 = obj.box
    return (x2 - x1) * (y2 - y1) if obj.area is None else obj.area
