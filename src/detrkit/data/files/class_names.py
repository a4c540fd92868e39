"""Class names from files of their own (classes.txt, obj.names, a yaml file without images), for all formats.

In a text file the line number is the class number, so an empty line between two names counts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from detrkit.data.files.encodings import read_json, read_text
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import Source
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.ops.text import first_names

_CALLED = (
    *("classes", "darknet", "obj", "labels", "labellist", "class", "label", "classnames", "classlist", "classlabels"),
    *("labelnames", "names", "categories", "category", "objectnames", "类别", "类名", "标签", "labelmap"),
    "predefinedclasses",
)
"""Names of such files, in lower case and without blanks or punctuation; the most common name first."""
_ENDINGS = (".txt", ".names", ".labels")
_GUESSES = ("labelmap", "predefinedclasses")
"""Lists of labeling programs, whose numbers may differ from those in the label files: only their order is used."""


def name_files(index: FileIndex) -> list[Path]:
    """Find the files with class names: the most common file name first, then the least deep; yaml files last."""
    files = [path for path in index.with_suffix(*_ENDINGS) if is_list(index, path)]
    files.sort(key=lambda path: (_rank(path), len(path.parts), path))
    return files + [path for path in index.with_suffix(".yaml", ".yml") if _names_alone(path)]


def is_list(index: FileIndex, path: Path) -> bool:
    """Whether a text file has the name of a list of class names, and not that of an image."""
    if path.stem in index.image_stems:  # of a hundred thousand label files
        return False
    ending = path.suffix.lower()
    return ending in _ENDINGS[1:] or (ending == ".txt" and _letters(path) in _CALLED)


def read_names(path: Path, findings: Findings | None = None) -> dict[int, str]:
    """Read class number -> name from a file; empty if the file lists images instead.

    Raises:
        DataError: the file holds no text.
    """
    if not path.is_file():
        return {}  # a link to nothing, which is listed as a file that cannot be read
    if path.suffix.lower() in (".yaml", ".yml"):
        return yaml_names(path) or {}
    lines = [line.strip() for line in read_text(path, findings).splitlines()]
    names = {number: line for number, line in enumerate(lines) if line}
    return {} if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names.values()) else names


def yaml_names(path: Path) -> dict[int, str] | None:
    """Read class number -> name from a yaml file, as written; None if the file has no names.

    Raises:
        DataError: the names are neither a list nor numbered.
    """
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)  # `no` and `1.10` are names, not values
    except yaml.YAMLError:
        return None
    names: Any = content.get("names") if isinstance(content, dict) else None
    if not names:
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    numbers = {as_id(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    known = {number: name for number, name in numbers.items() if number is not None and number >= 0 and name}
    if not known or len(known) < len(names):
        raise DataError(f"expected names as a list, or as `0: name`, in {path}, found {names!r}"[:300])
    return unique(dict(sorted(known.items())), path)


def names_beside(source: Source) -> dict[int, str] | None:
    """Read class number -> name from the name files of a data set, or from Label Studio's notes.json.

    Raises:
        DataError: two lists contradict each other.
    """
    named: list[tuple[Path, dict[int, str]]] = []
    for path in name_files(source.index):
        if _letters(path) == "labelmap" or (named and _letters(path) in _GUESSES):
            continue
        if names := read_names(path, source.findings):
            source.use(path)
            named.append((path, unique(names, path)))
    for path in source.index.with_suffix(".json"):
        if path.name.lower() == "notes.json" and (noted := _notes(path)):
            source.use(path)
            named += [] if named else [(path, noted)]
    return merge_names(named)


def unique(names: dict[int, str], path: Path) -> dict[int, str]:
    """Return the names if each occurs once.

    Raises:
        DataError: a name occurs twice.
    """
    texts = list(names.values())
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"expected each class name once in {path}, found {twice!r} again; name the classes apart")
    return names


def merge_names(named: list[tuple[Path, dict[int, str]]]) -> dict[int, str] | None:
    """Return the longest of several lists of names, if the others are prefixes of it.

    Raises:
        DataError: they contradict each other.
    """
    if not named:
        return None

    def listed(names: dict[int, str]) -> str:
        return first_names(f"{number}: {name}" for number, name in names.items())

    path_of_longest, longest = max(named, key=lambda pair: len(pair[1]))
    for path, names in named:
        if names != dict(list(longest.items())[: len(names)]):
            raise DataError(
                f"expected the same class names in {path_of_longest} and {path}, found {listed(longest)} and "
                f"{listed(names)}; number the classes alike in both, or name the folder of one with --data"
            )
    return longest


def _letters(path: Path) -> str:
    return re.sub(r"[\W_]", "", path.stem).lower()


def _rank(path: Path) -> int:
    letters = _letters(path)
    return _CALLED.index(letters) if letters in _CALLED else len(_CALLED)


def _names_alone(path: Path) -> bool:
    """Whether a yaml file has class names but no `train` or `val` entry, as a data set file would."""
    try:
        keys = top_keys(read_text(path))
        return "names" in keys and not keys & {"train", "val"} and bool(yaml_names(path))
    except (DataError, OSError):
        return False


def top_keys(text: str) -> set[str]:
    """Text before the first colon of each line of a yaml file: its keys, at any depth."""
    return {line.split(":")[0].strip("'\" ") for line in text.splitlines() if ":" in line}


def _notes(path: Path) -> dict[int, str] | None:
    """Class names from a notes.json; None if it has none."""
    try:
        rows = read_json(path).get("categories")
        return {int(row["id"]): str(row["name"]) for row in rows}
    except (DataError, ValueError, TypeError, KeyError, AttributeError):
        return None
