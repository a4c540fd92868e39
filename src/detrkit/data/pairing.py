"""Which annotation file belongs to which image, in formats with one file per image.

The folders of both are compared without the words that only tell images from annotations: `images/train/a.jpg`,
`train/images/a.JPG` and `train/a.jpg` all belong to `labels/train/a.txt`. What is left is paired by the name alone,
where only one file and one image have it. Upper and lower case are alike.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from detrkit.data.file_index import FileIndex

_OF_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pngimages", "pictures", "photos", "图片", "图像"}
_OF_FILES = {"labels", "label", "lables", "lable", "annotations", "annotation", "xml", "xmls", "txt", "标签", "标注"}


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
    left: list[Path] = []
    first: dict[tuple[str, ...], Path] = {}
    for file in sorted(files, key=lambda path: not in_labels_folder(index, path)):
        key = layout_key(index.relative(file))
        own = by_key.get(key)
        if not own:
            left.append(file)
        elif key in first:
            pairs.doubled[file] = first[key]
        else:
            first[key] = file
            pairs.file_of.update(dict.fromkeys(own, file))
            if len(own) > 1:
                pairs.shared[file] = own
    _by_name_alone(pairs, left, [image for some in by_key.values() for image in some])
    return pairs


def _by_name_alone(pairs: Pairs, files: list[Path], images: list[Path]) -> None:
    """Pair files and images without a partner whose names occur once among them."""
    free: dict[str, list[Path]] = {}
    for image in images:
        if image not in pairs.file_of:
            free.setdefault(stem_key(image.name), []).append(image)
    waiting: dict[str, list[Path]] = {}
    for file in files:
        waiting.setdefault(stem_key(file.name), []).append(file)
    for stem, some in waiting.items():
        if len(some) == 1 and len(free.get(stem, [])) == 1:
            pairs.file_of[free[stem][0]] = some[0]
        else:
            pairs.alone += some


def layout_key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What the paths of an image and its annotation file share: folders less the usual words, name without ending."""
    folders = [key for part in parts[:-1] if (key := _key(part)) not in _OF_IMAGES and key not in _OF_FILES]
    return *folders, stem_key(parts[-1])


def stem_key(name: str) -> str:
    """A name without its ending, upper and lower case and composed and decomposed letters being alike."""
    return _key(os.path.splitext(name)[0])  # noqa: PTH122 - a name, not a path; a hundred thousand times


def in_labels_folder(index: FileIndex, file: Path) -> bool:
    """Whether a folder above a file is called as those of annotations are."""
    return any(_key(part) in _OF_FILES for part in index.relative(file)[:-1])


@lru_cache(maxsize=1 << 16)
def _key(text: str) -> str:
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
