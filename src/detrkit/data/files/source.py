"""Input and log of the loader of a data format: the files, the user's options, findings and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import ImageFinder
from detrkit.data.validation.findings import Findings

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a data set beside the folder that it lies in."""

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
    """What is wrong with single files and records."""
    notes: list[str] = field(default_factory=list)
    """A sentence for each choice that was made."""
    used: set[str] = field(default_factory=set)
    """Files that were used beside images and their annotation files: lists, names of classes, settings."""
    left: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Files that were seen and not used -> kind of finding, or nothing for the usual ones, and the reason."""
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
        """Count files as used."""
        self.used.update(map(str, paths))

    def leave(self, paths: Iterable[Path], reason: str, kind: str = "") -> None:
        """Say why files are not used; `kind` of finding: default: `image_unused` or `annotations_unused`."""
        self.left.update((str(path), (kind, reason)) for path in paths)

    def named_folders(self, split_name: str) -> list[Path]:
        """Folders of images that the user named: that of this split, else those of any."""
        own = self.image_dirs.get(split_name)
        return [own] if own is not None else [folder for folder in self.image_dirs.values() if folder is not None]

    def fold_splits(
        self,
        by_split: Mapping[str, Sequence[Item]],
        files: Callable[[Any], Iterable[Path]] = lambda path: [path],
    ) -> dict[str, list[Item]]:
        """`train` and `val` of what tells `train`, `val`, `test` or nothing by the names of its files or folders.

        What tells nothing is train where nothing else is, and left out else. test stands in for a missing val.

        Args:
            by_role: role -> files, or whatever is sorted.
            files: the files of such a thing.
        """
        found = {split_name: list(items) for split_name, items in by_split.items() if items}
        unnamed = found.pop("", [])
        if "train" not in found:
            found |= {"train": unnamed} if unnamed else {}
        else:
            self.leave((p for item in unnamed for p in files(item)), "its folder names no split, while others do")
        test = found.pop("test", [])
        if test and "val" in found:
            self.notes.append("test is left alone: only train and val are used")
            self.leave((p for item in test for p in files(item)), "", "set_aside")
        elif test:
            found["val"] = test
            self.notes.append("there is no validation split; test is used for it")
        return found
