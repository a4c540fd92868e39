"""Small and displayable copies of images: made on demand, few at a time, and kept in the project's cache."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.data.decode.images import upright as rotate_upright
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.errors import DISK_FULL, DataError
from detrkit.files import image_bytes, write_atomic
from detrkit.ops.value_range import ValueRange

SIDE = 256
"""Longest side of a thumbnail in pixels."""
LARGEST = 8192
"""Longest side of an image in the page Label; larger ones are shown smaller."""
AT_ONCE = 2
"""Images that are decoded at a time, whatever the page asks for."""
SHOWN_BY_BROWSERS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""Endings of files that are sent as they are, and their types."""

_HALF, _QUARTER, _EIGHTH = cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_8


class Thumbnails:
    """Makes and keeps small copies of images.

    Args:
        root: project folder.
        cache: folder of the copies.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache
        self._slots = threading.Semaphore(AT_ONCE)

    def key(self, path: Path) -> str:
        """A name for the present content of a file.

        Raises:
            OSError: it is not there.
        """
        state = path.stat()
        text = f"{path.relative_to(self.root)}\0{state.st_mtime_ns}\0{state.st_size}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def thumbnail(self, path: Path, info: ImageInfo, value_range: ValueRange | None) -> Path | bytes:
        """A small JPEG of an image: its file, or where the disk is full its content.

        Raises:
            DataError: the image cannot be decoded.
            OSError: it is not there, or the copy cannot be written.
        """
        return self._kept(f"{self.key(path)}.jpg", lambda: self._small(path, info, value_range))

    def displayable(self, path: Path, info: ImageInfo, value_range: ValueRange | None) -> tuple[Path | bytes, str]:
        """A file of an image that browsers show, and its type: the image itself where they can; see `thumbnail`.

        Raises:
            DataError: the image cannot be decoded.
            OSError: it is not there, or the copy cannot be written.
        """
        if info.problem == "image_too_large":
            raise DataError(f"cannot show {path.name}: {info.detail}, more than are decoded; cut it into tiles")
        kind = SHOWN_BY_BROWSERS.get(path.suffix.lower())
        if kind and not info.deep and not info.problem and max(info.width, info.height) <= LARGEST:
            return path, kind
        return self._kept(f"{self.key(path)}-large.jpg", lambda: self._large(path, value_range)), "image/jpeg"

    def _kept(self, name: str, make: Callable[[], npt.NDArray[np.uint8]]) -> Path | bytes:
        target = self.cache / name[:2] / name
        if not target.exists():
            with self._slots:
                if not target.exists():
                    content = image_bytes(make(), "JPEG")
                    try:
                        write_atomic(target, content)
                    except OSError as error:
                        if error.errno in DISK_FULL:
                            return content
                        raise
        return target

    def _small(self, path: Path, info: ImageInfo, value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
        reduction = min(info.width, info.height) // (2 * SIDE)
        if path.suffix.lower() in (".jpg", ".jpeg") and reduction >= 2 and not info.problem:
            flag = _EIGHTH if reduction >= 8 else _QUARTER if reduction >= 4 else _HALF
            data = np.frombuffer(path.read_bytes(), np.uint8)
            pixels = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None:
                turned = rotate_upright(np.asarray(pixels)[:, :, ::-1], info.orientation)
                return shrink(np.ascontiguousarray(turned), SIDE)
        return shrink(_decoded(path, value_range), SIDE)

    def _large(self, path: Path, value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
        return shrink(_decoded(path, value_range), LARGEST)


def shrink(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Shrink an image [H, W, 3] so that its longest side is at most `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _decoded(path: Path, value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings():  # a truncated image is a finding, and is shown as far as it goes
        warnings.simplefilter("ignore")
        image = read_image(path, value_range, unknown=ignore_unknown_range)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
