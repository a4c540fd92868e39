"""The part of a data set that format detectors look at: file names, and the first bytes of a few files."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.sampling import POINTER, head_of, sample_of
from detrkit.data.formats.raw import OTHER_IMAGE_SUFFIXES

_LINES, _WIDTH = 20, 400
"""Lines of a text file that are read, and characters per line."""


class DatasetPreview:
    """File names of a data set, and the first bytes of a sample of its files; each sampled file is opened once."""

    def __init__(self, index: FileIndex, file: Path | None = None) -> None:
        self.index = index
        self.files = index.files if file is None else [str(file)]
        self.images = index.images if file is None else []
        self.other_images = index.other_images if file is None else self.with_suffix(*OTHER_IMAGE_SUFFIXES)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Files with one of these endings, in upper or lower case."""
        return [Path(file) for file in self.files if file.lower().endswith(suffixes)]

    @cached_property
    def names(self) -> list[str]:
        """Names of all files, without folders."""
        return [os.path.basename(file) for file in self.files]  # noqa: PTH119 - text is what we have, many times

    def name(self, path: Path) -> str:
        """The path relative to the data set, for messages."""
        return "/".join(self.index.relative(path))

    @cached_property
    def jsons(self) -> list[tuple[Path, bytes]]:
        """A sample of JSON and JSON-lines files, each with its first and last bytes."""
        files = self.with_suffix(".json", ".jsonl", ".ndjson")
        return [(path, head_of(path, tail=True)) for path in sample_of(files)]

    @cached_property
    def xmls(self) -> list[tuple[Path, bytes]]:
        """A sample of XML files, each with its first bytes."""
        return [(path, head_of(path)) for path in sample_of(self.with_suffix(".xml"))]

    @cached_property
    def texts(self) -> list[tuple[Path, list[str]]]:
        """A sample of text files, each with its first lines."""
        return [(path, _lines(path)) for path in sample_of(self.with_suffix(".txt"))]

    @cached_property
    def tables(self) -> list[tuple[Path, list[str]]]:
        """A sample of CSV and TSV tables, each with its first lines."""
        return [(path, _lines(path)) for path in sample_of(self.with_suffix(".csv", ".tsv"))]

    @cached_property
    def pointer(self) -> str:
        """Name of a file that is a git-lfs pointer, if a sample of each file type holds one, else empty."""
        some = [*self.jsons, *self.xmls]
        some += [(p, head_of(p)) for p in sample_of(self.with_suffix(".txt", ".csv", ".yaml", ".parquet"), 8)]
        some += [(p, head_of(p)) for p in sample_of(self.images, 8)]
        return next((self.name(path) for path, head in some if head.startswith(POINTER)), "")

    @cached_property
    def folder_names(self) -> set[tuple[str, str]]:
        """(name of the parent, name) of each folder, in lower case."""
        parts = [("", *self.index.relative(Path(folder))) for folder in self.index.folders]
        whole = len(self.files) == len(self.index.files)
        return {(p[-2].lower(), p[-1].lower()) for p in parts if len(p) > 1 and whole}


def _lines(path: Path) -> list[str]:
    text = head_of(path).decode("utf-8", errors="replace").lstrip("\ufeff")
    return [line.strip()[:_WIDTH] for line in text.splitlines()[: 2 * _LINES] if line.strip()][:_LINES]
