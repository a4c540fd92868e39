"""Names of classes in files of their own, as all formats have them: lists of text, and yaml files that name no images.

One list says what such files are called, whatever the format. In a list of text the number of a line is that of its
class, so that an empty line between two names keeps its number.
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

_CALLED = (
    *("classes", "darknet", "obj", "labels", "labellist", "class", "label", "classnames", "classlist", "classlabels"),
    *("labelnames", "names", "categories", "category", "objectnames", "类别", "类名", "标签", "labelmap"),
    "predefinedclasses",
)
"""What lists are called, in lower case and without blanks, hyphens and the like; the best known name first."""
_ENDINGS = (".txt", ".names", ".labels")
_GUESSES = ("labelmap", "predefinedclasses")
"""Lists of the labelling program, whose numbers may be others than those of the files: their order counts at most."""


def name_files(index: FileIndex) -> list[Path]:
    """Files with names of classes: the best known name first, then the one nearest to the root; yaml files last."""
    found = [path for path in index.with_suffix(*_ENDINGS) if is_list(index, path)]
    found.sort(key=lambda path: (_rank(path), len(path.parts), path))
    return found + [path for path in index.with_suffix(".yaml", ".yml") if _names_alone(path)]


def is_list(index: FileIndex, path: Path) -> bool:
    """Whether a text file is called as lists of class names are, and not as an image."""
    if path.stem in index.image_stems:  # of a hundred thousand label files
        return False
    ending = path.suffix.lower()
    return ending in _ENDINGS[1:] or (ending == ".txt" and _letters(path) in _CALLED)


def read_names(path: Path, findings: Findings | None = None) -> dict[int, str]:
    """Number -> name of the classes of a file; none where it lists images instead.

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
    """Number -> name of the classes of a yaml file, as they are written; None where it names none.

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
    """Number -> name, by the lists of names in the data set, or by Label Studio's notes.json.

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
    """The names, each of which occurs once.

    Raises:
        DataError: one occurs again.
    """
    texts = list(names.values())
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"expected each class name once in {path}, found {twice!r} again; name the classes apart")
    return names


def merge_names(named: list[tuple[Path, dict[int, str]]]) -> dict[int, str] | None:
    """The longest of several lists of names, which the others begin with.

    Raises:
        DataError: they contradict each other.
    """
    if not named:
        return None
    first, known = max(named, key=lambda found: len(found[1]))
    for path, names in named:
        if names != dict(list(known.items())[: len(names)]):
            raise DataError(
                f"expected the same class names in {first} and {path}, found {_some(known)} and {_some(names)}; number "
                "the classes alike in both, or name the folder of one with --data"
            )
    return known


def _letters(path: Path) -> str:
    return re.sub(r"[\W_]", "", path.stem).lower()


def _rank(path: Path) -> int:
    letters = _letters(path)
    return _CALLED.index(letters) if letters in _CALLED else len(_CALLED)


def _names_alone(path: Path) -> bool:
    """Whether a yaml file has names of classes, and no images that would make it a data set's."""
    try:
        keys = top_keys(read_text(path))
        return "names" in keys and not keys & {"train", "val"} and bool(yaml_names(path))
    except (DataError, OSError):
        return False


def top_keys(text: str) -> set[str]:
    """What stands before a colon in the lines of a yaml file."""
    return {line.split(":")[0].strip("'\" ") for line in text.splitlines() if ":" in line}


def _notes(path: Path) -> dict[int, str] | None:
    """The categories of a notes.json; None where it has none."""
    try:
        rows = read_json(path).get("categories")
        return {int(row["id"]): str(row["name"]) for row in rows}
    except (DataError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _some(names: dict[int, str]) -> str:
    listed = [f"{number}: {name}" for number, name in names.items()]
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
