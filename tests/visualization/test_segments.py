"""Masks and panoptic maps on images: tinted where they are, in different colors, and named legibly."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from detrkit import Detections
from detrkit.results import PanopticMap
from detrkit.visualization.canvas import color_of
from detrkit.visualization.draw import draw_detections, draw_panoptic
from detrkit.visualization.segments import CROWD, OPACITY, Named, _Labels, draw_named, shades, share_of


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def tinted(color: tuple[int, int, int]) -> np.ndarray:
    return (1 - OPACITY) * 128 + OPACITY * np.array(color)


def dots(count: int, side: int = 480) -> Detections:
    """So many small square objects of one class in rows, the best first."""
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    boxes = []
    for k in range(count):
        y, x = 10 + 30 * (k // 15), 10 + 30 * (k % 15)
        masks[k, y : y + 12, x : x + 12] = True
        boxes.append([x, y, x + 12, y + 12])
    scores = torch.linspace(0.9, 0.5, count)
    ids = torch.full((count,), 4)
    return Detections(torch.tensor(boxes, dtype=torch.float32), scores, ids, ("cell",) * count, masks)


def test_a_panoptic_map_covers_the_image_with_the_colors_of_its_classes() -> None:
    ids = torch.zeros(480, 640, dtype=torch.int64)
    ids[200:] = 7
    ids[300:400, 100:300] = 2
    rows = [
        {"id": 0, "category_id": 9, "isthing": False, "area": 200 * 640, "category_name": "sky"},
        {"id": 7, "category_id": 3, "isthing": False, "area": 280 * 640 - 20000, "category_name": "grass"},
        {"id": 2, "category_id": 1, "isthing": True, "area": 20000, "score": 0.9, "category_name": "cow"},
    ]
    before = gray(480, 640)
    drawn = draw_panoptic(before, PanopticMap(ids, rows))
    assert (before == 128).all()
    for y, x, category in ((190, 600, 9), (470, 600, 3), (308, 110, 1)):
        assert np.abs(drawn[y, x] - tinted(color_of(category))).max() <= 1
    for category in (9, 3, 1):  # each is named on a ground of its color
        assert (drawn == color_of(category)).all(axis=2).sum() > 300
    untold = draw_panoptic(before, PanopticMap(ids, rows[2:]))  # the rest belongs to no segment
    assert np.abs(untold[308, 110] - tinted(color_of(1))).max() <= 1
    assert (untold[:290] == 128).all()
    assert (draw_panoptic(before, PanopticMap(ids, [])) == 128).all()
    assert draw_panoptic(gray(1, 1), PanopticMap(ids[:1, :1], rows[:1])).shape == (480, 480, 3)


def test_objects_of_one_class_have_different_shades() -> None:
    of_two = shades([5, 5, 5, 8, 5])
    assert of_two[0] == color_of(5)
    assert of_two[3] == color_of(8)
    colors = np.array(shades([4] * 20), dtype=int)
    assert min(np.abs(a - b).max() for a, b in combinations(colors, 2)) > 15
    drawn = draw_detections(gray(480, 480), dots(3))
    inside = [drawn[16, 16 + 30 * k].astype(int) for k in range(3)]
    assert np.abs(inside[0] - tinted(color_of(4))).max() <= 1  # the best has the color of the class
    assert min(np.abs(a - b).max() for a, b in combinations(inside, 2)) > 15


@pytest.mark.parametrize("count", [1, 20, CROWD, CROWD + 1, 150])
def test_names_hide_neither_objects_nor_each_other(count: int) -> None:
    some_detections = dots(count)
    named: list[_Labels] = []
    kept = _Labels.write_on

    def spy(labels: _Labels, scene: np.ndarray) -> np.ndarray:
        named.append(labels)
        return kept(labels, scene)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Labels, "write_on", spy)
        draw_detections(gray(480, 480), some_detections)
    chips = named[0].chips
    names, legend = [c for c in chips if "×" not in c[4]], [c for c in chips if "×" in c[4]]
    assert (len(names) > 0) == (count <= CROWD)
    assert [c[4] for c in legend] == ([f"cell × {count}"] if count > CROWD else [])
    taken = np.zeros((480, 480), dtype=int)
    for left, top, width, height, *_ in names:
        assert left >= 0
        assert top >= 0
        assert left + width <= 480
        assert top + height <= 480
        taken[top : top + height, left : left + width] += 1
    assert taken.max(initial=0) <= 1
    assert not (taken.astype(bool) & some_detections.masks.any(0).numpy()).any()


def test_a_name_stands_inside_its_segment_where_it_fits() -> None:
    mask = torch.zeros(480, 640, dtype=torch.bool)
    mask[100:400, 50:350] = True
    mask[150:350, 120:350] = False  # a C, whose middle is not on it
    labels = _Labels(480, 640, 14)
    assert labels.add_inside(Named(mask, (0, 0, 255), ("a name", "n"), "a name"), mask.numpy())
    ((left, top, width, height, text, size, _),) = labels.chips
    assert (text, size) == ("a name", 14)
    assert mask[top : top + height, left : left + width].all()
    narrow = torch.zeros(480, 640, dtype=torch.bool)
    narrow[:200, 600:614] = True
    assert labels.add_inside(Named(narrow, (0, 0, 255), ("a name", "n"), "a name"), narrow.numpy())
    assert labels.chips[1][4] == "n"


def test_an_empty_mask_is_drawn_as_its_box() -> None:
    nothing = Named(torch.zeros(480, 640, dtype=torch.bool), (200, 10, 10), ("gone",), "gone", (50.4, 60.0, 300, 200))
    drawn = draw_named(gray(480, 640), [nothing])
    assert (drawn[60, 100:300] == (200, 10, 10)).all()
    assert (drawn[130, 100:250] == 128).all()


def test_masks_of_another_size_are_fitted_and_not_copied_as_a_whole() -> None:
    some_detections = dots(2, side=60)
    small = draw_detections(gray(60, 60), some_detections)  # eight times as large
    assert small.shape == (480, 480, 3)
    assert np.abs(small[16 * 8 + 4, 11 * 8] - tinted(color_of(4))).max() <= 1
    shrunk = draw_detections(gray(480, 480), dots(2), side=240)
    assert np.abs(shrunk[8, 8] - tinted(color_of(4))).max() <= 1


def test_shares_are_in_percent() -> None:
    assert [share_of(share) for share in (0.0, 0.001, 0.01, 0.126, 1.0)] == ["<1%", "<1%", "1%", "13%", "100%"]
