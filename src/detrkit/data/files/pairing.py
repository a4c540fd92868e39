"""Pair images with their annotation files, in formats with one annotation file per image.

Paths are compared without folder names such as `images` and `labels`: `images/train/a.jpg`, `train/images/a.JPG` and
`train/a.jpg` all belong to `labels/train/a.txt`. Case is ignored, unless names differ in nothing else.

The rest is paired by file name and the end of the folders, if only one file and one image come into question: never
across splits, and never if one of the two lies in a folder whose other files are paired. Pairs that are likely but not
certain are reported as ambiguous.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import IMAGE_SUFFIXES

_OF_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pngimages", "pictures", "photos", "图片", "图像"}
_OF_FILES = {"labels", "label", "lables", "lable", "annotations", "annotation", "xml", "xmls", "txt", "标签", "标注"}

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio adds to the name of an uploaded file."""


@dataclass
class Pairs:
    """The pairs of images and annotation files, and the files without a partner."""

    file_of: dict[Path, Path] = field(default_factory=dict)
    """Image -> its annotation file."""
    shared: dict[Path, list[Path]] = field(default_factory=dict)
    """Annotation file -> its images, if it has several."""
    doubled: dict[Path, Path] = field(default_factory=dict)
    """Unused annotation file -> the one that is used for the same image."""
    alone: list[Path] = field(default_factory=list)
    """Annotation files without an image."""
    ambiguous: dict[Path, list[Path]] = field(default_factory=dict)
    """Annotation file -> unpaired images that may belong to it, none for certain."""


def pair(index: FileIndex, files: Iterable[Path], images: Iterable[Path]) -> Pairs:
    """Find the annotation file of each image.

    Args:
        index: the data set.
        files: annotation files.
        images: image files.
    """
    pairs = Pairs()
    by_key: dict[tuple[str, ...], list[Path]] = {}
    for image in images:
        by_key.setdefault(layout_key(index.relative(image)), []).append(image)
    files_by_key: dict[tuple[str, ...], list[Path]] = {}
    left: list[Path] = []
    for file in sorted(files, key=lambda path: not in_labels_folder(index, path)):
        key = layout_key(index.relative(file))
        if key in by_key:
            files_by_key.setdefault(key, []).append(file)
        else:
            left.append(file)
    for key, rivals in files_by_key.items():
        _share_out(pairs, index, rivals, by_key[key])
    homes = {key[:-1] for key in files_by_key}
    free = [(key, image) for key, own in by_key.items() for image in own if image not in pairs.file_of]
    _by_name(pairs, index, left, free, homes)
    return pairs


def _share_out(pairs: Pairs, index: FileIndex, files: list[Path], images: list[Path]) -> None:
    """Pair files and images whose paths differ in case and endings only; the first file is preferred."""
    if len(images) > 1:  # A.jpg and a.jpg are two images with a file each; a.jpg and a.png may share one
        for file in files:
            key = layout_key(index.relative(file), fold=False)
            same = [image for image in images if layout_key(index.relative(image), fold=False) == key]
            _give(pairs, file, [image for image in same if image not in pairs.file_of])
    if not any(image in pairs.file_of for image in images):
        _give(pairs, files[0], images)
    if len(files) > 1:
        used = {pairs.file_of[image]: None for image in images if image in pairs.file_of}
        pairs.doubled.update((file, next(iter(used))) for file in files if file not in used)


def _give(pairs: Pairs, file: Path, images: list[Path]) -> None:
    pairs.file_of.update(dict.fromkeys(images, file))
    if len(images) > 1:
        pairs.shared[file] = images


def _by_name(
    pairs: Pairs,
    index: FileIndex,
    files: list[Path],
    images: list[tuple[tuple[str, ...], Path]],
    homes: set[tuple[str, ...]],
) -> None:
    """Pair the remaining files and images by name and the end of their folders, if the pair is unique.

    Args:
        pairs: takes the pairs.
        index: the data set.
        files: unpaired annotation files.
        images: unpaired images, each after its `layout_key`.
        homes: folders, as in the keys, whose files are paired already.
    """
    if not files:
        return
    free: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for key, image in images:
        free.setdefault(key[-1], []).append((key[:-1], image))
    candidates: dict[Path, list[Path]] = {}
    unsure: set[Path] = set()
    for file in files:
        *folders, stem = layout_key(index.relative(file))
        here = tuple(folders)
        split_name = split_of_parts(here)
        by_overlap: dict[int, list[Path]] = {}
        for others, image in free.get(stem) or free.get(_bare(stem), []):
            paired_folders = 0 if others == here else (here in homes) + (others in homes)
            if paired_folders == 2 or (split_name and split_of_parts(others) not in ("", split_name)):
                continue
            by_overlap.setdefault(_shared_end(here, others), []).append(image)
            if paired_folders:
                unsure.add(file)
        if by_overlap:
            candidates[file] = by_overlap[max(by_overlap)]
    claims = Counter(image for nearest in candidates.values() for image in nearest)
    for file in files:
        nearest = candidates.get(file, [])
        if len(nearest) == 1 and claims[nearest[0]] == 1 and file not in unsure:
            pairs.file_of[nearest[0]] = file
        elif nearest:
            pairs.ambiguous[file] = nearest
        else:
            pairs.alone.append(file)


def layout_key(parts: tuple[str, ...], *, fold: bool = True) -> tuple[str, ...]:
    """The key that an image and its annotation file share: path parts without `images`, `labels` and the ending.

    Args:
        parts: the parts of the path.
        fold: ignore case.
    """
    folders = [part for part in parts[:-1] if (key := _key(part)) not in _OF_IMAGES and key not in _OF_FILES]
    if fold:
        return *map(_key, folders), stem_key(parts[-1])
    return *folders, os.path.splitext(parts[-1])[0]  # noqa: PTH122 - a name, not a path


def stem_key(name: str) -> str:
    """A file name without its ending, case-folded and with composed letters."""
    return _key(os.path.splitext(name)[0])  # noqa: PTH122 - a name, not a path; a hundred thousand times


def _bare(stem: str) -> str:
    """`0` for `0.jpg.txt` and `1a2b3c4d-0.txt`: without an image ending and without the prefix of an upload."""
    inner, ending = os.path.splitext(stem)  # noqa: PTH122 - a name, not a path
    return _UPLOAD_PREFIX.sub("", inner if ending in IMAGE_SUFFIXES else stem)


def _shared_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Number of last folders that two keys have in common."""
    return next((k for k, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))


def in_labels_folder(index: FileIndex, file: Path) -> bool:
    """Whether a file lies below a folder named like `labels` or `annotations`."""
    return any(_key(part) in _OF_FILES for part in index.relative(file)[:-1])


@lru_cache(maxsize=1 << 16)
def _key(text: str) -> str:
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
