"""Polygons of masks: filled again as COCO fills them, they give the mask back, holes and all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.ops.masks import decode_segmentation, is_polygon, polygons_from_mask


def overlap(mask: Tensor, tolerance: float) -> float:
    """IoU of a mask with what its polygons say."""
    polygons = polygons_from_mask(mask, tolerance)
    assert all(is_polygon(polygon) for polygon in polygons)
    filled = decode_segmentation(polygons, *mask.shape)
    return float((filled & mask).sum() / (filled | mask).sum())


def disc(y: int, x: int, radius: int, height: int = 120, width: int = 150) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


WITH_HOLES = disc(60, 70, 50) & ~disc(50, 60, 12) & ~disc(80, 90, 9)
PARTS = WITH_HOLES | disc(50, 60, 6) | disc(10, 140, 5)  # an island in a hole, and one apart


def blobs(side: int) -> Tensor:
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(side))
    return torch.nn.functional.interpolate(noise, size=(90, 130), mode="bicubic")[0, 0] > 0.5


SALT = torch.rand(300, 300, generator=torch.Generator().manual_seed(0)) > 0.3  # thousands of holes


@pytest.mark.parametrize(
    "mask", [SALT, disc(60, 70, 40), WITH_HOLES, PARTS, disc(0, 0, 30), blobs(6), blobs(12), blobs(200)]
)
def test_a_round_trip_restores_the_mask(mask: Tensor) -> None:
    assert overlap(mask, 0.0) == 1
    assert overlap(mask, 1.0) > 0.95


@pytest.mark.parametrize("place", [(0, 0), (0, 10), (8, 0), (8, 10), (3, 4)])
def test_one_pixel_is_a_square_around_it(place: tuple[int, int]) -> None:
    mask = torch.zeros(9, 11, dtype=torch.bool)
    mask[place] = True
    y, x = place
    (polygon,) = polygons_from_mask(mask)
    corners = {(polygon[k], polygon[k + 1]) for k in range(0, 8, 2)}
    assert len(polygon) == 8
    assert corners == {(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)}
    assert overlap(mask, 1.0) == overlap(mask, 50.0) == 1


def test_parts_holes_and_lines() -> None:
    assert len(polygons_from_mask(WITH_HOLES)) == 1
    assert len(polygons_from_mask(PARTS)) == 3
    line = torch.zeros(20, 30, dtype=torch.bool)
    line[7] = True
    (polygon,) = polygons_from_mask(line)
    assert len(polygon) == 8
    assert overlap(line, 1.0) == 1
    everything = torch.ones(5, 7, dtype=torch.bool)
    assert sorted(polygons_from_mask(everything)[0]) == [0, 0, 0, 0, 5, 5, 7, 7]
    assert polygons_from_mask(torch.zeros(5, 7, dtype=torch.bool)) == []


def test_more_tolerance_means_fewer_corners() -> None:
    corners = [len(polygons_from_mask(WITH_HOLES, tolerance)[0]) // 2 for tolerance in (0, 0.5, 1)]
    assert corners[0] > 2 * corners[1] > 4 * corners[2] > 8 * 8
