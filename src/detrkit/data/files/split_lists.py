"""Files that list the images of each split: train.txt, split.csv, splits.json.

Files called like a split (`train.txt`, `val.lst`, `test.csv`) name its images; a table (`split.csv`) names an image and
its split in each row; a json file (`splits.json`) has names under each split. Images are named by their files, with
folders or without, or without their ending.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detrkit.data.files.encodings import read_json, read_lines
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError

_HEAD = 50


def split_lists(index: FileIndex) -> list[tuple[Path, dict[str, list[str]]]]:
    """Find the files that list images, each with split -> image names as written."""
    lists = []
    for path in index.with_suffix(".txt", ".lst", ".csv", ".tsv", ".json"):
        if path.stem in index.image_stems:  # a label file
            continue
        table = path.suffix.lower() in (".csv", ".tsv")
        if table or split_of_name(path.stem) or "split" in path.stem.lower():
            listed = _of_json(path, index) if path.suffix.lower() == ".json" else _of_text(path, index, table=table)
            if listed:
                lists.append((path, listed))
    return lists


def _of_text(path: Path, index: FileIndex, *, table: bool) -> dict[str, list[str]]:
    """Read split -> image names from a list, or from a table that may have a column for the split."""
    try:
        lines = read_lines(path)
    except (DataError, OSError):
        return {}
    split_name = split_of_name(path.stem)
    if not table and split_name and _are_images(lines[:_HEAD], index):
        return {split_name: lines}
    rows = [[cell.strip(" \"'") for cell in re.split(r"[,;\t]" if table else r"[,;\s]+", line)] for line in lines]
    wide = min((len(row) for row in rows), default=0)
    columns = [[row[place] for row in rows] for place in range(wide)]
    named = next((column for column in columns if _are_images(column[1 : 1 + _HEAD], index)), None)
    if named is None:
        return {}
    split_column = next(
        (column for column in columns if column is not named and all(map(split_of_name, column[1:]))), None
    )
    if split_column is None and not split_name:
        return {}
    listed: dict[str, list[str]] = {}
    for name, split_word in zip(named, split_column or [split_name] * len(named), strict=True):
        if split_of_name(split_word) and (
            name is not named[0] or _names_image(name, index)
        ):  # the first row may be a heading
            listed.setdefault(split_of_name(split_word), []).append(name)
    return listed


def _of_json(path: Path, index: FileIndex) -> dict[str, list[str]]:
    """Read split -> image names from a json file that holds nothing else."""
    try:
        content = read_json(path)
    except DataError:
        return {}
    if not isinstance(content, dict) or not all(isinstance(value, list) for value in content.values()):
        return {}
    listed = {split_name: value for key, value in content.items() if (split_name := split_of_name(key)) and value}
    names = [name for value in listed.values() for name in value]
    return listed if all(isinstance(name, str) for name in names) and _are_images(names, index) else {}


def _are_images(names: Sequence[str], index: FileIndex) -> bool:
    return bool(names) and all(_names_image(name, index) for name in names)


def _names_image(name: str, index: FileIndex) -> bool:
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.lower().endswith(IMAGE_SUFFIXES) or last in index.image_stems or last in index.image_names
