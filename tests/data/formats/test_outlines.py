"""Outlines: clipped and joined polygons fill the same pixels."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.data.decode.mask_files import MaskFiles
from detrkit.data.formats.outlines import clip_polygon, has_one_outline, single_polygon
from detrkit.ops.masks import decode_segmentation, polygons_from_mask

WIDTH, HEIGHT = 37, 29


@st.composite
def stars(draw: st.DrawFn, low: int, high: int) -> list[float]:
    """A polygon around a center, whose corners are off the grid of pixels."""
    x, y = draw(st.integers(low, high)), draw(st.integers(low, high))
    corners = []
    for angle in torch.linspace(0, 6, draw(st.integers(3, 7))).tolist():
        radius = draw(st.integers(2, 15)) + 0.3
        corners += [x + radius * torch.tensor(angle).cos().item(), y + radius * torch.tensor(angle).sin().item()]
    return corners


@settings(deadline=None)
@given(stars(-10, 40))
def test_a_clipped_polygon_holds_the_same_points_of_the_image(polygon: list[float]) -> None:
    clipped = clip_polygon(polygon, WIDTH, HEIGHT)
    if clipped:
        assert min(clipped) >= 0
        assert max(clipped[0::2]) <= WIDTH
        assert max(clipped[1::2]) <= HEIGHT
    before, after = (np.array(points, np.float32).reshape(-1, 2) for points in (polygon, clipped))
    for x in range(1, WIDTH, 3):
        for y in range(1, HEIGHT, 3):
            distance = cv2.pointPolygonTest(before, (x, y), measureDist=True)
            if abs(distance) > 0.01:  # not on the outline itself
                assert (distance > 0) == (bool(clipped) and cv2.pointPolygonTest(after, (x, y), measureDist=False) > 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 22), st.integers(2, 6), st.integers(2, 6)), max_size=6))
def test_one_polygon_fills_the_pixels_of_all_parts(boxes: list[tuple[int, int, int, int]]) -> None:
    polygons = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes]
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    polygon = single_polygon([list(map(float, part)) for part in polygons], MaskFiles(HEIGHT, WIDTH), 0)
    if boxes:
        assert torch.equal(decode_segmentation([polygon], HEIGHT, WIDTH), mask)
    else:
        assert polygon == []


def test_holes_and_parts_are_told_from_a_single_outline() -> None:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[3:20, 3:20] = True
    assert has_one_outline(mask)
    mask[5:9, 5:9] = False
    assert not has_one_outline(mask)
    polygon = single_polygon(polygons_from_mask(mask, 0), MaskFiles(HEIGHT, WIDTH), 0)
    assert torch.equal(decode_segmentation([polygon], HEIGHT, WIDTH), mask)
    mask[5:9, 5:9] = True
    mask[25:27, 30:33] = True
    assert not has_one_outline(mask)
