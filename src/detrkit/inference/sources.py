"""What a user points at by name: images, folders, globs and videos, found and named; what is not read is told."""

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
from detrkit.errors import DataError

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".m2ts", ".flv", ".f4v",
    ".3gp", ".3g2", ".ogv", ".mpe", ".m2v", ".vob", ".asf", ".divx", ".mxf", ".dv", ".h264", ".264", ".h265", ".265",
    ".hevc", ".mjpeg", ".mjpg", ".y4m", ".ivf",
)  # fmt: skip
"""Endings by which videos are known; OpenCV decodes them."""

STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms", "mmsh", "v4l2", "ndi")
"""Schemes of addresses behind which there are cameras and other live streams."""

TOLD_CHARACTERS = 120
"""Characters of a wrong source that a message repeats."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)


@dataclass(frozen=True)
class SourceFile:
    """One image or video to look at."""

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
    mode = _mode(source)
    return stat.S_ISDIR(mode) if mode else glob.has_magic(str(source)) and not _address(str(source))


def as_path(source: str | os.PathLike[str] | os.PathLike[bytes]) -> Path:
    """The path of a file, folder or glob that a user names, `~` replaced by the home folder.

    Raises:
        DataError: it is neither a file nor a folder nor a glob; the sentence says what it seems to be.
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
    """The images in a folder and the folders in it, linked ones too, or those that a glob names; sorted by name.

    Hidden files and folders are passed over. A warning counts what does not end like an image.

    Raises:
        DataError: there are none.
    """
    return _chosen(source, _expand(source), IMAGE_SUFFIXES, "images")


def find_sources(sources: str | Sequence[str], *, output_dir: Path) -> list[SourceFile]:
    """Everything that the command line names, each file once, with a name for its annotated copy.

    A file is named as it is; what a folder or glob holds, by its place in there, under the folder's own name if there
    are several folders. Where two would have the same name (or names that differ in upper and lower case only), the
    later one gets a number.

    Args:
        sources: files, folders (searched with the folders in them), globs.
        output_dir: where copies go; if it lies in a folder to be searched, it is passed over.

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
    found = []
    for path, name in named.values():
        copy = _copy_name(name)
        number = 2
        while copy.as_posix().casefold() in taken:
            copy = _copy_name(name.with_stem(f"{name.stem}-{number}"))
            number += 1
        taken.add(copy.as_posix().casefold())
        found.append(SourceFile(path, copy.as_posix()))
    return found


def image_ids(found: Iterable[SourceFile]) -> dict[Path, int]:
    """COCO image ids for images: the number a file is named by (000000000139.jpg is 139), else the next free one.

    Of images with the same number, in two folders say, all but the first get the next free one.
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


def _with_names(path: Path, output_dir: Path) -> list[tuple[Path, Path]]:
    if not is_several(path):
        return [(path, Path(path.name))]
    root = path if path.is_dir() else _root_of(str(path))
    found = _expand(path)
    if output_dir.is_relative_to(root.resolve()) and output_dir != root.resolve():  # copies of an earlier run
        found = [file for file in found if not file.resolve().is_relative_to(output_dir)]
    kept = _chosen(path, found, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES), "images or videos")
    return [(file, file.relative_to(root)) for file in kept]


def _chosen(source: str | Path, found: Sequence[Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """The files with some endings; a warning names the other endings with their numbers."""
    kept = [file for file in found if file.suffix.lower() in suffixes]
    endings = Counter(file.suffix.lower() or "no ending" for file in found if file.suffix.lower() not in suffixes)
    others = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    if not kept:
        told = f"only {others}; these are read: {', '.join(s[1:] for s in suffixes)}" if others else "none"
        raise DataError(f"expected {what} in {source}, found {told}; look at the path")
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
    """What kind of file there is, as in `os.stat_result.st_mode`; 0: none.

    Raises:
        DataError: one may not look.
    """
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except ValueError:  # a null byte
        return 0
    except OSError as error:
        if error.errno in _NOT_THERE:
            return 0
        raise DataError(f"cannot look at {path}: {error.strerror or error}") from error


def _address(text: str) -> str:
    """The scheme of an address such as https://...; empty: it is none. `Path` makes one slash of two."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    return found[1].lower() if found else ""


def _why_not(text: str, mode: int) -> str:
    """A sentence about a source that is neither a file nor a folder nor a glob."""
    shown = text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}..."
    scheme = _address(text)
    if scheme in STREAMS or (mode and not stat.S_ISFIFO(mode)) or re.fullmatch(r"\d\d?|/dev/video\d+", text):
        return (
            f"expected an image, folder, glob or video file, found the camera, device or live stream {shown}, which is "
            "not opened by name; read its frames with OpenCV and give them to Detector.stream, see docs/predict.md"
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
    """The name of an annotated copy: images that lose nothing keep their ending, videos become mp4."""
    suffix = name.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return name.with_suffix(".mp4")
    return name if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff") else name.with_suffix(".png")
