"""Sources that a user names: images, folders, globs and videos. Files that are not read are mentioned in a warning."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from detrkit.data.files.file_index import FileIndex
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.shards.packed_index import is_member, is_packed, packed_files
from detrkit.errors import DataError

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".m2ts", ".flv", ".f4v",
    ".3gp", ".3g2", ".ogv", ".mpe", ".m2v", ".vob", ".asf", ".divx", ".mxf", ".dv", ".h264", ".264", ".h265", ".265",
    ".hevc", ".mjpeg", ".mjpg", ".y4m", ".ivf",
)  # fmt: skip
"""Endings by which videos are known; OpenCV decodes them."""

STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms", "mmsh", "v4l2", "ndi")
"""Schemes of addresses of cameras and other live streams."""

MAX_SOURCE_TEXT = 120
"""Characters of a wrong source that a message repeats."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)


@dataclass(frozen=True)
class SourceFile:
    """An image or video file."""

    path: Path
    name: str
    """Relative name for files that are made of it, with forward slashes; unique, and never outside of a folder."""

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return is_video(self.path)


def is_video(source: str | Path) -> bool:
    """Whether a path is the name of a video file."""
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not is_several(source)


def is_several(source: str | Path) -> bool:
    """Whether a path stands for several files: a folder, or a glob (unless a file of that very name exists)."""
    mode = _mode(source)
    return stat.S_ISDIR(mode) if mode else glob.has_magic(str(source)) and not _address(str(source))


def as_path(source: str | os.PathLike[str] | os.PathLike[bytes]) -> Path:
    """The path of a file, folder or glob that a user names, `~` replaced by the home folder.

    Raises:
        DataError: it is neither a file nor a folder nor a glob; the message says what it seems to be.
    """
    text = os.fsdecode(source)
    if text.startswith("file:///"):
        text = unquote(text.removeprefix("file://"))
    path = Path(os.path.expanduser(text))  # noqa: PTH111  (Path's own has no answer for a `~name` that is nobody)
    mode = _mode(path)
    if mode and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        if not text.strip():
            raise DataError("expected the path of an image, folder, glob or video, found an empty text")
        return path
    if not mode and is_several(path):
        return path
    raise DataError(_why_not(text, mode))


def find_images(source: str | Path) -> list[Path]:
    """Find the images in a folder with its subfolders, links followed, or those of a glob; sorted by name.

    Hidden files and folders are skipped. A warning counts files that do not end like an image. Those of packed data are
    in the order of the data set.

    Raises:
        DataError: there are none.
    """
    if is_packed(Path(source)):
        return [path for path, _ in packed_files(source)]
    return _chosen(source, _expand(source), IMAGE_SUFFIXES, "images")


def find_sources(sources: str | Sequence[str], *, output_dir: Path) -> list[SourceFile]:
    """Find all files that the command line names, each once, with a name for its annotated copy.

    A file keeps its name. A file in a folder or glob is named by its relative path, under the folder's own name if
    there are several folders. Where two names would be equal (upper and lower case aside), the later one gets a number.

    Args:
        sources: files, folders (searched with their subfolders), globs.
        output_dir: where copies go; is skipped if it lies in a folder to be searched.

    Raises:
        DataError: a source does not exist, or holds neither images nor videos.
    """
    given = [as_path(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    several_folders = sum(source.is_dir() for source in given) > 1
    named: dict[Path, tuple[Path, Path]] = {}  # resolved -> as given, relative name
    for source in given:
        below = Path(source.resolve().name if several_folders and source.is_dir() else "")
        for path, name in _with_names(source, output_dir.resolve()):
            named.setdefault(path.resolve(), (path, below / name))
    taken: set[str] = set()
    files = []
    for path, name in named.values():
        copy = _copy_name(name)
        number = 2
        while copy.as_posix().casefold() in taken:
            copy = _copy_name(name.with_stem(f"{name.stem}-{number}"))
            number += 1
        taken.add(copy.as_posix().casefold())
        files.append(SourceFile(path, copy.as_posix()))
    return files


def image_ids(files: Iterable[SourceFile]) -> dict[Path, int]:
    """COCO image ids: the number that a file is named by (000000000139.jpg is 139), else the next free number.

    Of images with the same number, as in two folders, all but the first get the next free one.
    """
    paths = [file.path for file in files]
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


def _with_names(path: Path, output_dir: Path) -> list[tuple[Path, Path]]:
    if not is_several(path):
        return [(path, Path(path.name))]
    if is_packed(path):
        return [(file, Path(name)) for file, name in packed_files(path)]
    root = path if path.is_dir() else _root_of(str(path))
    files = _expand(path)
    if output_dir.is_relative_to(root.resolve()) and output_dir != root.resolve():  # copies of an earlier run
        files = [file for file in files if not file.resolve().is_relative_to(output_dir)]
    kept = _chosen(path, files, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES), "images or videos")
    return [(file, file.relative_to(root)) for file in kept]


def _chosen(source: str | Path, files: Sequence[Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """Select the files with these endings; a warning counts the others by their endings."""
    kept = [file for file in files if file.suffix.lower() in suffixes]
    endings = Counter(file.suffix.lower() or "no ending" for file in files if file.suffix.lower() not in suffixes)
    others = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    if not kept:
        present = f"only {others}; these are read: {', '.join(s[1:] for s in suffixes)}" if others else "none"
        raise DataError(f"expected {what} in {source}, found {present}; look at the path")
    if others:
        count = endings.total()
        warnings.warn(
            f"{count} file{'s' if count > 1 else ''} in {source} {'are' if count > 1 else 'is'} left out, since only "
            f"{what} are read there: {others}",
            stacklevel=2,
        )
    return kept


def _expand(source: str | Path) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        try:
            return sorted(Path(file) for file in FileIndex(path).files)
        except OSError as error:
            raise DataError(f"cannot look into {error.filename or path}: {error.strerror or error}") from error
    names = glob.glob(_as_pattern(str(source)), recursive=True)  # noqa: PTH207
    return sorted(Path(name) for name in names if Path(name).is_file())


def _mode(path: str | Path) -> int:
    """The kind of file at a path, as in `os.stat_result.st_mode`; 0: none.

    Raises:
        DataError: access is denied.
    """
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except ValueError:  # a null byte
        return 0
    except OSError as error:
        if error.errno in _NOT_THERE:
            return stat.S_IFREG if Path(path).parent.is_file() and is_member(Path(path)) else 0
        raise DataError(f"cannot look at {path}: {error.strerror or error}") from error


def _address(text: str) -> str:
    """The scheme of an address such as https://...; empty: it is none. `Path` makes one slash of two."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    return scheme[1].lower() if scheme else ""


def _why_not(text: str, mode: int) -> str:
    """The message for a source that is neither a file nor a folder nor a glob."""
    shown = text if len(text) <= MAX_SOURCE_TEXT else f"{text[:MAX_SOURCE_TEXT]}..."
    scheme = _address(text)
    if scheme in STREAMS or (mode and not stat.S_ISFIFO(mode)) or re.fullmatch(r"\d\d?|/dev/video\d+", text):
        return (
            f"expected an image, folder, glob or video file, found the camera, device or live stream {shown}, which is "
            "read by `detrkit predict` with --track and by detrkit.track; else read its frames with OpenCV and give "
            "them to Detector.stream, see docs/predict.md"
        )
    if mode or text == "-":
        return f"expected a file, found the pipe {shown}; write what comes out of it to a file first"
    if text.startswith("data:") or len(text) > 1000:
        return (
            f"expected a path, found a text that looks like an image in base64 ({shown}); give its bytes: "
            "base64.b64decode(text), without what stands before a comma"
        )
    if scheme:
        return (
            f"expected a file, found the address {shown}; nothing is fetched by itself, so download it first (for "
            "example with: curl -O ADDRESS) and give the file"
        )
    return f"expected an image, folder, glob or video at {shown or 'an empty text'}, found nothing; look at the path"


def _root_of(pattern: str) -> Path:
    """The folder that a glob begins with: its leading parts that are folders."""
    *folders, _ = Path(pattern).parts
    root = Path()
    for part in folders:
        if not (root / part).is_dir():
            break
        root /= part
    return root


def _as_pattern(source: str) -> str:
    """Escape the folder that a glob begins with, so that `a [1]/*.jpg` searches the folder `a [1]`."""
    root = _root_of(source)
    return str(Path(glob.escape(str(root))) / Path(source).relative_to(root))


def _copy_name(name: Path) -> Path:
    """The name of an annotated copy: usual image formats keep their ending, others become png, videos mp4."""
    suffix = name.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return name.with_suffix(".mp4")
    return name if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff") else name.with_suffix(".png")
