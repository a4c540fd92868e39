"""Mask files: images whose pixel values are object ids (COCO panoptic PNGs, instance masks)."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from detrkit.data.shards.packed_index import read_file
from detrkit.data.transforms.resize_crop import nearest
from detrkit.errors import DataError

Ids = npt.NDArray[np.int32]
"""[H, W]."""
Bools = npt.NDArray[np.bool_]

_ONE_CHANNEL = ("1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "I;16L")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""Exceptions that PIL raises on damaged files, depending on the format and the damage."""


@dataclass(slots=True, frozen=True)
class FileMask:
    """A mask in a file: the pixels of one value."""

    path: Path
    value: int
    """Value of the pixels of the object: that of the channel, or R + 256 G + 65536 B (COCO panoptic). 0 stands for all
    pixels that are not 0: the file holds this object alone."""


class Region(NamedTuple):
    """The pixels of one value."""

    area: int
    """Pixels."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 around the pixels."""


class MaskFiles:
    """Reads the mask files of one image; a file is read once if its masks are requested one after another.

    Args:
        height: height of the image in pixels; files of another size are resized to it, to the nearest pixel.
        width: width of the image in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self._last: tuple[Path, Ids] | None = None

    def ids(self, path: Path) -> Ids:
        """Read the ids of a file, int32 [H, W]; see `read_ids`."""
        if self._last is None or self._last[0] != path:
            self._last = path, resize_ids(read_ids(path), *self.size)
        return self._last[1]

    def mask(self, shape: FileMask) -> Bools:
        """Read one mask, bool [H, W]."""
        ids = self.ids(shape.path)
        return np.asarray(ids == shape.value if shape.value else ids != 0)


def read_ids(path: Path) -> Ids:
    """Read the id of each pixel: the value of the channel, the palette index, or R + 256 G + 65536 B.

    Returns:
        int32 [H, W]; transparency is ignored.

    Raises:
        DataError: the file is missing, or is no such image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's warnings about unusual metadata
            with Image.open(io.BytesIO(read_file(path))) as image:
                mode, pixels = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"expected masks in {path}, found no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"expected masks as an image in {path}, found no image format that is known") from None
    except (Image.DecompressionBombError, *_DAMAGE) as error:
        raise DataError(f"expected masks as an image in {path}, but it cannot be decoded: {error}") from None
    if mode in _ONE_CHANNEL:
        return np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 else pixels, dtype=np.int32)
    if mode in ("RGB", "RGBA", "RGBX"):
        ids = pixels[..., 2].astype(np.int32)
        for channel in (1, 0):
            ids <<= 8
            ids |= pixels[..., channel]
        return ids
    raise DataError(f"expected masks as an image with one channel or as RGB in {path}, found the mode {mode}")


def resize_ids(ids: Ids, height: int, width: int) -> Ids:
    """Resize ids to the nearest pixel."""
    if ids.shape == (height, width):
        return ids
    rows, columns = nearest(height, ids.shape[0]), nearest(width, ids.shape[1])
    return np.asarray(ids[rows[:, None], columns])


def regions_of(ids: npt.NDArray[Any]) -> dict[int, Region]:
    """Return each value of [H, W], including 0, with its area and box."""
    from scipy.ndimage import find_objects

    flat = ids.ravel()  # [H * W]
    # run-length encode: a map has far fewer runs than pixels
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]])) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, flat.size))
    values, numbers = np.unique(flat[starts], return_inverse=True)  # [values], [runs]
    areas = np.bincount(numbers, weights=lengths, minlength=len(values))
    # consecutive numbers from 1 in place of ids, [H, W], as find_objects needs them: one slice per value
    bounds = find_objects(np.repeat(numbers + 1, lengths).reshape(ids.shape))
    return {
        value: Region(int(area), (float(x.start), float(y.start), float(x.stop), float(y.stop)))
        for value, area, (y, x) in zip(values.tolist(), areas, bounds, strict=True)
    }
