"""What a user points at: pictures, folders, globs and videos, found and named."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Found:
    """One picture or video to look at."""

    path: Path
    name: str
    """Relative name for what is made of it, with forward slashes; unique, never leading out of a folder."""

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return is_video(self.path)


def is_video(source: str | Path) -> bool:
    """Whether a path is the name of a video file."""
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not is_several(source)


def is_several(source: str | Path) -> bool:
    """Whether a path stands for several files: a folder, or a glob (unless a file of that very name exists)."""
    path = Path(source)
    return path.is_dir() or (glob.has_magic(str(source)) and not path.exists())


def find_pictures(source: str | Path) -> list[Path]:
    """The pictures in a folder and the folders in it, or those that a glob names; sorted by name.

    Hidden files and folders are passed over, and so is what does not end like a picture.

    Raises:
        DataError: there are none.
    """
    found = [path for path in _expand(source) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DataError(
            f"expected pictures ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) in {source}, found none; look at the path"
        )
    return found


def find_sources(sources: Sequence[str], *, output_dir: Path) -> list[Found]:
    """Everything that the command line names, each file once, with a name for its annotated copy.

    A file is named as it is; what a folder or glob holds, by its place in there, under the folder's own name if there
    are several folders. Where two would have the same name (or names that differ in upper and lower case only), the
    later one gets a number.

    Args:
        sources: files, folders (searched with the folders in them), globs.
        output_dir: where copies go; if it lies in a folder to be searched, it is passed over.

    Raises:
        DataError: a source does not exist, or holds neither pictures nor videos.
    """
    several_folders = sum(Path(source).is_dir() for source in sources) > 1
    named: dict[Path, tuple[Path, Path]] = {}  # resolved -> as given, relative name
    for source in sources:
        below = Path(Path(source).resolve().name if several_folders and Path(source).is_dir() else "")
        for path, name in _with_names(source, output_dir.resolve()):
            named.setdefault(path.resolve(), (path, below / name))
    taken: set[str] = set()
    found = []
    for path, name in named.values():
        copy = _copy_name(name)
        number = 2
        while copy.as_posix().casefold() in taken:
            copy = _copy_name(name.with_stem(f"{name.stem}-{number}"))
            number += 1
        taken.add(copy.as_posix().casefold())
        found.append(Found(path, copy.as_posix()))
    return found


def image_ids(found: Iterable[Found]) -> dict[Path, int]:
    """COCO image ids for pictures: the number a file is named by (000000000139.jpg is 139), else the next free one.

    Of pictures with the same number, in two folders say, all but the first get the next free one.
    """
    paths = [item.path for item in found]
    ids: dict[Path, int] = {}
    taken: set[int] = set()
    for path in paths:
        if re.fullmatch(r"[0-9]{1,18}", path.stem) and int(path.stem) not in taken:
            ids[path] = int(path.stem)
            taken.add(ids[path])
    number = 0
    for path in paths:
        if path not in ids:
            number += 1
            while number in taken:
                number += 1
            ids[path] = number
    return {path: ids[path] for path in paths}


def _with_names(source: str, output_dir: Path) -> list[tuple[Path, Path]]:
    path = Path(source)
    if not is_several(source):
        if not path.is_file():
            raise DataError(f"expected a picture, folder, glob or video at {source}, found nothing; look at the path")
        return [(path, Path(path.name))]
    root = path if path.is_dir() else _root_of(source)
    kept = [file for file in _expand(source) if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    if output_dir.is_relative_to(root.resolve()) and output_dir != root.resolve():  # copies of an earlier run
        kept = [file for file in kept if not file.resolve().is_relative_to(output_dir)]
    if not kept:
        raise DataError(f"expected pictures or videos in {source}, found none; look at the path")
    return [(file, file.relative_to(root)) for file in kept]


def _expand(source: str | Path) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        files = [
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    else:
        files = [Path(name) for name in glob.glob(_as_pattern(str(source)), recursive=True) if Path(name).is_file()]  # noqa: PTH207
    return sorted(files)


def _root_of(pattern: str) -> Path:
    """The folder that a glob begins with: its parts before the first that is none by its very name."""
    *folders, _ = Path(pattern).parts
    root = Path()
    for part in folders:
        if not (root / part).is_dir():
            break
        root /= part
    return root


def _as_pattern(source: str) -> str:
    """A glob with the signs of the folder that it begins with taken as they are: `a [1]/*.jpg` looks into `a [1]`."""
    root = _root_of(source)
    return str(Path(glob.escape(str(root))) / Path(source).relative_to(root))


def _copy_name(name: Path) -> Path:
    """The name of an annotated copy: pictures that lose nothing keep their ending, videos become mp4."""
    suffix = name.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return name.with_suffix(".mp4")
    return name if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff") else name.with_suffix(".png")
