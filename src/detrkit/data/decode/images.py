"""Decode image files to 8-bit RGB tensors, upright, as an image viewer shows them.

OpenCV decodes plain JPEG, PNG and WebP (the same pixels as PIL, with less copying), and color of more than 8 bits,
which PIL would reduce to 8; PIL reads everything else.

    EXIF rotation      applied
    gray, 1-bit        repeated over the three channels
    palette, CMYK      converted to RGB
    transparency       dropped: the stored color is kept, as PIL's convert("RGB") does
    16, 32 bit, float  scaled by a `ValueRange`, by default that of the data type; never by the range of the image
    several frames     the first one
    truncated          decoded as far as possible, with a warning; the rest is gray or black
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from detrkit.data.shards.packed_index import read_file
from detrkit.errors import DataError, DetrkitWarning
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange, Values, default_range

Pixels = npt.NDArray[Any]
UnknownRangeHandler = Callable[[str], object]
"""Called with a message when an image has more than 8 bits and no value range is known."""

TOO_LARGE = (
    "it has more than 178 million pixels, and is not decoded since it might exhaust the memory; cut it into tiles or "
    "make it smaller"
)
"""The limit is PIL's: twice `Image.MAX_IMAGE_PIXELS`."""

_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_TOLERANCE_LOCK = threading.Lock()
_WARNINGS_LOCK = threading.Lock()


def warn_unknown_range(sentence: str) -> None:
    """Warn that no value range is known: the default handler."""
    warnings.warn(DetrkitWarning(sentence), stacklevel=2)


def ignore_unknown_range(sentence: str) -> None:
    """Do nothing: for checked data, whose check has reported it."""


def read_image(
    path: str | Path, value_range: ValueRange | None = None, *, unknown: UnknownRangeHandler = warn_unknown_range
) -> Tensor:
    """Read an image file.

    Args:
        path: the file.
        value_range: values that become 0 and 255 in images of more than 8 bits; None: the range of the data type, see
            `default_range`. Images of 8 bits stay as they are.
        unknown: called with a message if `value_range` is None and the image has more than 8 bits.

    Returns:
        uint8 [3, H, W], RGB, upright. The memory layout may be [H, W, 3], which is fastest to resize.

    Raises:
        DataError: the file is missing, or holds no image that can be decoded.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error
    return decode_image(data, path, value_range, unknown=unknown)


def decode_image(
    data: bytes,
    path: str | Path,
    value_range: ValueRange | None = None,
    *,
    unknown: UnknownRangeHandler = warn_unknown_range,
    partial: bool = True,
) -> Tensor:
    """Decode the content of an image file.

    Args:
        data: the bytes of the file.
        path: path of the file, for messages.
        value_range, unknown: see `read_image`.
        partial: decode truncated files as far as possible, with a warning; False: they are errors.

    Returns:
        See `read_image`.

    Raises:
        DataError: the bytes hold no image that can be decoded.
    """
    try:
        with without_warnings(), Image.open(io.BytesIO(data)) as image:
            plain, size = _is_plain(image, data), image.size
            orientation = _orientation(image, data) if plain else 1
        pixels, whole = _decode_plain(data, size) if plain else None, True
        if pixels is None:
            with without_warnings(), Image.open(io.BytesIO(data)) as image:
                pixels, whole = _decode_any(image, data, partial)
                orientation = _orientation(image, data)
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot read the image {path}: {TOO_LARGE}") from error
    except UnidentifiedImageError as error:  # its message names our buffer, not the file
        pixels, whole, orientation = unusual_values(data), True, 1
        if pixels is None:
            raise DataError(f"expected an image in {path}, found no image format that is known") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        raise DataError(f"expected an image in {path}, but it cannot be decoded: {error}") from error
    if not whole:
        with _WARNINGS_LOCK:  # `without_warnings` of another thread could swallow it
            warnings.warn(f"the image {path} is truncated; the missing part is gray or black", stacklevel=2)
    return _chw(upright(_as_rgb8(pixels, value_range, unknown), orientation))


def to_tensor(
    image: str | Path | Image.Image | Pixels | Tensor,
    value_range: ValueRange | None = None,
    *,
    unknown: UnknownRangeHandler = warn_unknown_range,
) -> Tensor:
    """Convert an image in any usual form to uint8 [3, H, W], RGB.

    Args:
        image: a path; a PIL image; a numpy array [H, W, 3] or [H, W] in RGB order (a fourth channel is taken for
            transparency and dropped); or a tensor [3, H, W] or [1, H, W]. Arrays and tensors are uint8, or integers of
            16 or 32 bits or floats, which are scaled by `value_range`. Float tensors with values in 0..1 are scaled
            from 0..1, as torchvision makes them.
        value_range: see `read_image`. Without one, floats in memory must lie in 0..1.
        unknown: see `read_image`.

    Raises:
        DataError: the file cannot be read, or the array has another shape or type or is empty, or `image` is none.
    """
    if isinstance(image, str | Path):
        return read_image(image, value_range, unknown=unknown)
    if isinstance(image, Image.Image):
        pixels = _of_pil(image)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        return _chw(upright(_as_rgb8(pixels, value_range, unknown), orientation))
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(f"expected an image as a path, PIL image, numpy array or tensor, found {type(image).__name__}")
    if 0 in image.shape:
        raise DataError(f"expected an image of at least 1 x 1 pixels, found shape {tuple(image.shape)}")
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not _is_known(image.dtype):
            raise DataError(
                "expected an image as a numpy array [H, W, 3] or [H, W] in RGB order, of uint8, or of integers of 16 "
                f"or 32 bits or floats, found shape {image.shape} of {image.dtype}"
            )
        return _chw(_as_rgb8(image, _range_in_memory(image, value_range), unknown))
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not _is_known(_numpy_type(image)):
        raise DataError(
            "expected an image as a tensor [3, H, W], uint8, float in 0..1, or integers of 16 or 32 bits, "
            f"found shape {tuple(image.shape)} of {image.dtype}"
        )
    if image.dtype == torch.uint8:
        return image.expand(3, -1, -1)
    if image.is_floating_point() and _in_unit(image):
        return (image * 255).round().to(torch.uint8).expand(3, -1, -1)
    values = image.detach().cpu().to(torch.float64 if image.is_floating_point() else image.dtype).numpy()
    return _chw(_as_rgb8(values.transpose(1, 2, 0), _range_in_memory(values, value_range), unknown))


def is_deep(image: Image.Image, head: bytes) -> bool:
    """Whether an image has more than 8 bits per channel.

    Args:
        image: image as PIL opened it.
        head: first 25 bytes of the file.
    """
    if image.format == "JPEG":
        return False
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    if image.format == "PNG":
        return head[24:25] == b"\x10"  # IHDR: the bit depth follows width and height
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]  # on TIFF files only
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    if image.format == "PPM":  # PIL keeps the maximum value among the settings of its decoder
        tile = getattr(image, "tile", ())
        settings = tile[0].args if tile else None
        return isinstance(settings, tuple) and isinstance(settings[-1], int) and settings[-1] > 255
    return False


def deep_values(image: Image.Image, data: bytes) -> Values:
    """The stored values of an image for which `is_deep` holds: [H, W], or RGB [H, W, 3]; transparency is dropped.

    Args:
        image: image as PIL opened it.
        data: bytes of the file.

    Raises:
        OSError and others: those that PIL raises on damaged files.
    """
    of_pil = image.mode == "F" or image.mode.startswith("I;") or (image.mode == "I" and image.format != "PPM")
    values = None if of_pil else _stored_values(data)  # PIL reduces color to 8 bits, and scales PGM to 16
    if values is not None and values.dtype != np.uint8 and values.shape[1::-1] == image.size:
        return values
    image.load()  # raises on damage, which numpy would hide
    values = np.asarray(image)
    if values.dtype == np.uint8:  # color of a kind that OpenCV cannot read
        return np.asarray(image.convert("RGB")).astype(np.uint16) * 257
    return values


def unusual_values(data: bytes) -> Values | None:
    """As `deep_values`, for TIFF and PFM files that PIL cannot open (float64, float color); None for other files."""
    if data[:4] not in (b"II*\0", b"MM\0*") and data[:2] != b"PF":
        return None
    values = _stored_values(data)
    return None if values is None or values.dtype == np.uint8 else values


def _stored_values(data: bytes) -> Values | None:
    """Decode with OpenCV, without conversion: [H, W], or RGB [H, W, 3]; None if it cannot read the file."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    return np.asarray(values[:, :, 2::-1] if values.ndim == 3 and values.shape[2] >= 3 else values)


def _of_pil(image: Image.Image) -> Pixels:
    """Deep values, or [H, W, 3] of 8 bits, of an image that PIL has opened.

    Deep color is read from the file if its pixels are not loaded yet; afterwards PIL has reduced it to 8 bits.
    """
    file = getattr(image, "fp", None)
    if image.format in ("PNG", "TIFF", "PPM") and file and getattr(image, "tile", ()) and image.tell() == 0:
        place = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(place)
        if is_deep(image, data):
            return deep_values(image, data)
    return np.asarray(image) if image.mode in ("I", "F") or image.mode.startswith("I;") else _to_rgb8(image)


def _is_known(dtype: np.dtype[Any] | None) -> bool:
    """Whether a data type can hold pixels: uint8, integers of 16 or 32 bits, floats."""
    if dtype is None:
        return False
    return dtype == np.uint8 or dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize in (2, 4))


def _numpy_type(image: Tensor) -> np.dtype[Any] | None:
    """The numpy type of a tensor (float64 for all floats); None if numpy has no such type."""
    if image.is_floating_point():
        return np.dtype(np.float64)
    name = str(image.dtype).removeprefix("torch.")
    return np.dtype(name) if "int" in name and hasattr(np, name) else None


def _in_unit(values: Tensor) -> bool:
    low, high = (float(value) for value in values.aminmax())
    return low >= 0 and high <= 1


def _range_in_memory(values: Values, value_range: ValueRange | None) -> ValueRange | None:
    """The value range of an array in memory: for floats 0..1, if no range is given.

    Raises:
        DataError: floats lie outside of 0..1, and no range is given.
    """
    if value_range or values.dtype.kind != "f":
        return value_range
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError(
            f"expected a float image with values in 0..1, found {values.min():.4g} to {values.max():.4g}; give them "
            "as uint8, or name their range: value_range in Detector.load"
        )
    return default_range(values.dtype)


def _as_rgb8(pixels: Pixels, value_range: ValueRange | None, unknown: UnknownRangeHandler) -> Pixels:
    """Convert values of any type, [H, W] or [H, W, C], to uint8 [H, W, 3]; a fourth channel is dropped."""
    if pixels.dtype != np.uint8:
        if value_range is None:
            with _WARNINGS_LOCK:
                unknown(UNKNOWN_RANGE)
        pixels = (value_range or default_range(pixels.dtype)).to_8_bits(pixels)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, :3]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore warnings of PIL about unusual metadata inside this block.

    One thread at a time is in the block, since the warning filters of Python are global.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # raised at half of the limit
        yield


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV decodes the image as PIL does: a complete JPEG, PNG or WebP in 8-bit RGB or gray."""
    if image.format not in ("JPEG", "PNG", "WEBP") or image.mode not in ("RGB", "L") or is_deep(image, data):
        return False
    if getattr(image, "n_frames", 1) > 1 or image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**30):
        return False
    return image.format != "JPEG" or data.endswith(b"\xff\xd9")  # else it may be truncated, which only PIL reports


def _decode_plain(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """Decode a plain image of (width, height) to [H, W, 3] with OpenCV; None if PIL has to decode it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[1::-1] != size:
        return None
    return np.asarray(pixels)


def _decode_any(image: Image.Image, data: bytes, partial: bool) -> tuple[Pixels, bool]:
    """Decode with PIL to [H, W, 3] of 8 bits, or to deep values; also returns whether the file was complete."""
    deep = is_deep(image, data)
    try:
        return deep_values(image, data) if deep else _to_rgb8(image), True
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        if not partial:
            raise
        with _tolerant(), Image.open(io.BytesIO(data)) as again:
            return deep_values(again, data) if deep else _to_rgb8(again), False


@contextmanager
def _tolerant() -> Iterator[None]:
    """Let PIL decode truncated files inside this block; the switch of PIL is global."""
    with _TOLERANCE_LOCK:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb8(image: Image.Image) -> Pixels:
    """Convert a PIL image of 8 bits in any mode to uint8 [H, W, 3]."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8. PIL decodes a whole PNG to find it, so search for its keys first."""
    if image.format == "PNG" and not any(
        trace in data for trace in (b"eXIf", b"Raw profile type", b"tiff:Orientation")
    ):
        return 1
    return int(image.getexif().get(_EXIF_ORIENTATION, 1))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Rotate [H, W, 3] upright by the EXIF orientation: 2-4 mirror or rotate by 180 degrees, 5-8 swap the axes too."""
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
