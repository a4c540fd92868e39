"""Which annotation file belongs to which image, in formats with one file per image.

The folders of both are compared without the words that only tell images from annotations: `images/train/a.jpg`,
`train/images/a.JPG` and `train/a.jpg` all belong to `labels/train/a.txt`. Upper and lower case are alike, unless names
differ in nothing else. What is left is paired by its name and the end of its folders, where only one file and one
image can be meant: never across splits, and never where one of both lies in a folder whose other files have partners.
What may belong together, but is not certain to, is told apart from what has no partner.
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
"""What Label Studio puts before the name of an uploaded file."""


@dataclass
class Pairs:
    """What belongs together."""

    file_of: dict[Path, Path] = field(default_factory=dict)
    """Image -> its annotation file."""
    shared: dict[Path, list[Path]] = field(default_factory=dict)
    """Annotation file -> its images, where it fits several."""
    doubled: dict[Path, Path] = field(default_factory=dict)
    """Annotation file that is not used -> the one that was preferred for the same image."""
    alone: list[Path] = field(default_factory=list)
    """Annotation files without an image."""
    ambiguous: dict[Path, list[Path]] = field(default_factory=dict)
    """Annotation file without an image of its own -> images without a file, of which nothing tells the one meant."""


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
    """Pair files and images that are alike but for upper and lower case and endings; the first file is preferred."""
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
    """Pair what has no partner by the name and the end of the folders, where one of each can be meant.

    Args:
        pairs: is filled.
        index: the data set.
        files: without a partner.
        images: with their keys, likewise.
        homes: folders, as in the keys, whose files have partners.
    """
    if not files:
        return
    free: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for key, image in images:
        free.setdefault(key[-1], []).append((key[:-1], image))
    wanted: dict[Path, list[Path]] = {}
    unsure: set[Path] = set()
    for file in files:
        *folders, stem = layout_key(index.relative(file))
        here = tuple(folders)
        split_name = split_of_parts(here)
        near: dict[int, list[Path]] = {}
        for others, image in free.get(stem) or free.get(_bare(stem), []):
            settled = 0 if others == here else (here in homes) + (others in homes)
            if settled == 2 or (split_name and split_of_parts(others) not in ("", split_name)):
                continue
            near.setdefault(_shared_end(here, others), []).append(image)
            if settled:
                unsure.add(file)
        if near:
            wanted[file] = near[max(near)]
    claims = Counter(image for some in wanted.values() for image in some)
    for file in files:
        some = wanted.get(file, [])
        if len(some) == 1 and claims[some[0]] == 1 and file not in unsure:
            pairs.file_of[some[0]] = file
        elif some:
            pairs.ambiguous[file] = some
        else:
            pairs.alone.append(file)


def layout_key(parts: tuple[str, ...], *, fold: bool = True) -> tuple[str, ...]:
    """What the paths of an image and its annotation file share: folders less the usual words, name without ending.

    Args:
        parts: of the path.
        fold: take upper and lower case for alike.
    """
    folders = [part for part in parts[:-1] if (key := _key(part)) not in _OF_IMAGES and key not in _OF_FILES]
    if fold:
        return *map(_key, folders), stem_key(parts[-1])
    return *folders, os.path.splitext(parts[-1])[0]  # noqa: PTH122 - a name, not a path


def stem_key(name: str) -> str:
    """A name without its ending, upper and lower case and composed and decomposed letters being alike."""
    return _key(os.path.splitext(name)[0])  # noqa: PTH122 - a name, not a path; a hundred thousand times


def _bare(stem: str) -> str:
    """`0` of `0.jpg.txt` and `1a2b3c4d-0.txt`: tools keep the ending of the image, or put a number before its name."""
    inner, ending = os.path.splitext(stem)  # noqa: PTH122 - a name, not a path
    return _UPLOAD_PREFIX.sub("", inner if ending in IMAGE_SUFFIXES else stem)


def _shared_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many of their last folders two keys share."""
    return next((k for k, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))


def in_labels_folder(index: FileIndex, file: Path) -> bool:
    """Whether a folder above a file is called as those of annotations are."""
    return any(_key(part) in _OF_FILES for part in index.relative(file)[:-1])


@lru_cache(maxsize=1 << 16)
def _key(text: str) -> str:
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
