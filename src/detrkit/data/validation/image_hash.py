"""Perceptual hashes of images: 64 bits that hardly change when an image is resized, recompressed or brightened.

A hash is the signs of the lowest 8 x 8 frequencies of a small gray image (discrete cosine transform), as in pHash
(Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1). Each image also gets
the hashes of its parts (`WINDOWS`) and of its mirror image, so that the hash of a copy that was cropped or mirrored is
near one of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.data.decode.images import deep_values, is_deep, unusual_values, upright
from detrkit.data.shards.packed_index import read_file

Gray = NDArray[np.uint8]
Hashes = NDArray[np.uint64]

SIDE = 32
"""Side of the thumbnails that are hashed, in pixels."""
FLAT = 1.5
"""Standard deviation of a thumbnail, in gray levels, below which an image shows too little to be compared."""
_FREQUENCIES = 8
_INTERVALS = ((0.0, 1.0), (0.0, 0.93), (0.035, 0.965), (0.07, 1.0))
"""Parts of a side: all of it, and the beginning, the middle and the end."""
WINDOWS = [
    (mirrored, _INTERVALS[row], _INTERVALS[column])
    for mirrored, row, column in product((False, True), range(4), range(4))
]
"""Whether the image is mirrored, and its part: (top, bottom) and (left, right) in 0..1. The first is all of it."""


def read_thumbnail(path: Path, orientation: int, side: int = SIDE) -> Gray | None:
    """Read a small gray image, uint8 [side, side], upright and stretched to a square; None if it cannot be decoded.

    A JPEG is decoded at a fraction of its size.

    Args:
        path: file of the image.
        orientation: its EXIF orientation, 1..8.
        side: side of the thumbnail in pixels.
    """
    try:
        data = read_file(path)
        with Image.open(io.BytesIO(data)) as image:
            if not is_deep(image, data):
                changed = image.draft("L", (2 * side, 2 * side))
                part = changed[1] if changed else None  # the reduced image may end with a padded row or column
                small = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR, box=part))
                return _turn(small, orientation)
            values = deep_values(image, data)
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, Image.DecompressionBombError):
        unusual = unusual_values(data) if path.is_file() else None
        if unusual is None:
            return None
        values = unusual
    small = np.asarray(cv2.resize(_to_8_bits(values), (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return _turn(small, orientation)


def _turn(gray: Gray, orientation: int) -> Gray:
    return np.ascontiguousarray(upright(gray[:, :, None], orientation)[:, :, 0])


def _to_8_bits(values: NDArray[np.generic]) -> Gray:
    """Map values of more than 8 bits, [H, W] or [H, W, C], to gray levels, from their 1st to their 99th percentile."""
    gray = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    gray = gray.mean(axis=2) if gray.ndim == 3 else gray
    low, high = np.percentile(gray, (1, 99))
    return (255 * np.clip((gray - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)


def read_thumbnails(
    paths: Sequence[Path], orientations: Sequence[int], progress: Callable[[], object] | None = None
) -> list[Gray | None]:
    """Read the thumbnails of several images, see `read_thumbnail`; `progress` is called once per image."""

    def one(path: Path, orientation: int) -> Gray | None:
        thumbnail = read_thumbnail(path, orientation)
        if progress is not None:
            progress()
        return thumbnail

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, paths, orientations))


def hash_thumbnails(thumbnails: Gray) -> Hashes:
    """Hash thumbnails and their parts.

    Args:
        thumbnails: [N, SIDE, SIDE].

    Returns:
        [N, len(WINDOWS)].
    """
    weights = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64)).reshape(_FREQUENCIES, _FREQUENCIES)
    weights[0, 0] = 0  # the mean says nothing
    result = np.zeros((len(thumbnails), 2, 4, 4), dtype=np.uint64)
    for start in range(0, len(thumbnails), 1024):  # bounds the memory
        block = thumbnails[start : start + 1024].astype(np.float32)
        cosines = (_BASIS @ block @ _BASIS.T).reshape(len(block), 4, _FREQUENCIES, 4, _FREQUENCIES)
        # mirrored: odd frequencies change their sign, and the beginning becomes the end
        for mirrored, spectrum in enumerate((cosines, cosines[:, :, :, [0, 3, 2, 1]] * _ODD)):
            bits = (spectrum > 0).transpose(0, 1, 3, 2, 4)  # [n, 4, 4, frequency, frequency]
            result[start : start + 1024, mirrored] = (bits * weights).sum(axis=(-2, -1))
    return result.reshape(len(thumbnails), len(WINDOWS))


def cut_windows(thumbnail: Gray) -> NDArray[np.float32]:
    """Resize each part of a thumbnail to its size: [len(WINDOWS), SIDE, SIDE]."""
    parts = _CUTS @ thumbnail.astype(np.float32) @ _CUTS.T
    parts = parts.reshape(4, SIDE, 4, SIDE).transpose(0, 2, 1, 3)  # [4, 4, SIDE, SIDE]
    both = np.stack([parts, parts[:, [0, 3, 2, 1], :, ::-1]])
    return np.ascontiguousarray(both.reshape(len(WINDOWS), SIDE, SIDE))


def _cuts() -> NDArray[np.float32]:
    """Linear interpolation from SIDE pixels to the SIDE pixels of each interval, [4 * SIDE, SIDE]."""
    centers = np.concatenate([start + (end - start) * (np.arange(SIDE) + 0.5) / SIDE for start, end in _INTERVALS])
    positions = np.clip(centers * SIDE - 0.5, 0, SIDE - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(SIDE))).astype(np.float32)


def _cosines() -> NDArray[np.float32]:
    """The cosines over each interval, [4 * _FREQUENCIES, SIDE]; those of frequency above 0 have mean 0."""
    edges = np.arange(SIDE + 1) / SIDE
    rows = []
    for start, end in _INTERVALS:
        low, high = np.maximum(edges[:-1], start), np.minimum(edges[1:], end)
        cover = np.maximum(high - low, 0)
        for frequency in range(_FREQUENCIES):
            row = np.cos(np.pi * frequency * ((low + high) / 2 - start) / (end - start)) * cover
            rows.append(row - cover * row.sum() / cover.sum() if frequency else row)
    return np.array(rows, dtype=np.float32)


_BASIS, _CUTS = _cosines(), _cuts()
_ODD = np.array([1, -1] * (_FREQUENCIES // 2), dtype=np.float32)
