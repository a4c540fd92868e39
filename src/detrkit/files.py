"""Write files atomically: a file is either complete or absent. Also the names of files in run folders."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


ONNX_OPSET = 18
"""Of exported ONNX files. The first with all that the graph needs; the older, the more runtimes can read it."""


LAST, BEST = "last.ckpt", "best.ckpt"
"""Checkpoints of a run folder: the latest, to resume from, and the best."""


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


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` if the block ends without an error.

    If the process is killed, the disk is full or an exception is raised, the old file stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` atomically.

    Bytes of file names that are no valid text are written as `\\udcff`, which JSON and YAML read back.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


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
    content = io.BytesIO()
    options = {"quality": 92} if image_format == "JPEG" else {}
    Image.fromarray(image).save(content, format=image_format, **options)
    write_atomic(path, content.getvalue())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
