"""Find images that are copies of one another: resized, recompressed, brightened, cropped a little or mirrored.

Images whose perceptual hashes are near (`hash_lookup`) are compared: one is laid over the other by an affine map
(Evangelidis and Psarakis 2008, "Parametric image alignment using enhanced correlation coefficient maximization"), its
gray levels are mapped to those of the other by a curve, and each part of the image has to agree. So two photographs of
one scene in which an object has moved are no copies, nor are two circuit boards of one kind with other defects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detrkit.data.validation.hash_lookup import HashIndex
from detrkit.data.validation.image_hash import (
    FLAT,
    SIDE,
    WINDOWS,
    Gray,
    Hashes,
    cut_windows,
    hash_thumbnails,
    read_thumbnail,
    read_thumbnails,
)

Floats = NDArray[np.float32]

_FINE = 96
"""Side, in pixels, of the images that are compared."""
_CELL, _COARSE_CELL = 8, 4
"""Side of the cells of an image, each of which has to agree; and that of the cells of thumbnails."""
_LARGEST_ERROR, _COARSE_ERROR = 0.125, 0.6
"""Largest error of a cell, relative to the contrast of the image; for images and for thumbnails."""
_NOISE = 5.0
"""Gray levels that are added to the contrast, for the noise of images of low contrast."""
_MOST_NEAR, _MOST_CANDIDATES = 128, 64
"""Most images whose thumbnails are ranked by their likeness to one, those of the nearest hashes; and most images of
these that are compared with it."""
_COMPARISONS = 10_000
"""Comparisons in vain that are spent on all images: 1 to 16 per image, which bounds the time where all look alike."""


@dataclass(frozen=True)
class NearDuplicates:
    """Groups of images that are copies of one another."""

    groups: list[list[Path]]
    """Images of each group of two or more, in the order in which they were given."""
    partner: dict[Path, list[Path]]
    """Image of a group -> the images of its group that it was compared with and found to be a copy of."""

    def group_of(self) -> dict[Path, int]:
        """Image -> number of its group; images that have no copy are absent."""
        return {path: number for number, group in enumerate(self.groups) for path in group}


def find_near_duplicates(
    paths: Sequence[Path], orientations: Sequence[int], progress: Callable[[], object] | None = None
) -> NearDuplicates:
    """Find the images that are copies of one another.

    Each image is compared with those whose hash is near, the most similar first, until some are no copies. So the time
    grows with the number of images, not with the square of the size of a group. Images without contrast have no copies.

    Args:
        paths: files of the images.
        orientations: EXIF orientation of each, 1..8.
        progress: called once per image, from any thread.
    """
    thumbnails = read_thumbnails(paths, orientations, progress)
    groups = _Groups(len(paths))
    rows = _distinct(thumbnails, groups)
    if len(rows) > 1:
        stacked = np.stack([thumbnail for row in rows if (thumbnail := thumbnails[row]) is not None])

        @cache
        def fine(k: int) -> Gray | None:
            return read_thumbnail(paths[rows[k]], orientations[rows[k]], _FINE)

        _compare(rows, stacked, fine, groups)
    return groups.result(paths)


def _compare(rows: list[int], thumbnails: Gray, fine: Callable[[int], Gray | None], groups: _Groups) -> None:
    """Join the groups of the images that are copies.

    Args:
        rows: row in `groups` of each image [N].
        thumbnails: [N, SIDE, SIDE].
        fine: reads a larger image of one of the N.
        groups: groups so far.
    """
    hashes = hash_thumbnails(thumbnails)
    unique, inverse = np.unique(hashes[:, 0], return_inverse=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    index, normalized = HashIndex(unique), _normalize(thumbnails)
    most_refused = min(max(_COMPARISONS // len(rows), 1), 16)
    for k, row in enumerate(rows):
        refused = 0
        for j, window in _most_similar(k, cut_windows(thumbnails[k]), index, hashes[k], members, normalized):
            if groups.same(row, rows[j]):
                continue
            if _are_copies(thumbnails[k], thumbnails[j], window, partial(_pair, fine, k, j)):
                groups.join(row, rows[j])
            elif (refused := refused + 1) >= most_refused:
                break


def _pair(fine: Callable[[int], Gray | None], k: int, j: int) -> tuple[Gray | None, Gray | None]:
    return fine(k), fine(j)


class _Groups:
    """Disjoint sets of the rows 0..N-1 (union-find)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))
        self._partner: dict[int, list[int]] = {}

    def _root(self, row: int) -> int:
        while self._parents[row] != row:
            self._parents[row] = self._parents[self._parents[row]]
            row = self._parents[row]
        return row

    def same(self, a: int, b: int) -> bool:
        """Whether two rows are of one group."""
        return self._root(a) == self._root(b)

    def join(self, a: int, b: int) -> None:
        """Join the groups of two rows, under the smaller of their roots."""
        low, high = sorted((self._root(a), self._root(b)))
        self._parents[high] = low
        self._partner.setdefault(a, []).append(b)
        self._partner.setdefault(b, []).append(a)

    def result(self, paths: Sequence[Path]) -> NearDuplicates:
        """The groups of two or more, with the path of each row."""
        by_root: dict[int, list[Path]] = {}
        for row, path in enumerate(paths):
            by_root.setdefault(self._root(row), []).append(path)
        partner = {paths[row]: [paths[other] for other in others] for row, others in self._partner.items()}
        return NearDuplicates([group for group in by_root.values() if len(group) > 1], partner)


def _distinct(thumbnails: Sequence[Gray | None], groups: _Groups) -> list[int]:
    """Rows of the thumbnails that are not flat, each distinct one once; rows of equal ones are joined."""
    first: dict[bytes, int] = {}
    for row, thumbnail in enumerate(thumbnails):
        if thumbnail is not None and thumbnail.std() >= FLAT:
            same = first.setdefault(thumbnail.tobytes(), row)
            if same != row:
                groups.join(same, row)
    return list(first.values())


def _most_similar(
    k: int,
    parts: Floats,
    index: HashIndex,
    hashes: Hashes,
    members: Sequence[NDArray[np.int64]],
    normalized: Floats,
) -> list[tuple[int, int]]:
    """The images whose hash is near that of image k or of a part of it, with the index of the part in `WINDOWS`.

    Args:
        k: the image.
        parts: parts of image k, see `cut_windows`.
        index: index of the distinct hashes of all images.
        hashes: hashes of the parts.
        members: images of each distinct hash.
        normalized: normalized thumbnails of all images. The images come first whose worst cell differs least.
    """
    near, windows, bits = index.query(hashes)
    nearest = np.argsort(bits, kind="stable")[:_MOST_NEAR]
    lists = [members[u][:_MOST_CANDIDATES] for u in near[nearest]]
    images = np.concatenate(lists)[:_MOST_NEAR]
    windows = np.repeat(windows[nearest], [len(each) for each in lists])[:_MOST_NEAR]
    squares = (_normalize(parts)[windows] - normalized[images]) ** 2  # [n, SIDE, SIDE]
    cells = SIDE // _COARSE_CELL
    worst = squares.reshape(-1, cells, _COARSE_CELL, cells, _COARSE_CELL).mean(axis=(2, 4)).max(axis=(1, 2))
    order = np.argsort(worst, kind="stable")[:_MOST_CANDIDATES]
    return [(j, w) for j, w in zip(images[order].tolist(), windows[order].tolist(), strict=True) if j != k]


def _normalize(images: NDArray[np.generic]) -> Floats:
    """Images [n, side, side] with mean 0 and variance 1 each."""
    values = images.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    return values / np.maximum(values.std(axis=(1, 2), keepdims=True), 1e-6)


def _are_copies(whole: Gray, part: Gray, window: int, fine: Callable[[], tuple[Gray | None, Gray | None]]) -> bool:
    """Whether `part` shows what a window of `whole` shows.

    Args:
        whole: thumbnail.
        part: thumbnail.
        window: index in `WINDOWS`, where the alignment starts.
        fine: returns larger images of both, which are read only if the thumbnails agree.
    """
    mirrored, (top, bottom), (left, right) = WINDOWS[window]
    high, wide = bottom - top, right - left
    shift = np.array([left * SIDE + (wide - 1) / 2, top * SIDE + (high - 1) / 2])  # of the center of the first pixel
    start = np.array([[wide, 0, shift[0]], [0, high, shift[1]]], dtype=np.float32)
    coarse = _align(whole[:, ::-1] if mirrored else whole, part, start)
    if coarse is None or not _agree(*coarse[:3], _COARSE_CELL, _COARSE_ERROR):
        return False
    large = fine()
    if large[0] is None or large[1] is None:
        return False
    matrix, scale = coarse[3].copy(), _FINE / SIDE
    matrix[:, 2] = scale * matrix[:, 2] + (scale - 1) / 2 * (1 - matrix[:, :2].sum(axis=1))
    refined = _align(large[0][:, ::-1] if mirrored else large[0], large[1], matrix)
    return refined is not None and _agree(*refined[:3], _CELL, _LARGEST_ERROR)


def _align(whole: Gray, part: Gray, start: Floats) -> tuple[Floats, Floats, NDArray[np.bool_], Floats] | None:
    """Lay an image over a part of it by an affine map.

    Args:
        whole: [side, side].
        part: [side, side].
        start: [2, 3], affine map from pixels of `part` to pixels of `whole`, which is refined.

    Returns:
        `whole` in the pixels of `part`, `part`, whether `whole` covers the pixel, and the refined map; or None if they
        do not fit, or the map turns or scales by more than a small crop would.
    """
    first, second = whole.astype(np.float32), part.astype(np.float32)
    steps = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20 if len(part) <= SIDE else 6, 1e-3)
    everywhere = np.ones(second.shape, dtype=np.uint8)
    try:
        _, found = cv2.findTransformECC(second, first, start.copy(), cv2.MOTION_AFFINE, steps, everywhere, 1)
    except cv2.error:  # does not converge
        return None
    matrix = np.asarray(found, dtype=np.float32)
    if np.abs(np.diag(matrix[:, :2]) - 1).max() > 0.2 or max(abs(matrix[0, 1]), abs(matrix[1, 0])) > 0.05:
        return None
    size, flags = second.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(np.ones_like(first), matrix, size, flags=flags) > 0.99
    if covered.mean() < 0.75:
        return None
    laid = cv2.warpAffine(first, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(laid, dtype=np.float32), second, covered, matrix


def _agree(first: Floats, second: Floats, covered: NDArray[np.bool_], cell: int, largest: float) -> bool:
    """Whether two aligned images agree in every cell.

    The root mean square difference of a cell, relative to the contrast of the image, is at most `largest` then.

    The gray levels of one are mapped to those of the other by a curve, since a copy may be brighter; it suffices in one
    direction, since levels that were clipped cannot be mapped back.
    """
    x, y = (np.asarray(cv2.blur(each, (3, 3)), dtype=np.float32)[covered] for each in (first, second))
    rows = len(covered) // cell
    for source, target in ((x, y), (y, x)):
        squares = np.zeros(covered.shape)
        squares[covered] = (target - _tone_curve(source, target)) ** 2 / (target.var() + _NOISE**2)
        if squares.reshape(rows, cell, rows, cell).mean(axis=(1, 3)).max() <= largest**2:
            return True
    return False


def _tone_curve(source: Floats, target: Floats) -> NDArray[np.float64]:
    """Map gray levels [n] to those of another image [n]: lines between the means of 16 ranges of levels."""
    low, high = float(source.min()), float(source.max())
    ranges = np.minimum(16 * (source - low) / max(high - low, 1e-6), 15).astype(np.int64)
    counts = np.bincount(ranges, minlength=16)
    used = counts >= _FEWEST
    if used.sum() < 2:
        return np.full(len(target), target.mean(), dtype=np.float64)
    x, y = ((np.bincount(ranges, values, minlength=16) / np.maximum(counts, 1))[used] for values in (source, target))
    slopes = np.diff(y) / np.diff(x)
    x = np.concatenate([[low - 1], x, [high + 1]])
    y = np.concatenate([[y[0] + slopes[0] * (x[0] - x[1])], y, [y[-1] + slopes[-1] * (x[-1] - x[-2])]])
    return np.interp(source, x, y)


_FEWEST = 8
"""Fewest pixels of a range of gray levels whose mean is used."""
