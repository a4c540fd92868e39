"""Write files and folders atomically: each is either complete or absent. Also the names of files in run folders."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from detrkit.errors import DISK_FULL, ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


ONNX_OPSET = 18
"""Of exported ONNX files. The first with all that the graph needs; the older, the more runtimes can read it."""


LAST, BEST = "last.ckpt", "best.ckpt"
"""Checkpoints of a run folder: the latest, to resume from, and the best."""
PROCESS = "process.json"
"""File of a run folder: the process that trains in it, and how far it is."""
FOLDS = "folds.json"
"""File of a folder of folds: their settings, and the fold of each image."""
DETECTIONS, GROUND_TRUTH = "detections.json", "annotations.json"
"""Files of a folder of folds: the detections of each image by the model that has not seen it, and the ground truth."""


def run_folder(source: str | Path) -> Path:
    """The run folder of a checkpoint; a folder is returned as it is."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def checkpoint_in(source: str | Path, names: Sequence[str] = (BEST, LAST)) -> Path:
    """The checkpoint of a run folder: the first of `names` that exists, else the first; a file is returned as it is."""
    path = Path(source)
    if not path.is_dir():
        return path
    return next((path / name for name in names if (path / name).is_file()), path / names[0])


def refuse_folder(path: str | Path) -> None:
    """Raise `DataError` if a file cannot be written to `path` because a folder is there."""
    if Path(path).is_dir():
        raise DataError(f"expected the name of a file to write, found the folder {path}; name a file in it")


@contextlib.contextmanager
def naming_full_disk(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let the error of a full disk name what is written, not a file beside it, or none.

    Args:
        path: file or folder that is written.
        temporary: where it lies meanwhile.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and (
            error.filename is None or (temporary and Path(error.filename).is_relative_to(temporary))
        ):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` if the block ends without an error.

    If the process is killed, the disk is full or an exception is raised, the old file stays as it was.

    Raises:
        DataError: `path` is a folder.
    """
    path = Path(path)
    refuse_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming_full_disk(path, temporary):
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which is renamed to `path` if the block ends without an error.

    Nothing is overwritten. If the process is killed, a hidden folder `.NAME-...` is left beside `path`.

    Raises:
        ConfigError: at `path` is a file, or a folder that is not empty.
    """
    path = Path(path).resolve()
    expect_new_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        with naming_full_disk(path, temporary):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        expect_new_folder(path)
        if path.is_dir():
            path.rmdir()  # Windows does not rename to an existing folder
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def expect_new_folder(path: str | Path) -> None:
    """Refuse a folder to write to that has content.

    Raises:
        ConfigError: at `path` is a file, or a folder that is not empty.
    """
    path = Path(path)
    if path.is_dir():
        first = min((entry.name for entry in path.iterdir()), default="")
        if first:
            raise ConfigError(
                f"expected a new or empty folder to write to, found {first} in {path}; nothing is overwritten, so name "
                "another folder, or move this one away"
            )
    elif path.exists() or path.is_symlink():
        raise ConfigError(f"expected a new or empty folder to write to, found a file at {path}; name another folder")


class JsonRows:
    """A list in a JSON file that is written one row at a time, so that memory stays flat.

    Args:
        file: text file to write to.
        head: the text before the rows, such as `{"annotations": [`.
    """

    def __init__(self, file: IO[str], head: str) -> None:
        self.count = 0
        self._file = file
        self._file.write(head)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._file.write(("," if self.count else "") + "\n" + json.dumps(row, ensure_ascii=False))
        self.count += 1

    def close(self, tail: str) -> None:
        """Write the text after the rows."""
        self._file.write(tail)


def open_text(path: Path) -> IO[str]:
    """Open a new text file (UTF-8) and its folder; what is no valid text becomes `\\udcff`, as in `write_atomic`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", newline="", errors="backslashreplace")


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` atomically.

    Bytes of file names that are no valid text are written as `\\udcff`, which JSON and YAML read back.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def save_tensors(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data to `path` atomically, in the format of `torch.save`.

    Raises:
        OSError: they cannot be written. The writer of torch itself raises its own RuntimeError for a full disk.
    """
    import torch

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def append_whole(file: io.FileIO, content: bytes, path: Path, *, sync: bool = False) -> None:
    """Append to a file that is open without a buffer: all of the content, or nothing.

    Args:
        file: opened to append.
        content: a line, for example.
        path: of the file, for errors.
        sync: wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    start = file.seek(0, os.SEEK_END)
    try:
        with naming_full_disk(path):
            while content:
                content = content[file.write(content) :]  # a full disk takes a part, and then raises
            if sync:
                os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise


def save_image(path: str | Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an image, uint8 RGB [H, W, 3], to `path` atomically, in the format of its ending (.jpg, .png, ...).

    Raises:
        DataError: the ending is that of no writable format.
    """
    from PIL import Image

    path = Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in Image.SAVE:
        raise DataError(f"expected a file name ending in .jpg or .png for an image, found {path.name}")
    write_atomic(path, image_bytes(image, str(image_format)))


def image_bytes(image: npt.NDArray[np.uint8], image_format: str) -> bytes:
    """The file of an image, uint8 RGB [H, W, 3], in a format of Pillow."""
    from PIL import Image

    content = io.BytesIO()
    options = {"quality": 92} if image_format == "JPEG" else {}
    Image.fromarray(image).save(content, format=image_format, **options)
    return content.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
