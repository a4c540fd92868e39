"""Merge the detections of the tiles of an image.

Neighboring tiles share pixels, so an object near a border is detected in several of them: whole in one and cut in
another, or cut in all. Two detections of one class from two tiles are of one object if

    intersection / larger area >= 1/2     in the pixels that both tiles see, which they must agree on, or
    intersection / area of the piece >= 1/2     where a border of its tile cuts one of them: it is a piece of the other

The second is the intersection over the smaller (IoS) of Akyon et al. 2022 (slicing aided hyper inference), restricted
to pieces: a small object in front of a large one of its class has an IoS of 1 as well. Detections of one tile are
never merged, since the model has told these objects apart; so the result for one tile is that of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detrkit.ops.tiles import Tile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_OVERLAP = 0.5
"""Share of the areas by which two detections of one object overlap."""
MIN_SCORE_SHARE = 0.3
"""Share of the score of the best detection of an object that another one needs to change its box or mask."""
BORDER = 0.01
"""A box is cut if it comes as near as this share of the tile's side to a border inside the image."""
CONTAINED = 0.75
"""Share of a piece that lies in a whole detection which replaces it; below, both are joined."""


class MaskPatch(NamedTuple):
    """The part of a mask that is not empty."""

    top: int
    """First row in the image."""
    left: int
    """First column in the image."""
    mask: Bools
    """[h, w]."""

    @classmethod
    def of(cls, mask: Bools, tile: Tile) -> MaskPatch:
        """Cut the non-empty part out of a mask, bool [H, W], of a tile."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(tile.top, tile.left, np.zeros((0, 0), np.bool_))
        y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return cls(tile.top + int(rows[0]), tile.left + int(columns[0]), mask[y, x].copy())

    @classmethod
    def union(cls, patches: Sequence[MaskPatch]) -> MaskPatch:
        """Join patches, at least one, of one image."""
        patches = [patch for patch in patches if patch.mask.size] or list(patches[:1])
        if len(patches) == 1:
            return patches[0]
        top, left = min(patch.top for patch in patches), min(patch.left for patch in patches)
        bottom = max(patch.top + patch.mask.shape[0] for patch in patches)
        right = max(patch.left + patch.mask.shape[1] for patch in patches)
        joined = cls(top, left, np.zeros((bottom - top, right - left), np.bool_))
        for patch in patches:
            cls(patch.top - top, patch.left - left, patch.mask).paint(joined.mask)
        return joined

    def paint(self, mask: Bools) -> None:
        """Set the pixels of the patch in a mask [H, W] of the image."""
        height, width = self.mask.shape
        mask[self.top : self.top + height, self.left : self.left + width] |= self.mask


@dataclass(frozen=True)
class TileDetections:
    """n detections of one tile, or merged ones of a whole image."""

    tile: Tile
    boxes: Floats
    """[n, 4], x1, y1, x2, y2 in pixels of the image."""
    scores: Floats
    """[n], in 0..1."""
    labels: Ints
    """[n], classes."""
    masks: tuple[MaskPatch | None, ...] | None = None
    """n masks, with None for detections without one; or None: there are no masks."""

    def __len__(self) -> int:
        return len(self.scores)

    def best(self, count: int) -> TileDetections:
        """The first `count` detections, which of merged ones are the best."""
        masks = None if self.masks is None else self.masks[:count]
        return TileDetections(self.tile, self.boxes[:count], self.scores[:count], self.labels[:count], masks)


def merge_tiles(parts: Sequence[TileDetections]) -> TileDetections:
    """Merge the detections of all tiles of one image, in any order.

    An object takes the score of its best detection. Its box and mask are those of the best detection that no border
    cuts, or else the union of its pieces.

    Returns:
        The detections of the image, best first; those of a single tile in the given order.
    """
    if len(parts) == 1:
        return parts[0]
    parts = sorted(parts, key=lambda part: part.tile.number)
    sizes = [len(part) for part in parts]
    scores, tiles = np.concatenate([part.scores for part in parts]), np.repeat(np.arange(len(parts)), sizes)
    order = np.argsort(-scores, kind="stable")  # of equals the first tile, and in it the first detection
    boxes, labels = np.concatenate([part.boxes for part in parts])[order], _joined("labels", parts)[order]
    scores, tiles = scores[order], tiles[order]
    cut = _is_cut(boxes, tiles, parts)
    neighbors = _same_objects(boxes, labels, tiles, cut, parts)
    masks = None
    if any(part.masks is not None for part in parts):
        listed: list[MaskPatch | None] = []
        for part in parts:
            listed += part.masks or (None,) * len(part)
        masks = [listed[k] for k in order.tolist()]

    taken = np.zeros(len(scores), np.bool_)
    kept: list[int] = []
    merged_boxes: list[Floats] = []
    merged_masks: list[MaskPatch | None] = []
    for first in range(len(scores)):
        if taken[first]:
            continue
        members, box = _collect(first, taken, boxes, scores, tiles, cut, neighbors)
        kept.append(first)
        merged_boxes.append(box)
        if masks is not None:
            patches = [masks[k] for k in members]
            merged_masks.append(MaskPatch.union([patch for patch in patches if patch]) if any(patches) else None)
    height, width = parts[0].tile.image_height, parts[0].tile.image_width
    return TileDetections(
        Tile.whole(height, width),
        np.array(merged_boxes, np.float64).reshape(-1, 4),
        scores[kept],
        labels[kept],
        None if masks is None else tuple(merged_masks),
    )


def _collect(
    first: int,
    taken: Bools,
    boxes: Floats,
    scores: Floats,
    tiles: Ints,
    cut: Bools,
    neighbors: dict[int, list[int]],
) -> tuple[list[int], Floats]:
    """Collect the detections of one object, at most one per tile, beginning with its best.

    Args:
        first: the best detection that is not taken.
        taken: bool [N]; set for all detections of the object.
        boxes, scores, tiles, cut: of all N detections, best first.
        neighbors: for each detection those that are of the same object.

    Returns:
        The detections that make up its mask, and its box.
    """
    taken[first] = True
    members, box, seen, is_open = [first], boxes[first], {int(tiles[first])}, bool(cut[first])
    waiting = list(neighbors.get(first, ()))
    heapify(waiting)  # best first
    while waiting:
        k = heappop(waiting)
        if taken[k] or int(tiles[k]) in seen:
            continue
        taken[k] = True
        seen.add(int(tiles[k]))
        if not is_open or scores[k] < MIN_SCORE_SHARE * scores[first]:
            continue
        if not cut[k] and _contained(box, boxes[k]) >= CONTAINED:
            members, box, is_open = [k], boxes[k], False
        else:
            members.append(k)
            box = np.concatenate([np.minimum(box[:2], boxes[k, :2]), np.maximum(box[2:], boxes[k, 2:])])
        for other in neighbors.get(k, ()):
            heappush(waiting, other)
    return members, box


def _contained(box: Floats, other: Floats) -> float:
    """Share of a box that lies in another one."""
    inside = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(inside.clip(min=0).prod() / max((box[2:] - box[:2]).prod(), 1e-9))


def _is_cut(boxes: Floats, tiles: Ints, parts: Sequence[TileDetections]) -> Bools:
    """Whether a side of each box lies at a border of its tile that is inside the image; bool [N]."""
    borders = np.array([part.tile.box for part in parts], np.float64)[tiles]
    inner = np.array([part.tile.inner_sides for part in parts], np.bool_)[tiles]
    sides = np.array([(part.tile.width, part.tile.height) * 2 for part in parts], np.float64)[tiles]
    inwards = np.array([1, 1, -1, -1])
    return np.asarray((inner & (inwards * (boxes - borders) <= BORDER * sides)).any(axis=1), np.bool_)


def _same_objects(
    boxes: Floats, labels: Ints, tiles: Ints, cut: Bools, parts: Sequence[TileDetections]
) -> dict[int, list[int]]:
    """For each detection, those of other tiles that are of the same object; see the head of this file."""
    windows = np.array([part.tile.box for part in parts], np.float64)
    visible = _clip(boxes, windows[tiles])  # [N, 4]
    areas = _areas(visible)
    rows_of = np.split(np.argsort(tiles, kind="stable"), np.cumsum(np.bincount(tiles, minlength=len(parts)))[:-1])
    neighbors: dict[int, list[int]] = {}
    for a, b in _overlapping(windows):
        both = _clip(windows[a], windows[b])
        mine, other = (rows[_areas(_clip(visible[rows], both)) > 0] for rows in (rows_of[a], rows_of[b]))
        common = _areas(_clip(visible[mine, None], visible[None, other]))  # [n, m]
        shared = [_areas(_clip(visible[rows], both)) for rows in (mine, other)]
        agree = common >= MIN_OVERLAP * np.maximum(shared[0][:, None], shared[1])
        agree |= cut[mine][:, None] & (common >= MIN_OVERLAP * areas[mine][:, None])
        agree |= cut[other] & (common >= MIN_OVERLAP * areas[other])
        agree &= (labels[mine][:, None] == labels[other]) & (common > 0)
        for i, j in zip(*np.nonzero(agree), strict=True):
            neighbors.setdefault(int(mine[i]), []).append(int(other[j]))
            neighbors.setdefault(int(other[j]), []).append(int(mine[i]))
    return neighbors


def _overlapping(windows: Floats) -> Iterator[tuple[int, int]]:
    """Pairs of tiles that share pixels, the first before the second."""
    for a in range(len(windows)):
        for b in np.flatnonzero(_areas(_clip(windows[a], windows[a + 1 :])) > 0).tolist():
            yield a, a + 1 + b


def _clip(boxes: Floats, window: Floats) -> Floats:
    """Intersections of boxes, x1, y1, x2, y2; they broadcast."""
    corners = np.maximum(boxes[..., :2], window[..., :2]), np.minimum(boxes[..., 2:], window[..., 2:])
    return np.concatenate(corners, axis=-1)


def _areas(boxes: Floats) -> Any:
    """Areas of boxes [..., 4]; 0 for one without."""
    return (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(axis=-1)


def _joined(name: str, parts: Sequence[TileDetections]) -> Any:
    return np.concatenate([getattr(part, name) for part in parts])
