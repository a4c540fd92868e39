"""Find the Pascal VOC files of a data set, and the split of each.

Lists tell the splits: those of `ImageSets/Main` (VOC, CVAT; one per class in exports of VoTT), of `ImageSets`, and
lists with an image and an xml file per line (PaddleDetection). Without lists, the folders tell the splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from detrkit.data.files.class_names import name_files, read_names
from detrkit.data.files.encodings import read_lines
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.pairing import layout_key
from detrkit.data.files.sampling import head_of
from detrkit.data.files.source import Source
from detrkit.data.files.split_lists import split_lists
from detrkit.data.files.split_names import split_of_name, split_of_parts
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError
from detrkit.ops.text import first_names

_SNIFFED = 64
_HEAD = 4096
_UNLISTED = "no list of train, val or test names it"
_ANNOTATION = re.compile(rb"<(?:\w+:)?annotation[\s>]", re.IGNORECASE)


def find_xml(index: FileIndex) -> list[Path]:
    """All xml files, if a sample of them holds a Pascal VOC annotation; else none."""
    files = index.with_suffix(".xml")
    sample = files[:: max(1, len(files) // _SNIFFED)]
    return files if any(is_annotation(path) for path in sample) else []


def is_annotation(path: Path) -> bool:
    """Whether a file begins with an <annotation> element, in any encoding."""
    return bool(_ANNOTATION.search(head_of(path)[:_HEAD]))


def split_xml(source: Source, files: list[Path]) -> dict[str, list[Path]]:
    """Return `train` and `val` -> xml files, by the lists of the data set, else by its folders.

    If there are lists, the files that none of them names are left out.

    Raises:
        DataError: there are lists, but none for train or val.
    """
    by_split: dict[str, list[Path]] = {}
    rest = files
    lists_of = _lists(source.index)
    if not lists_of:
        rest = _by_tables(source, files, by_split)
    for folder, lists in lists_of.items():
        inside = [path for path in rest if path.is_relative_to(folder)] or rest
        by_list = _by_lists(source, folder, lists, inside)
        if not by_list:
            continue
        for split_name, paths in by_list.items():
            by_split.setdefault(split_name, []).extend(paths)
        listed = {path for paths in by_list.values() for path in paths}
        unlisted = [path for path in inside if path not in listed and str(path) not in source.left_out]
        source.leave_out(unlisted, _UNLISTED)
        others = [path for path in lists if not _split_of(path)]
        if unlisted:
            source.leave_out(others, "its name does not say which split it is")
        else:
            source.use(*others)
        inside_set = set(inside)
        rest = [path for path in rest if path not in inside_set]
    for path in rest:
        by_split.setdefault(split_of_parts(source.index.relative(path)[:-1]), []).append(path)
    _divide_trainval(source, by_split)
    return source.fold_splits(by_split)


def _by_tables(source: Source, files: list[Path], by_split: dict[str, list[Path]]) -> list[Path]:
    """Add files by split tables (split.csv, splits.json) to `by_split`; return the files that remain to be split."""
    names = _Names(source.index, files)
    listed: set[Path] = set()
    for table, of_split in split_lists(source.index):
        source.use(table)
        for split_name, lines in of_split.items():
            known = set(by_split.get(split_name, []))
            xmls = dict.fromkeys(
                xml
                for number, line in enumerate(lines, start=1)
                for xml in _of_line(source, names, table, number, line)
            )
            by_split.setdefault(split_name, []).extend(xml for xml in xmls if xml not in known)
            listed.update(xmls)
    if not listed:
        return files
    source.leave_out([path for path in files if path not in listed and str(path) not in source.left_out], _UNLISTED)
    return []


def _of_line(source: Source, names: _Names, path: Path, number: int, line: str) -> list[Path]:
    """The xml file of a line of a list; none, with a finding, if there is none or several."""
    xmls = names.of_line(line)
    if not xmls:
        source.findings.add("listed_without_annotation", path, f"line {number}", line)
    elif len(xmls) > 1:
        rivals = first_names(("/".join(source.index.relative(xml)) for xml in xmls), 4)
        source.findings.add("image_ambiguous", path, f"line {number}", f"{line}: {rivals}")
        source.leave_out(xmls, "a list names it without its folder, and other files have the same name")
        return []
    return xmls


def _divide_trainval(source: Source, by_split: dict[str, list[Path]]) -> None:
    """Give the files that only trainval lists to train or val, whichever has no list of its own."""
    both = by_split.pop("trainval", [])
    elsewhere = {path for split_name in ("train", "val", "test") for path in by_split.get(split_name, [])}
    rest = [path for path in both if path not in elsewhere]
    missing = [split_name for split_name in ("train", "val") if split_name not in by_split]
    if rest and missing:
        by_split[missing[0]] = rest
    else:
        source.leave_out(rest, "only trainval names it, beside lists of train and val")


def _lists(index: FileIndex) -> dict[Path, list[Path]]:
    """Find the lists: folder of a VOC data set -> those in ImageSets, else text files named like splits."""
    in_image_sets: dict[Path, list[Path]] = {}
    others: dict[Path, list[Path]] = {}
    for path in index.with_suffix(".txt"):
        parts = [part.lower() for part in path.parts]
        if "imagesets" in parts:
            base = Path(*path.parts[: parts.index("imagesets")])
            in_image_sets.setdefault(base, []).append(path)
        elif split_of_name(path.stem) or path.stem.lower() == "trainval":
            others.setdefault(path.parent, []).append(path)
    for base, paths in in_image_sets.items():
        main = [path for path in paths if path.parent.name.lower() == "main"]
        flat = [path for path in paths if path.parent.name.lower() == "imagesets"]
        in_image_sets[base] = main or flat or paths
    return in_image_sets or others


def _by_lists(source: Source, folder: Path, lists: list[Path], files: list[Path]) -> dict[str, list[Path]]:
    """Return split -> the xml files that the lists of one folder name.

    Raises:
        DataError: there are lists in ImageSets, but none names a split.
    """
    lists_of_split = _lists_of_splits(lists)
    if not lists_of_split:
        if not any("imagesets" in (part.lower() for part in path.parts) for path in lists):
            return {}
        inside = first_names(sorted(path.name for path in lists), 8)
        raise DataError(
            f"expected train.txt, trainval.txt, val.txt, test.txt or default.txt in {lists[0].parent}, found {inside}"
        )
    names = _Names(source.index, files)
    by_split: dict[str, list[Path]] = {}
    for split_name, paths in lists_of_split.items():
        listed: dict[Path, None] = {}
        for path in paths:
            source.use(path)
            for number, line in enumerate(read_lines(path, source.findings), start=1):
                listed |= dict.fromkeys(_of_line(source, names, path, number, line))
        if listed:
            by_split[split_name] = list(listed)
        elif split_name == "train":
            raise DataError(
                f"expected names of images with an xml file in {paths[0]}, found none" + source.findings.reasons()
            )
        else:
            source.notes.append(f"{paths[0].name} names no image with an xml file, as if it were not there")
    source.use(*(path for path in lists if _split_of(path)))
    return by_split


def _lists_of_splits(lists: list[Path]) -> dict[str, list[Path]]:
    """Group lists by split: those named like a split alone, else those of single classes (CLASS_train.txt)."""
    plain: dict[str, list[Path]] = {}
    of_classes: dict[str, list[Path]] = {}
    for path in sorted(lists):
        if split_name := _split_of(path):
            alone = not re.search(r"[\W_]", path.stem.strip("_-"))
            (plain if alone else of_classes).setdefault(split_name, []).append(path)
    return plain or of_classes


def _split_of(path: Path) -> str:
    """`train`, `val`, `test` or `trainval`, by the name of a list; empty for other names."""
    stem = path.stem.lower()
    if stem == "trainval" or stem.endswith("_trainval"):
        return "trainval"
    return "train" if stem == "default" else split_of_name(stem)


class _Names:
    """Finds the xml file that a line of a list names."""

    def __init__(self, index: FileIndex, files: list[Path]) -> None:
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
        for path in files:
            key = layout_key(index.relative(path))
            self._by_stem.setdefault(key[-1], []).append((key, path))
        self._folders = {key[-2] for some in self._by_stem.values() for key, _ in some if len(key) > 1}

    def of_line(self, line: str) -> list[Path]:
        """Find the files of a line: a name, perhaps with blanks, ending or folders, and perhaps followed by -1, 0 or 1.

        If files of one name lie in several folders, those whose folders match best are returned.
        """
        text = line.replace("\\", "/")
        words = text.split()
        for guess in (text, text.rpartition(" ")[0].strip(), words[-1], words[0]):
            *folders, name = guess.split("/")
            ending = "." + name.rpartition(".")[2].lower()
            key = layout_key((*folders, name if ending in (*IMAGE_SUFFIXES, ".xml") else name + ".xml"))
            if xmls := self._by_stem.get(key[-1]):
                return self._nearest(key, xmls)
        return []

    def _nearest(self, key: tuple[str, ...], candidates: list[tuple[tuple[str, ...], Path]]) -> list[Path]:
        """The files whose folders have most in common with the line, counted from the end."""
        alike = [_common_tail(key, own) for own, _ in candidates]
        if max(alike) == 1 and len(key) > 1 and key[-2] in self._folders:
            return []  # the folder that the line names exists, and holds no such file
        return [path for (_, path), length in zip(candidates, alike, strict=True) if length == max(alike)]


def _common_tail(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Number of equal parts, counted from the end."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def names_in_order(source: Source, names: Iterable[str]) -> list[str]:
    """Order class names by a list beside the data that has all of them (see `class_names`), else alphabetically.

    labelmap.txt is the list of CVAT, with lines `name:color:parts:actions`, of which the last two may be absent.
    """
    alphabetical = sorted(names)
    for path in name_files(source.index):
        source.use(path)
        lines = list(read_names(path, source.findings).values())
        if path.name.lower() == "labelmap.txt":
            lines = [_label_of(line) for line in lines if not line.startswith("# label:")]
            lines = [line for line in lines if line != "background" or line in alphabetical]
        lines = [line for line in lines if not line.startswith("#") or line in alphabetical]
        if set(alphabetical) <= set(lines):
            return list(dict.fromkeys(lines))
        missing = first_names(sorted(set(alphabetical) - set(lines)))
        source.notes.append(f"{path.name} does not name the classes {missing}; classes are in alphabetical order")
    return alphabetical


def _label_of(line: str) -> str:
    """The name in a line of labelmap.txt, which may contain colons itself if the line has all four fields."""
    return line.rsplit(":", 3)[0] if line.count(":") > 2 else line.split(":")[0]
