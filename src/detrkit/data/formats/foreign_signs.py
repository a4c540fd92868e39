"""A data set as the detectors of foreign formats see it: the names of its files, and the beginnings of a few."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.sampling import POINTER, head_of, sample_of
from detrkit.data.formats.raw import OTHER_IMAGE_SUFFIXES

_LINES, _WIDTH = 20, 400
"""How much of a text is looked at: lines, and characters of each."""


class Look:
    """A data set as detectors see it: each file is opened once, and few are."""

    def __init__(self, index: FileIndex, file: Path | None = None) -> None:
        self.index = index
        self.files = index.files if file is None else [str(file)]
        self.images = index.images if file is None else []
        self.other_images = index.other_images if file is None else self.with_suffix(*OTHER_IMAGE_SUFFIXES)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Files of these endings, whatever their letter case."""
        return [Path(file) for file in self.files if file.lower().endswith(suffixes)]

    @cached_property
    def names(self) -> list[str]:
        """Names of all files without folders."""
        return [os.path.basename(file) for file in self.files]  # noqa: PTH119 - text is what we have, many times

    def name(self, path: Path) -> str:
        """As the message calls it."""
        return "/".join(self.index.relative(path))

    @cached_property
    def jsons(self) -> list[tuple[Path, bytes]]:
        """Files of JSON, or of JSON a line, and their beginnings and ends."""
        files = self.with_suffix(".json", ".jsonl", ".ndjson")
        return [(path, head_of(path, tail=True)) for path in sample_of(files)]

    @cached_property
    def xmls(self) -> list[tuple[Path, bytes]]:
        """XML files and their beginnings."""
        return [(path, head_of(path)) for path in sample_of(self.with_suffix(".xml"))]

    @cached_property
    def texts(self) -> list[tuple[Path, list[str]]]:
        """Text files and their first lines."""
        return [(path, _lines(path)) for path in sample_of(self.with_suffix(".txt"))]

    @cached_property
    def tables(self) -> list[tuple[Path, list[str]]]:
        """Tables and their first lines."""
        return [(path, _lines(path)) for path in sample_of(self.with_suffix(".csv", ".tsv"))]

    @cached_property
    def pointer(self) -> str:
        """A file that is a pointer of git-lfs, if there is one among a sample of those of each ending."""
        some = [*self.jsons, *self.xmls]
        some += [(p, head_of(p)) for p in sample_of(self.with_suffix(".txt", ".csv", ".yaml", ".parquet"), 8)]
        some += [(p, head_of(p)) for p in sample_of(self.images, 8)]
        return next((self.name(path) for path, head in some if head.startswith(POINTER)), "")

    @cached_property
    def folder_names(self) -> set[tuple[str, str]]:
        """Name of each folder, in lower case, after that of the folder that it lies in."""
        parts = [("", *self.index.relative(Path(folder))) for folder in self.index.folders]
        whole = len(self.files) == len(self.index.files)
        return {(p[-2].lower(), p[-1].lower()) for p in parts if len(p) > 1 and whole}


def _lines(path: Path) -> list[str]:
    text = head_of(path).decode("utf-8", errors="replace").lstrip("\ufeff")
    return [line.strip()[:_WIDTH] for line in text.splitlines()[: 2 * _LINES] if line.strip()][:_LINES]
