"""Input and log of the loader of a data format: the files, the user's options, findings and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import ImageFinder
from detrkit.data.validation.findings import Findings
from detrkit.ops.text import one_line

Item = TypeVar("Item")
_MOST_NAMES = 8
"""Attributes that a note names."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of the user that describe a data set, besides its folder."""

    file: Path | None = None
    """The file that was named in place of a folder."""
    annotation_files: Mapping[str, Path] = field(default_factory=dict)
    """Split -> COCO file (`--train_json`, `--val_json`)."""
    image_dirs: Mapping[str, Path | None] = field(default_factory=lambda: {"train": None, "val": None})
    """Split -> folder of its images (`--train_images`, `--val_images`), or None."""
    panoptic_json: Path | None = None
    panoptic_dir: Path | None = None
    segmentations: bool = True
    """Keep polygons and RLE masks, which take most of the memory of a large COCO file."""
    files_only: bool = False
    """No folder was named: `annotation_files` are the whole data set."""


@dataclass
class Source:
    """A data set while one format detects or loads it. Each format gets its own, so a failed loader leaves no trace."""

    index: FileIndex
    options: ReadOptions = ReadOptions()
    findings: Findings = field(default_factory=Findings)
    """Defects of single files and records."""
    notes: list[str] = field(default_factory=list)
    """One sentence per decision that the user should know of."""
    used: set[str] = field(default_factory=set)
    """Files that were used besides images and annotation files: lists, class names, settings."""
    left_out: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Unused file -> (kind of finding, or empty for the default kind, and the reason)."""
    unread: Counter[str] = field(default_factory=Counter)
    """Name of an attribute that records of detrkit do not hold -> number of objects that have it."""
    finder: ImageFinder = field(init=False)
    """Finds image files by the names that annotations give them."""

    def __post_init__(self) -> None:
        self.finder = ImageFinder(self.index)

    @property
    def root(self) -> Path:
        """The folder of the data set."""
        return self.index.root

    @property
    def image_dirs(self) -> Mapping[str, Path | None]:
        """Split (`train`, `val`) -> folder of its images where the user named one, else None."""
        return self.options.image_dirs

    def use(self, *paths: Path) -> None:
        """Mark files as used."""
        self.used.update(map(str, paths))

    def leave_out(self, paths: Iterable[Path], reason: str, kind: str = "") -> None:
        """Record why files are not used; `kind` of finding, by default `image_unused` or `annotations_unused`."""
        self.left_out.update((str(path), (kind, reason)) for path in paths)

    def add_attributes(self, attributes: Mapping[Any, Any]) -> None:
        """Count the attributes of an object that say something: an empty or false one does not."""
        for name, value in attributes.items():
            if str(value or "").strip().lower() not in ("", "0", "0.0", "false", "unspecified"):
                self.unread[str(name)] += 1

    def note_attributes(self) -> None:
        """Note the attributes of objects that are not used, once all objects are read."""
        if self.unread:
            names = [f"{one_line(name)} ({count})" for name, count in self.unread.most_common(_MOST_NAMES)]
            more = f" and {len(self.unread) - _MOST_NAMES} more" if len(self.unread) > _MOST_NAMES else ""
            self.notes.append(f"attributes of objects are not used: {', '.join(names)}{more}")

    def named_folders(self, split_name: str) -> list[Path]:
        """Image folders that the user named: the one of this split, else those of all splits."""
        own = self.image_dirs.get(split_name)
        return [own] if own is not None else [folder for folder in self.image_dirs.values() if folder is not None]

    def fold_splits(
        self,
        by_split: Mapping[str, Sequence[Item]],
        files: Callable[[Any], Iterable[Path]] = lambda path: [path],
    ) -> dict[str, list[Item]]:
        """Reduce items grouped by split name (`train`, `val`, `test` or empty) to `train` and `val`.

        Items without a split name become train if there is no train, else they are left out. A test split is used as
        val if there is no val.

        Args:
            by_split: split name -> items.
            files: returns the files of an item; by default the item is a path.
        """
        splits = {split_name: list(items) for split_name, items in by_split.items() if items}
        unnamed = splits.pop("", [])
        if "train" not in splits:
            splits |= {"train": unnamed} if unnamed else {}
        else:
            self.leave_out((p for item in unnamed for p in files(item)), "its folder names no split, while others do")
        test = splits.pop("test", [])
        if test and "val" in splits:
            self.notes.append("test is left alone: only train and val are used")
            self.leave_out((p for item in test for p in files(item)), "", "set_aside")
        elif test:
            splits["val"] = test
            self.notes.append("there is no validation split; test is used for it")
        return splits
