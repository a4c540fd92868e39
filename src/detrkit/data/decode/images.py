"""Image files to tensors: whatever the file holds, out come 8-bit RGB pixels the way a viewer shows them.

OpenCV decodes plain JPEG, PNG and WebP (the same pixels as PIL, with less copying), and colour of more than 8 bits,
which PIL would cut to 8; PIL reads everything else.

    EXIF rotation      applied
    grey, 1-bit        repeated over the three channels
    palette, CMYK      converted to RGB
    transparency       dropped: the colour stored under it is kept, as PIL's convert("RGB") does
    16, 32 bit, float  scaled by a `ValueRange`, without one by that of the type of number; never by the image's own
    several frames     the first one
    truncated          decoded as far as it goes, with a warning; the rest is grey or black
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

from detrkit.errors import DataError
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange, Values, default_range

Pixels = npt.NDArray[Any]
Unknown = Callable[[str], object]
"""Told a sentence when values of more than 8 bits are met without a known range."""

TOO_LARGE = (
    "it has more than 178 million pixels, and is not decoded since it may be made to fill the memory; cut it "
    "into tiles or make it smaller"
)
"""The limit is PIL's: twice `Image.MAX_IMAGE_PIXELS`."""

_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_TOLERANCE_LOCK = threading.Lock()
_REMARKS_LOCK = threading.Lock()


def warn_unknown_range(sentence: str) -> None:
    """What is done by default when no range of values is known: warn."""
    warnings.warn(sentence, stacklevel=2)


def ignore_unknown_range(sentence: str) -> None:
    """For readers of checked data: the check has said it."""


def read_image(
    path: str | Path, value_range: ValueRange | None = None, *, unknown: Unknown = warn_unknown_range
) -> Tensor:
    """Read an image file.

    Args:
        path: the file.
        value_range: values that become black and white in images of more than 8 bits; None: those of the type of
            number, see `default_range`. Images of 8 bits stay as they are.
        unknown: told a sentence if it is None and such an image is met.

    Returns:
        uint8 [3, H, W], RGB, upright. Its memory may be laid out [H, W, 3], which resizing likes best.

    Raises:
        DataError: the file is missing, or holds no image that can be decoded.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error
    return decode_image(data, path, value_range, unknown=unknown)


def decode_image(
    data: bytes,
    path: str | Path,
    value_range: ValueRange | None = None,
    *,
    unknown: Unknown = warn_unknown_range,
) -> Tensor:
    """Decode the content of an image file.

    Args:
        data: the bytes of the file.
        path: its name, for messages.
        value_range, unknown: see `read_image`.

    Returns:
        See `read_image`.

    Raises:
        DataError: the bytes hold no image that can be decoded.
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
        raise DataError(f"cannot read the image {path}: {TOO_LARGE}") from error
    except UnidentifiedImageError as error:  # its message names our buffer, not the file
        pixels, whole, orientation = unusual_values(data), True, 1
        if pixels is None:
            raise DataError(f"expected an image in {path}, found no image format that is known") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        raise DataError(f"expected an image in {path}, but it cannot be decoded: {error}") from error
    if not whole:
        with _REMARKS_LOCK:  # else it could fall among the remarks
            warnings.warn(f"the image {path} is truncated; what is missing stays grey or black", stacklevel=2)
    return _chw(_upright(_as_rgb8(pixels, value_range, unknown), orientation))


def to_tensor(
    image: str | Path | Image.Image | Pixels | Tensor,
    value_range: ValueRange | None = None,
    *,
    unknown: Unknown = warn_unknown_range,
) -> Tensor:
    """Any usual form of an image as uint8 [3, H, W], RGB.

    Args:
        image: a path; a PIL image; a numpy array [H, W, 3] or [H, W] in RGB order (a fourth channel is taken for
            transparency and dropped); or a tensor [3, H, W] or [1, H, W]. Arrays and tensors hold uint8, or integers
            of 16 or 32 bits or floats, which are scaled by `value_range`. Float tensors whose values lie in 0..1 are
            scaled by that, as torchvision makes them of 8 bits.
        value_range: see `read_image`. Floats in memory must lie in 0..1 without one.
        unknown: see `read_image`.

    Raises:
        DataError: the file cannot be read, or the array has another shape or type, or is empty, or it is none of these.
    """
    if isinstance(image, str | Path):
        return read_image(image, value_range, unknown=unknown)
    if isinstance(image, Image.Image):
        pixels = _of_pil(image)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        return _chw(_upright(_as_rgb8(pixels, value_range, unknown), orientation))
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
        image: as PIL opened it.
        head: the first 25 bytes of its file.
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
    if image.format == "PPM":  # of which PIL keeps the value of white among the settings of its decoder
        tile = getattr(image, "tile", ())
        settings = tile[0].args if tile else None
        return isinstance(settings, tuple) and isinstance(settings[-1], int) and settings[-1] > 255
    return False


def deep_values(image: Image.Image, data: bytes) -> Values:
    """The values of an image for which `is_deep` holds, as stored: [H, W], or RGB [H, W, 3]; transparency is dropped.

    Args:
        image: as PIL opened it.
        data: the bytes of its file.

    Raises:
        what PIL does on damaged files.
    """
    of_pil = image.mode == "F" or image.mode.startswith("I;") or (image.mode == "I" and image.format != "PPM")
    values = None if of_pil else _stored_values(data)  # PIL cuts colour to 8 bits, and stretches PGM to 16
    if values is not None and values.dtype != np.uint8 and values.shape[1::-1] == image.size:
        return values
    image.load()  # whose errors numpy would hide
    values = np.asarray(image)
    if values.dtype == np.uint8:  # colour of a kind that OpenCV cannot read
        return np.asarray(image.convert("RGB")).astype(np.uint16) * 257
    return values


def unusual_values(data: bytes) -> Values | None:
    """As `deep_values`, of TIFF and PFM files that PIL does not know (float64, floats in colour); None: it is none."""
    if data[:4] not in (b"II*\0", b"MM\0*") and data[:2] != b"PF":
        return None
    values = _stored_values(data)
    return None if values is None or values.dtype == np.uint8 else values


def _stored_values(data: bytes) -> Values | None:
    """What OpenCV finds in a file: [H, W], or RGB [H, W, 3]; None: it cannot read it."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    return np.asarray(values[:, :, 2::-1] if values.ndim == 3 and values.shape[2] >= 3 else values)


def _of_pil(image: Image.Image) -> Pixels:
    """Deep values, or [H, W, 3] of 8 bits, of an image that PIL has opened.

    As long as its pixels are not loaded, deep colour can be had from its file; afterwards PIL has cut it to 8 bits.
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
    """Whether numbers of a type can be pixels: uint8, integers of 16 or 32 bits, floats."""
    if dtype is None:
        return False
    return dtype == np.uint8 or dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize in (2, 4))


def _numpy_type(image: Tensor) -> np.dtype[Any] | None:
    """The type of a tensor's numbers as numpy has it; all floats are alike. None: it has none."""
    if image.is_floating_point():
        return np.dtype(np.float64)
    name = str(image.dtype).removeprefix("torch.")
    return np.dtype(name) if "int" in name and hasattr(np, name) else None


def _in_unit(values: Tensor) -> bool:
    low, high = (float(value) for value in values.aminmax())
    return low >= 0 and high <= 1


def _range_in_memory(values: Values, value_range: ValueRange | None) -> ValueRange | None:
    """The range of an array: of floats, 0..1 where none is known, as everywhere in Python.

    Raises:
        DataError: floats are not in 0..1, and nothing says what they are.
    """
    if value_range or values.dtype.kind != "f":
        return value_range
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError(
            f"expected a float image with values in 0..1, found {values.min():.4g} to {values.max():.4g}; give them "
            "as uint8, or say which range they fill: value_range in Detector.load"
        )
    return default_range(values.dtype)


def _as_rgb8(pixels: Pixels, value_range: ValueRange | None, unknown: Unknown) -> Pixels:
    """uint8 [H, W, 3] of values of any type, [H, W] or [H, W, C]: 1 channel is repeated, a fourth dropped."""
    if pixels.dtype != np.uint8:
        if value_range is None:
            with _REMARKS_LOCK:
                unknown(UNKNOWN_RANGE)
        pixels = (value_range or default_range(pixels.dtype)).to_8_bits(pixels)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, :3]


@contextmanager
def _without_remarks() -> Iterator[None]:
    """PIL keeps its remarks about odd metadata to itself inside this block, where one thread is at a time: Python's
    list of warnings to ignore is one per process."""
    with _REMARKS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half of what is too large
        yield


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV can decode it as well as PIL: a whole JPEG, PNG or WebP in 8-bit RGB or grey."""
    if image.format not in ("JPEG", "PNG", "WEBP") or image.mode not in ("RGB", "L") or is_deep(image, data):
        return False
    if getattr(image, "n_frames", 1) > 1 or image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**30):
        return False
    return image.format != "JPEG" or data.endswith(b"\xff\xd9")  # else perhaps truncated, which only PIL reports


def _decode_plain(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """[H, W, 3] of a plain image of (width, height), or None where PIL must do it after all."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[1::-1] != size:
        return None
    return np.asarray(pixels)


def _decode_any(image: Image.Image, data: bytes) -> tuple[Pixels, bool]:
    """[H, W, 3] of 8 bits through PIL, or deep values, and whether the file was whole."""
    deep = is_deep(image, data)
    try:
        return deep_values(image, data) if deep else _to_rgb8(image), True
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        with _tolerant(), Image.open(io.BytesIO(data)) as again:
            return deep_values(again, data) if deep else _to_rgb8(again), False


@contextmanager
def _tolerant() -> Iterator[None]:
    """PIL decodes truncated files inside this block. The switch is PIL's, one per process."""
    with _TOLERANCE_LOCK:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb8(image: Image.Image) -> Pixels:
    """uint8 [H, W, 3] of a PIL image of 8 bits in any mode."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


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
