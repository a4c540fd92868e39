"""Picture files to tensors: whatever the file holds, out come 8-bit RGB pixels the way a viewer shows them.

OpenCV decodes plain JPEG, PNG and WebP (the same pixels as PIL, with less copying); PIL reads everything else.

    EXIF rotation      applied
    grey, 1-bit        repeated over the three channels
    palette, CMYK      converted to RGB
    transparency       dropped: the colour stored under it is kept, as PIL's convert("RGB") does
    16 bit             scaled, 65535 -> 255
    32 bit, float      scaled from the smallest of 0..1 (float only), 0..255 and 0..65535 that holds the picture
    several frames     the first one
    truncated          decoded as far as it goes, with a warning; the rest is grey or black
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from detrkit.errors import DataError

Pixels = npt.NDArray[Any]

_EXIF_ORIENTATION = 0x0112
_TOLERANCE_LOCK = threading.Lock()
_REMARKS_LOCK = threading.Lock()


def read_image(path: str | Path) -> Tensor:
    """Read a picture file.

    Returns:
        uint8 [3, H, W], RGB, upright. Its memory may be laid out [H, W, 3], which resizing likes best.

    Raises:
        DataError: the file is missing, or holds no picture that can be decoded.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the picture {path}: {error.strerror or error}") from error
    return decode_image(data, path)


def decode_image(data: bytes, path: str | Path) -> Tensor:
    """Decode the content of a picture file.

    Args:
        data: the bytes of the file.
        path: its name, for messages.

    Returns:
        See `read_image`.

    Raises:
        DataError: the bytes hold no picture that can be decoded.
    """
    try:
        with _without_remarks(), Image.open(io.BytesIO(data)) as image:
            plain, size = _is_plain(image, data), image.size
            orientation = _orientation(image, data) if plain else 1
        pixels, whole = _decode_plain(data, size) if plain else None, True
        if pixels is None:
            with _without_remarks(), Image.open(io.BytesIO(data)) as image:
                pixels, whole = _decode_any(image, data)
                orientation = _orientation(image, data)
    except Image.DecompressionBombError as error:
        raise DataError(f"the picture {path} is too large to decode safely: {error}") from error
    except UnidentifiedImageError as error:  # its message names our buffer, not the file
        raise DataError(f"expected a picture in {path}, found no image format that is known") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        raise DataError(f"expected a picture in {path}, but it cannot be decoded: {error}") from error
    if not whole:
        with _REMARKS_LOCK:  # else it could fall among the remarks
            warnings.warn(f"the picture {path} is truncated; what is missing stays grey or black", stacklevel=2)
    return _chw(_upright(pixels, orientation))


def to_tensor(image: str | Path | Image.Image | Pixels | Tensor) -> Tensor:
    """Any usual form of a picture as uint8 [3, H, W], RGB.

    Args:
        image: a path; a PIL image; a numpy array [H, W, 3] or [H, W] in RGB order (uint8, or uint16 with 65535 for
            white; a fourth channel is taken for transparency and dropped); or a tensor [3, H, W] or [1, H, W], uint8
            or float in 0..1.

    Raises:
        DataError: the file cannot be read, or the array has another shape or type, or is empty, or it is none of these.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _chw(_upright(_to_rgb8(image), image.getexif().get(_EXIF_ORIENTATION, 1)))
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(f"expected a picture as a path, PIL image, numpy array or tensor, found {type(image).__name__}")
    if 0 in image.shape:
        raise DataError(f"expected a picture of at least 1 x 1 pixels, found shape {tuple(image.shape)}")
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in (np.uint8, np.uint16):
            raise DataError(
                "expected a picture as a numpy array [H, W, 3] or [H, W] of uint8 in RGB order, "
                f"found shape {image.shape} of {image.dtype}"
            )
        if image.dtype == np.uint16:
            image = _scale_16(image)
        return _chw(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3])
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise DataError(
            "expected a picture as a tensor [3, H, W], uint8 or float in 0..1, "
            f"found shape {tuple(image.shape)} of {image.dtype}"
        )
    if image.is_floating_point():
        low, high = (float(v) for v in image.aminmax())
        if not (low >= 0 and high <= 1):
            raise DataError(f"expected a float picture with values in 0..1, found {low:.4g} to {high:.4g}")
        image = (image * 255).round().to(torch.uint8)
    return image.expand(3, -1, -1)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """PIL keeps its remarks about odd metadata to itself inside this block, where one thread is at a time: Python's
    list of warnings to ignore is one a process."""
    with _REMARKS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV can decode it as well as PIL: a whole JPEG, PNG or WebP in 8-bit RGB or grey."""
    if image.format not in ("JPEG", "PNG", "WEBP") or image.mode not in ("RGB", "L"):
        return False
    if getattr(image, "n_frames", 1) > 1 or image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**30):
        return False
    return image.format != "JPEG" or data.endswith(b"\xff\xd9")  # else perhaps truncated, which only PIL reports


def _decode_plain(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """[H, W, 3] of a plain picture of (width, height), or None where PIL must do it after all."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[1::-1] != size:
        return None
    return np.asarray(pixels)


def _decode_any(image: Image.Image, data: bytes) -> tuple[Pixels, bool]:
    """[H, W, 3] through PIL, and whether the file was whole."""
    try:
        return _to_rgb8(image), True
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        with _tolerant(), Image.open(io.BytesIO(data)) as again:
            return _to_rgb8(again), False


@contextmanager
def _tolerant() -> Iterator[None]:
    """PIL decodes truncated files inside this block. The switch is PIL's, one a process."""
    with _TOLERANCE_LOCK:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb8(image: Image.Image) -> Pixels:
    """uint8 [H, W, 3] of a PIL image in any mode."""
    if image.mode.startswith("I;16"):
        return _grey(_scale_16(np.asarray(image)))
    if image.mode in ("I", "F"):
        return _grey(_scale_wide(np.asarray(image)))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _grey(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, None], 3, axis=2)


def _scale_16(pixels: Pixels) -> Pixels:
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scale_wide(pixels: Pixels) -> Pixels:
    values = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)
    high = values.max(initial=0.0)
    white = 1.0 if pixels.dtype.kind == "f" and high <= 1 else 255.0 if high <= 255 else 65535.0
    return np.rint(values.clip(0, white) * (255.0 / white)).astype(np.uint8)


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8. PIL decodes a whole PNG to look for it, so look for a trace first."""
    if image.format == "PNG" and not any(
        trace in data for trace in (b"eXIf", b"Raw profile type", b"tiff:Orientation")
    ):
        return 1
    return int(image.getexif().get(_EXIF_ORIENTATION, 1))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """[H, W, 3] turned as EXIF says (TIFF 6.0, tag 274): 2-4 mirror and turn by 180 degrees, 5-8 swap the axes too."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _chw(pixels: Pixels) -> Tensor:
    pixels = np.ascontiguousarray(pixels)
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)
