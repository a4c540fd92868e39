"""Mask arithmetic: pure functions over mask logits, boolean masks [..., H, W] and COCO's run-length encoding."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from detrkit.errors import DataError

BYTES_AT_ONCE = 2**26
"""Largest number of bytes of masks that are copied together to be encoded."""


def resize_masks(
    logits: Tensor,
    padded_size: tuple[int, int],
    processed_size: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """Resize the masks of one image to its original size, as the reference DETR does.

    That is bilinearly to the padded batch, cropped to the image, and then by nearest pixel to the original size. Only
    the part of the image that contains the object is computed, and of it only the pixels that are in the result.

    Args:
        logits: float [n, h, w], covering the padded batch.
        padded_size: (H, W) of the padded batch in pixels.
        processed_size: (H, W) of the image in it, without padding.
        size: (H, W) of the result, that of the image file.
        threshold: a pixel belongs to the object where the sigmoid is above this, 0..1.

    Returns:
        bool [n, H, W]; False for NaN.
    """
    border = torch.tensor(threshold).logit().item()
    inside = logits > border  # [n, h, w]
    axes = zip((2, 1), logits.shape[1:], padded_size, processed_size, size, strict=True)
    rows, columns = (_Axis.of(inside.any(dim), *lengths) for dim, *lengths in axes)
    masks = torch.zeros(len(logits), *size, dtype=torch.bool, device=logits.device)
    for mask, values, y, x in zip(masks, logits.float(), rows.spans, columns.spans, strict=True):
        if y.start < y.stop and x.start < x.stop:
            # bilinear interpolation, first along x, then along y
            along_x = torch.lerp(values[:, columns.low[x]], values[:, columns.high[x]], columns.part[x])
            resized = torch.lerp(along_x[rows.low[y]], along_x[rows.high[y]], rows.part[y, None])
            torch.gt(resized, border, out=mask[y, x])
    return masks


class _Axis(NamedTuple):
    """Bilinear weights of the H rows, or the W columns, of resized masks, and the part that each mask occupies."""

    low: Tensor
    """int64 [H], see `between`."""
    high: Tensor
    part: Tensor
    spans: list[slice]
    """The rows of each mask that can be True."""

    @classmethod
    def of(cls, occupied: Tensor, count: int, padded: int, processed: int, size: int) -> _Axis:
        """Make the axis.

        Args:
            occupied: bool [n, h], rows of the logits with a value above the border.
            count: h.
            padded: pixels of the padded batch along the axis.
            processed: pixels of the image in it.
            size: pixels of the result.
        """
        pixels = torch.arange(processed, dtype=torch.float32, device=occupied.device)
        nearest = functional.interpolate(pixels[None, None], size=size, mode="nearest")[0, 0].long()  # [H]
        low, high, part = between(nearest, count, padded)
        near = occupied[:, low] | occupied[:, high]  # [n, H]
        first = near.byte().argmax(1)
        last = near.shape[1] - near.flip(1).byte().argmax(1)
        spans = zip(first.tolist(), (last * near.any(1)).tolist(), strict=True)
        return cls(low, high, part, [slice(start, stop) for start, stop in spans])


def between(pixels: Tensor, count: int, covered: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two of `count` samples that each pixel lies between, and its distance from the first, 0..1.

    As in `torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`.

    Args:
        pixels: indices of pixels, int64 [P].
        count: number of samples.
        covered: number of pixels that the samples cover.
    """
    at = ((pixels + 0.5) * (count / covered) - 0.5).clamp(min=0)
    low = at.long().clamp(max=count - 1)
    return low, (low + 1).clamp(max=count - 1), at - low


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """Encode one mask [H, W] (bool) as COCO's compressed RLE: `{"size": [H, W], "counts": str}`."""
    return encode_rles(mask[None])[0]


def encode_rles(masks: Tensor) -> list[dict[str, Any]]:
    """Encode many masks of one image, bool [n, H, W], as `encode_rle` does."""
    from faster_coco_eval.core import mask as coco_mask

    size = [int(side) for side in masks.shape[1:]]
    rles = []
    for part in torch.split(masks, max(1, BYTES_AT_ONCE // max(1, size[0] * size[1]))) if len(masks) else ():
        columns = part.cpu().transpose(1, 2).contiguous().numpy()  # RLE runs down the columns
        for rle in coco_mask.encode(columns.view(np.uint8).transpose(2, 1, 0)):
            counts = rle["counts"]
            rles.append({"size": size, "counts": counts.decode() if isinstance(counts, bytes) else counts})
    return rles


def encode_patch(patch: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Encode a mask that is False outside of a patch, as `encode_rle` does, without making the whole mask.

    Args:
        patch: bool [h, w], inside the mask.
        top: first row of the patch.
        left: first column of the patch.
        height: H of the mask.
        width: W of the mask.
    """
    from faster_coco_eval.core import mask as coco_mask

    columns = np.zeros((height, patch.shape[1]), np.bool_)
    columns[top : top + patch.shape[0]] = patch
    runs = (run_lengths(encode_rle(torch.from_numpy(columns))["counts"]) if columns.size else None) or [0]
    runs[0] += left * height
    after = (width - left - patch.shape[1]) * height
    if len(runs) % 2:  # the last run is outside of the mask
        runs[-1] += after
    elif after:
        runs.append(after)
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    counts = rle["counts"]
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def decode_segmentation(segmentation: Any, height: int, width: int) -> Tensor:
    """Decode the segmentation of one object in a COCO file to a mask, bool [H, W].

    Args:
        segmentation: polygons (lists of x, y, x, y, ... in pixels, whose union is the object), or an RLE with `size`
            and `counts`, compressed (a string) or not (a list).
        height: H of the image that the segmentation belongs to.
        width: its W.

    Raises:
        DataError: it is neither, or `segmentation_fault` finds a defect.
    """
    from faster_coco_eval.core import mask as coco_mask

    fault = segmentation_fault(segmentation, height, width)
    if fault:
        raise DataError(f"expected a mask as polygons or RLE, found {fault}")
    return torch.from_numpy(coco_mask.decode(as_rle(segmentation, height, width)).astype(bool))


def as_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Convert the segmentation of one object, as of `decode_segmentation`, to compressed RLE; without any check."""
    from faster_coco_eval.core import mask as coco_mask

    if isinstance(segmentation, list):
        if not segmentation:
            return encode_rle(torch.zeros(height, width, dtype=torch.bool))
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, height, width))
    return dict(segmentation)


def segmentation_fault(segmentation: Any, height: int, width: int) -> str:
    """Describe the defect of the polygons or the RLE of an object; empty if there is none.

    The segmentation is not decoded, so that a large data set is checked in seconds.

    Args:
        segmentation: see `decode_segmentation`.
        height: H of the image.
        width: its W.
    """
    if isinstance(segmentation, list):
        bad = next((polygon for polygon in segmentation if not is_polygon(polygon)), None)
        return "" if bad is None else f"a polygon without three corners of two finite numbers, {bad!r}"[:100]
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return f"{type(segmentation).__name__}"
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"an RLE of size {size!r} where the image has [{height}, {width}] (height, width)"
    runs = counts if isinstance(counts, list) else run_lengths(counts)
    if runs is None or not all(isinstance(run, int) and run >= 0 for run in runs):
        return "an RLE whose counts are cut off or garbled"
    pixels = sum(runs)
    return "" if pixels == height * width else f"an RLE of {pixels} pixels where the image has {height * width}"


def is_polygon(polygon: Any) -> bool:
    """Whether a value is a list of x, y, x, y, ...: three or more corners, all finite and below 1e9 pixels."""
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and set(map(type, polygon)) <= {int, float}
        and isfinite(sum(polygon))  # NaN would slip through max and min
        and -1e9 < min(polygon) <= max(polygon) < 1e9
    )


def run_lengths(counts: Any) -> list[int] | None:
    """Decode the run lengths of COCO's compressed RLE (text or bytes); None if it is not one.

    Runs go down the columns, in turn outside and inside the mask. Each character has five bits of a number, lowest
    first, counted from "0"; the sixth bit is set if more follow. From the third run on, the number is the difference to
    the last run but one.
    """
    text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    if not isinstance(text, bytes):
        return None
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def polygons_from_mask(mask: Tensor, tolerance: float = 1.0) -> list[list[float]]:
    """Convert a mask to COCO's polygons, with few corners, as annotation tools edit them.

    Their union is the object; parts of a mask that are connected, if only by corners of pixels, are one polygon. COCO's
    polygons have no holes, so each hole is joined to the outline around it by a cut of width 0: filling the polygon
    leaves the hole out, and its outline runs along the cut and back. The inverse is `decode_segmentation`.

    Args:
        mask: bool [H, W].
        tolerance: largest distance of the outline from the true one in pixels; less for small and for thin objects, so
            that at most about a twentieth of their area changes. 0: exact.

    Returns:
        x, y, x, y, ... of three corners or more, in pixels from the image's upper left corner: the first pixel
        spans 0..1. Empty for an empty mask.
    """
    import cv2

    if not mask.any():
        return []
    rows, columns = (mask.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    top, left = rows[0], columns[0]
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].cpu().numpy()
    # a grid of half pixels, where pixel k spans 2k..2k+2, since outlines of OpenCV run through the centers of pixels
    grid = np.zeros((2 * part.shape[0] + 1, 2 * part.shape[1] + 1), dtype=np.uint8)
    grid[1::2, 1::2] = part
    grid = np.asarray(cv2.dilate(grid, np.ones((3, 3), np.uint8)), dtype=np.uint8)
    contours, tree = cv2.findContours(grid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings: dict[int, list[Any]] = {}  # of each outer outline: itself, then its holes
    for k in sorted(range(len(contours)), key=lambda k: tree[0][k][3]):  # outer ones first: they have no parent, -1
        parent = int(tree[0][k][3])
        ring = _simplified(contours[k], 2 * tolerance)
        if parent < 0:
            rings[k] = [ring]
        else:
            rings[parent].append(ring)
    return [(_joined(parts) / 2 + (left, top)).flatten().tolist() for parts in rings.values()]


def _simplified(ring: Any, tolerance: float) -> Any:
    """Reduce the corners of a closed outline, int [n, 1, 2] -> [m, 2]."""
    import cv2

    # the change in area grows with the length of the outline; keep it small relative to the area
    tolerance = min(tolerance, 0.15 * cv2.contourArea(ring) / cv2.arcLength(ring, closed=True))
    fewer = cv2.approxPolyDP(ring, tolerance, closed=True)
    if tolerance > 0 and len(fewer) > 2:
        return fewer[:, 0]
    return ring[:, 0]


def _joined(rings: list[Any]) -> Any:
    """Join an outer ring and its holes to one ring [n, 2].

    Each hole is entered at its left end, from the nearest corner of the outer ring. A cut may cross another hole: as it
    is walked there and back, the filled area does not change.
    """
    from scipy.spatial import cKDTree

    outer, *holes = rings
    holes = [np.roll(hole, -int(hole[:, 0].argmin()), axis=0) for hole in holes]
    _, corners = cKDTree(outer).query(np.array([hole[0] for hole in holes]).reshape(-1, 2))
    parts, start = [], 0
    for k in np.argsort(corners, kind="stable").tolist():
        corner = int(corners[k])
        parts += [outer[start : corner + 1], holes[k], holes[k][:1]]
        start = corner
    return np.concatenate([*parts, outer[start:]])
