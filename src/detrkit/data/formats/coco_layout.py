"""Find the COCO json files of a data set, the split of each, and the folders of their images."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detrkit.data.files.encodings import decode_text
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import IMAGE_FOLDERS
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name, split_of_parts
from detrkit.errors import DataError
from detrkit.ops.text import first_names

Kind = Literal["instances", "keypoints", "panoptic", ""]

_LISTS = (re.compile(rb'"images"\s*:\s*\['), re.compile(rb'"annotations"\s*:\s*\['))
_WINDOW, _OVERLAP = 1 << 24, 1 << 10
"""Bytes of a file that are searched at a time, and those that windows share."""
_MANY = 50
"""With more json files than this in one folder, they are taken for one file per image, and only a few are opened."""
_FEW = 8
_OTHER_TASKS = ("captions_", "image_info_")
"""Prefixes of COCO's files without objects."""


@dataclass(frozen=True)
class Candidate:
    """A COCO json file that may be a split of the data set, or a part of one."""

    path: Path
    split_name: str
    """train, val, test or empty."""
    kind: Kind


def describe(index: FileIndex, *, panoptic: bool = False) -> str:
    """Name the first COCO files, for messages; empty if there are none."""
    files = candidates(index, panoptic=panoptic)
    return first_names(("/".join(index.relative(c.path)) for c in files), 4)


def candidates(index: FileIndex, *, panoptic: bool = False) -> list[Candidate]:
    """Find the COCO instance files of a data set in any folder; with `panoptic` the panoptic files."""
    by_folder: dict[Path, list[Path]] = {}
    for path in index.with_suffix(".json"):
        by_folder.setdefault(path.parent, []).append(path)
    coco_files: list[Candidate] = []
    for paths in by_folder.values():
        if len(paths) > _MANY:
            named = [path for path in paths if split_of_name(path.stem) or "coco" in path.name.lower()]
            paths = sorted({*paths[:_FEW], *named[:_FEW], max(paths, key=_size)})
        for path in paths:
            kind = json_kind(path)
            if kind and (kind == "panoptic") == panoptic:
                coco_files.append(Candidate(path, split_of_file(index, path), kind))
    return sorted(coco_files, key=lambda c: (len(index.relative(c.path)), c.path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def json_kind(path: Path) -> Kind:
    """The kind of a COCO json file, by the keys that occur anywhere in it; empty for other and unreadable files."""
    if not _size(path):
        return ""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4096].count(0) == 0:
                return _kind(content)
            data = content[:]
    except OSError:
        return ""
    try:
        return _kind(decode_text(data, path)[0].encode("utf-8", "replace"))
    except DataError:
        return ""


def holds_segments(path: Path) -> bool:
    """Whether a json file holds segments of COCO panoptic annotations or predictions."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _holds(content, "segments_info")


def _kind(content: bytes | mmap.mmap) -> Kind:
    has_list = [_holds(content, key) for key in _LISTS]
    if not any(has_list) or (not all(has_list) and _parses(content)):
        return ""
    if _holds(content, "segments_info"):
        return "panoptic"
    if _holds(content, "caption") and not _holds(content, "bbox"):
        return ""
    return "keypoints" if _holds(content, "keypoints") and _holds(content, "num_keypoints") else "instances"


def _holds(content: bytes | mmap.mmap, key: str | re.Pattern[bytes]) -> bool:
    """Whether a text occurs: a pattern, or a key in quotes. It is searched window by window, to spare memory."""
    for start in range(0, len(content), _WINDOW):
        end = start + _WINDOW + _OVERLAP
        if isinstance(key, str):
            if content.find(f'"{key}"'.encode(), start, end) >= 0:
                return True
        elif key.search(content, start, end):
            return True
        if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            content.madvise(mmap.MADV_DONTNEED)
    return False


def _parses(content: bytes | mmap.mmap) -> bool:
    """Whether the content is valid JSON. A truncated COCO file is not, and should be reported as such."""
    try:
        json.loads(content[:])
    except ValueError:
        return False
    return True


def split_files(source: Source, index: FileIndex, *, panoptic: bool = False) -> dict[str, list[Path]]:
    """Return split (`train`, `val`) -> its COCO files; the other files are left out with a reason.

    Args:
        source: takes notes, and the reasons why files are left out.
        index: the files to choose from: those of the data set, or of another annotation folder.
        panoptic: look for panoptic files instead of instances.

    Raises:
        DataError: there are none.
    """
    coco_files = candidates(index, panoptic=panoptic)
    if not coco_files:
        raise DataError(f"expected COCO json files in {index.root}, found none")
    by_split: dict[str, list[Candidate]] = {}
    for candidate in coco_files:
        by_split.setdefault(candidate.split_name, []).append(candidate)
    if "" in by_split and "train" not in by_split:
        by_split["train"] = by_split.pop("")
        if len(by_split) > 1:
            names = _listed(source.index, (c.path for c in by_split["train"]))
            source.notes.append(f"{names} is used for train: no file is named train")
    unnamed = by_split.pop("", [])
    source.leave_out(
        (c.path for c in unnamed), "its name does not say which split it is, while other names do; --train_json uses it"
    )
    files = {split_name: _main_files(source, some) for split_name, some in by_split.items()}
    if "test" in files:
        test = files.pop("test")
        names = _listed(source.index, test)
        if "val" not in files:
            files["val"] = test
            if "train" in files:
                source.notes.append(f"there is no validation split; {names} is used for it")
        else:
            source.notes.append(f"{names} is left alone: only train and val are used")
            source.leave_out(test, "", "set_aside")
    return files


def _main_files(source: Source, coco_files: list[Candidate]) -> list[Path]:
    """Choose the files with objects among those of one split; the others annotate the same images for other tasks."""
    official = [c for c in coco_files if c.path.name.startswith("panoptic_" if c.kind == "panoptic" else "instances_")]
    objects = [c for c in coco_files if c.kind != "keypoints"]
    kept = official or objects or coco_files
    for candidate in coco_files:
        if candidate not in kept:
            content = "key points" if candidate.kind == "keypoints" else "annotations"
            source.leave_out([candidate.path], f"further {content} beside {kept[0].path.name}", "other_task")
    if kept[0].kind == "keypoints":
        names = _listed(source.index, (c.path for c in kept))
        source.notes.append(f"{names} holds key points; its boxes are used, its key points are not")
    return [c.path for c in kept]


def _listed(index: FileIndex, paths: Iterable[Path]) -> str:
    return ", ".join("/".join(index.relative(path)) for path in paths)


def leave_other_tasks(source: Source, *, panoptic: bool = False) -> None:
    """Leave out COCO annotations of other tasks (captions, and either panoptic or instances), with their PNGs."""
    for candidate in candidates(source.index, panoptic=not panoptic):
        content = "objects" if panoptic else "COCO panoptic annotations"
        source.leave_out([candidate.path], content, "other_task")
        folders = [] if panoptic else png_folders(source.root, candidate.path, None)
        inside = (path for path in source.index.images if path.parent in folders)
        source.leave_out(inside, f"of {candidate.path.name}", "other_task")
    named = (path for path in source.index.with_suffix(".json") if path.name.startswith(_OTHER_TASKS))
    source.leave_out((path for path in named if not json_kind(path)), "captions or lists of images", "other_task")


def image_folders(root: Path, path: Path, given: Path | None) -> list[Path]:
    """Folders where the images of a json file may lie, best guess first."""
    if given is not None:
        return [given]
    above = [path.parent.parent] if path.parent.parent.is_relative_to(root) else []
    return _around(list(dict.fromkeys((path.parent, root, *above))), root, path)


def folders_outside(root: Path, path: Path, images: Iterable[Path]) -> list[Path]:
    """Folders outside of the data set where images may lie, if it holds only annotations or the file is outside too.

    None if the data set has images or a folder for them: images beside it may be others of the same names.

    Args:
        root: the data set.
        path: the json file.
        images: the images of the data set, without masks.
    """
    above = path.parent.parent
    own = next(iter(images), None) or [p for p in _folders(root) if p.name.lower() in IMAGE_FOLDERS]
    if above.is_relative_to(root) or (own and path.is_relative_to(root)):
        return []
    return _around([above], root, path)


def _around(parents: list[Path], root: Path, path: Path) -> list[Path]:
    """Likely image folders inside the parents, and the parents themselves, best guess first."""
    split_name = split_of_name(path.stem) or split_of_name(path.parent.name)
    words = _split_words(path)
    folders: list[Path] = []
    for parent in parents:
        inner = _folders(parent)
        images = [folder for name in IMAGE_FOLDERS for folder in inner if folder.name.lower() == name]
        folders += [*images, parent]
        # folders beside the data set may belong to others, with the same image names: a split name is no evidence there
        known = split_name if parent.is_relative_to(root) else ""
        named = sorted((p for p in inner if _names(p.name, words, known, path)), key=lambda p: p.name not in words)
        for folder in named:
            folders += [folder, *(p for p in _folders(folder) if p.name.lower() in IMAGE_FOLDERS)]
        folders += [p for image in images for p in _folders(image) if _names(p.name, words, split_name, path)]
    return list(dict.fromkeys(folders))


def _names(folder: str, words: list[str], split_name: str, path: Path) -> bool:
    """Whether a folder has the name of a json file or of its split."""
    return folder in words or folder == path.stem or bool(split_name and split_of_name(folder) == split_name)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def split_of_file(index: FileIndex, path: Path) -> str:
    """The split in a file's name, or else in its folders; empty if there is none."""
    return split_of_name(path.stem) or (
        split_of_parts(index.relative(path)[:-1]) if path.is_relative_to(index.root) else ""
    )


def png_folders(root: Path, path: Path, given: Path | None) -> list[Path]:
    """Folders where the PNGs of a panoptic json may lie: named like the json, beside it or up to two folders above."""
    words = _split_words(path)
    names = [path.stem, *(f"panoptic_{word}" for word in words), "panoptic"]
    if given is None:  # folders of bare names such as val2017 hold images, which may be called like the PNGs
        folders = [p / n for p in (path.parent, path.parent.parent, root, root / "annotations") for n in names]
    else:
        folders = [*(given / name for name in (*names, *words)), given]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _split_words(path: Path) -> list[str]:
    """The words of a file name that may name a split: `train2017` for `instances_train2017`."""
    return [word for word in re.split(r"[^a-zA-Z0-9]+", path.stem) if split_of_name(word)]
