"""Convert masks of objects to the outlines that annotation files hold: RLE, polygons, or one closed polygon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.decode.mask_files import FileMask, MaskFiles
from detrkit.ops.masks import as_rle, decode_segmentation, encode_rle, polygons_from_mask

Polygon = list[float]
"""x, y, x, y, ... in pixels."""
Floats = npt.NDArray[np.float64]


def mask_of(segmentation: Any, files: MaskFiles) -> Tensor:
    """Decode polygons, RLE or a `FileMask` to pixels, bool [H, W].

    Args:
        segmentation: see `ObjectRecord.segmentation`; not None.
        files: reads the mask files of the image, and has its size.

    Raises:
        DataError: a mask file cannot be read.
    """
    if isinstance(segmentation, FileMask):
        return torch.from_numpy(files.mask(segmentation))
    return decode_segmentation(segmentation, *files.size)


def polygons_or_rle(segmentation: Any, files: MaskFiles) -> Any:
    """Convert a segmentation to a form of COCO: polygons stay as they are, other masks become compressed RLE."""
    if isinstance(segmentation, FileMask):
        return encode_rle(mask_of(segmentation, files))
    if isinstance(segmentation, dict):
        rle = as_rle(segmentation, *files.size)
        counts = rle["counts"]
        return {"size": list(files.size), "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return segmentation


def polygons_of(segmentation: Any, files: MaskFiles, tolerance: float) -> list[Polygon]:
    """Convert a segmentation to polygons, whose union is the object; empty if it has no pixel.

    Args:
        segmentation: see `ObjectRecord.segmentation`; None has no pixel.
        files: reads the mask files of the image, and has its size.
        tolerance: largest distance in pixels of polygons that are made of pixels, see `polygons_from_mask`; polygons
            stay as they are.
    """
    if isinstance(segmentation, list):
        return segmentation
    return polygons_from_mask(mask_of(segmentation, files), tolerance) if segmentation else []


def has_one_outline(mask: Tensor) -> bool:
    """Whether a mask, bool [H, W], is of one part without holes."""
    import cv2

    contours, _ = cv2.findContours(mask.to(torch.uint8).numpy(), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return len(contours) == 1


def single_polygon(polygons: Sequence[Polygon], files: MaskFiles, tolerance: float) -> Polygon:
    """Convert the polygons of one object to one polygon inside the image, which fills the same pixels.

    Parts are joined by cuts of width 0, which are walked there and back. Parts that overlap are united first.

    Args:
        polygons: of the object, in pixels; empty for an object without pixels.
        files: has the size of the image.
        tolerance: see `polygons_of`.

    Returns:
        The polygon; empty if nothing of it is inside the image.
    """
    height, width = files.size
    parts = [part for polygon in polygons if (part := clip_polygon(polygon, width, height))]
    if _overlap(parts):
        parts = polygons_from_mask(decode_segmentation(parts, height, width), tolerance)
    if not parts:
        return []
    ring = np.array(parts[0]).reshape(-1, 2)
    for part in parts[1:]:
        ring = _joined(ring, np.array(part).reshape(-1, 2))
    return ring.flatten().tolist()


def clip_polygon(polygon: Polygon, width: float, height: float) -> Polygon:
    """Clip a polygon to an image (Sutherland and Hodgman 1974); empty if nothing is left.

    Args:
        polygon: x, y, x, y, ... in pixels.
        width: of the image, in pixels.
        height: of the image.
    """
    xs, ys = polygon[0::2], polygon[1::2]
    if min(xs) >= 0 and min(ys) >= 0 and max(xs) <= width and max(ys) <= height:
        return polygon
    points = list(zip(xs, ys, strict=True))
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, width), (1, 1, 0.0), (1, -1, height)):
        points = _clip_side(points, axis, sign, limit)
    return [value for point in points for value in point] if len(points) > 2 else []


def _clip_side(points: list[tuple[float, float]], axis: int, sign: int, limit: float) -> list[tuple[float, float]]:
    """Keep the part of a polygon on one side of a line, where sign * (coordinate - limit) is not negative."""
    kept: list[tuple[float, float]] = []
    for start, end in zip(points, points[1:] + points[:1], strict=True):
        before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
        if before >= 0:
            kept.append(start)
        if (before >= 0) != (after >= 0):
            part = before / (before - after)
            crossing = [start[k] + part * (end[k] - start[k]) for k in (0, 1)]
            crossing[axis] = limit
            kept.append((crossing[0], crossing[1]))
    return kept


def _overlap(parts: Sequence[Polygon]) -> bool:
    """Whether the boxes around two of the polygons overlap."""
    boxes = [(min(p[0::2]), min(p[1::2]), max(p[0::2]), max(p[1::2])) for p in parts]
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for k, a in enumerate(boxes) for b in boxes[:k]
    )


def _joined(ring: Floats, part: Floats) -> Floats:
    """Join two rings [n, 2] and [m, 2] at their nearest corners."""
    from scipy.spatial import cKDTree

    distances, corners = cKDTree(ring).query(part)
    entry = int(np.argmin(distances))
    corner = int(corners[entry])
    walk = np.roll(part, -entry, axis=0)
    return np.concatenate([ring[: corner + 1], walk, walk[:1], ring[corner:]])
