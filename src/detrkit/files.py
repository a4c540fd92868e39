"""Files that are either whole or not there."""

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
"""Of a run folder: where to go on, and the checkpoint that did best."""


def run_folder(source: str | Path) -> Path:
    """The run folder that a checkpoint lies in; of a folder, itself."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def checkpoint_in(source: str | Path, names: Sequence[str] = (BEST, LAST)) -> Path:
    """The file that a run folder stands for: the first of `names` that it has, or would have; of a file, itself."""
    path = Path(source)
    if not path.is_dir():
        return path
    return next((path / name for name in names if (path / name).is_file()), path / names[0])


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only if the block ends without an error.

    A kill, a full disk or an exception on the way leaves the old file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path`, all or nothing.

    What is no letter of a file name, a byte in another encoding, becomes `\\udcff`, which JSON and YAML read back.
    """
    with atomic_path(path) as aside:
        aside.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def save_image(path: str | Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an image (uint8 RGB [H, W, 3]) to `path`, all or nothing; the ending chooses the format (.jpg, .png, ...).

    Raises:
        DataError: the ending names no format that can be written.
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
