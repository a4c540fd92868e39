"""Images of detections: what is drawn is where it belongs, in the color of its class, at any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Categories, Detections
from detrkit.errors import DataError
from detrkit.results import ground_truth_detections
from detrkit.visualization.canvas import READABLE_SIDE
from detrkit.visualization.draw import Tile, color_of, draw_detections, grid, resized, save_image, sheet
from tests.visualization.conftest import size_of


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def has_color(one_image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(one_image.astype(int) - color) <= 2).all(axis=2)


def nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_boxes_stand_where_they_belong_in_the_color_of_their_class(some_detections: Detections) -> None:
    before = gray(600, 800)
    large = replace(some_detections, xyxy=some_detections.xyxy * 10)
    drawn = draw_detections(before, large)
    assert drawn.shape == (600, 800, 3)
    assert drawn.dtype == np.uint8
    assert (before == 128).all()  # the image that came in is left alone
    for (x1, y1, x2, y2), class_id in zip(large.xyxy.int().tolist(), large.class_ids.tolist(), strict=True):
        there = has_color(drawn, color_of(class_id))
        for y, x in ((y2, (x1 + x2) // 2), ((y1 + y2) // 2, x1), ((y1 + y2) // 2, x2)):
            assert there[y, x]
        assert not there[(y1 + y2) // 2, (x1 + x2) // 2]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 30), (60, 80), (480, 640), (3000, 2000)])
def test_any_size_becomes_readable(some_detections: Detections, height: int, width: int) -> None:
    relative = replace(some_detections, xyxy=some_detections.xyxy / 80 * torch.tensor([width, height, width, height]))
    drawn = draw_detections(gray(height, width), relative)
    assert drawn.shape[0] * width == drawn.shape[1] * height  # a whole multiple
    assert max(drawn.shape) >= READABLE_SIDE
    if max(height, width) >= READABLE_SIDE:
        assert drawn.shape[:2] == (height, width)
    if width > 1:
        lines = has_color(drawn, color_of(7)).sum(axis=0)
        assert lines.max() > 0.3 * 0.9 * drawn.shape[0]  # an upright side of the box, whole


def test_classes_have_colors_of_their_own() -> None:
    colors = [color_of(k) for k in range(91)]
    assert len(set(colors)) == 91
    assert colors == [color_of(k) for k in range(91)]
    first = np.array(colors[:12], dtype=int)
    assert min(np.abs(a - b).max() for a, b in combinations(first, 2)) >= 40


def test_ground_truth_differs_from_detections(some_detections: Detections) -> None:
    large = replace(some_detections, xyxy=some_detections.xyxy * 10)
    drawn = draw_detections(gray(600, 800), nothing(), large)
    x1, y1, x2, _ = large.xyxy[1].int().tolist()
    top = drawn[y1 + 1, x1 + 4 : x2 - 4]
    white, black = has_color(top[None], (255, 255, 255)).mean(), has_color(top[None], (0, 0, 0)).mean()
    assert white > 0.3  # dashes
    assert black > 0.3
    assert not has_color(drawn, color_of(7)).any()


def test_masks_are_tinted_inside_alone(some_detections: Detections) -> None:
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 8:16, 10:24] = True
    masks[1, 32:44, 48:60] = True
    drawn = draw_detections(gray(60, 80), replace(some_detections, masks=masks))
    factor = drawn.shape[0] // 60
    inside, outside = drawn[34 * factor, 54 * factor], drawn[38 * factor, 66 * factor]
    assert (outside == 128).all()
    expected = 0.55 * 128 + 0.45 * np.array(color_of(7))
    assert np.abs(inside - expected).max() < 3


def test_invalid_boxes_are_not_drawn(some_detections: Detections) -> None:
    broken = replace(some_detections, xyxy=torch.tensor([[float("nan"), 0, 5, 5], [-500.0, -500, 9000, 9000]]))
    drawn = draw_detections(gray(480, 640), broken)
    assert has_color(drawn, color_of(7)).any()
    assert not has_color(drawn, color_of(3)).any()
    assert (draw_detections(gray(480, 640), nothing()) == 128).all()


def test_a_label_is_never_cut_off(some_detections: Detections) -> None:
    at_the_edges = replace(some_detections, xyxy=torch.tensor([[0.0, 0.0, 40.0, 40.0], [790.0, 590.0, 799.0, 599.0]]))
    drawn = draw_detections(gray(600, 800), at_the_edges)
    for class_id in (3, 7):
        ys, xs = np.nonzero(has_color(drawn, color_of(class_id)))
        assert np.ptp(xs) > 60  # the label's whole background, much wider than the box
        assert np.ptp(ys) >= 9


def test_images_come_as_paths_and_pil_too(some_detections: Detections, tmp_path: Path) -> None:
    save_image(tmp_path / "gray.png", gray(480, 640))
    expected = draw_detections(gray(480, 640), some_detections)
    for form in (tmp_path / "gray.png", str(tmp_path / "gray.png"), Image.open(tmp_path / "gray.png")):
        assert np.array_equal(draw_detections(form, some_detections), expected)
    with pytest.raises(DataError, match="uint8"):
        draw_detections(np.zeros((4, 4, 3)), some_detections)


def test_a_sheet_shows_ground_truth_beside_predictions(some_detections: Detections) -> None:
    one_image = gray(480, 640)
    large = replace(some_detections, xyxy=some_detections.xyxy * 8)
    page = sheet([Tile(one_image, large[[0]], large[[1]], "a/image.jpg")], side=320)
    titles = page.shape[0] - 240 - 2 * 6
    assert titles > 0
    left, right = page[titles:, : page.shape[1] // 2], page[titles:, page.shape[1] // 2 :]
    assert has_color(left, color_of(7)).any()  # truth
    assert not has_color(left, color_of(3)).any()
    assert has_color(right, color_of(3)).any()  # prediction
    assert not has_color(right, color_of(7)).any()
    alone = sheet([Tile(one_image, large)], side=320)
    assert alone.shape[1] < page.shape[1]
    assert alone.shape[0] < page.shape[0]  # no caption


def test_a_sheet_takes_images_of_any_size(some_detections: Detections) -> None:
    tiles = [Tile(gray(h, w), nothing(), nothing(), "x" * 300) for h, w in ((60, 80), (400, 30), (30, 400), (1, 1))]
    page = sheet(tiles, columns=2, side=120)
    assert page.dtype == np.uint8
    assert page.shape[1] < 2 * (2 * 120 + 40)
    assert sheet(tiles, columns=99, side=120).shape[1] > page.shape[1]
    with pytest.raises(DataError, match="at least one"):
        sheet([])


def test_ground_truth_detections_take_original_ids() -> None:
    categories = Categories((3, 7), ("scratch", "pit"))
    gt = ground_truth_detections([(1, 2, 3, 4), (5, 6, 7, 8)], [7, 99], categories)
    assert gt.class_ids.tolist() == [7, 99]
    assert gt.class_names == ("pit", "99")
    assert gt.xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(ground_truth_detections([], [], categories)) == 0


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    for ending in ("jpg", "png", "webp", "bmp"):
        save_image(tmp_path / f"a.{ending}", gray(20, 30))
        assert size_of(tmp_path / f"a.{ending}") == (30, 20)
    for name in ("a.xyz", "a", "a.pdf.nonsense"):
        with pytest.raises(DataError, match=r"\.jpg or \.png"):
            save_image(tmp_path / name, gray(20, 30))
    assert len(list(tmp_path.iterdir())) == 4


def test_grid_and_resized() -> None:
    page = grid([gray(10, 20), gray(12, 8), gray(5, 5)], columns=2)
    assert page.shape == (2 * 12 + 3 * 6, 2 * 20 + 3 * 6, 3)
    assert has_color(page, (128, 128, 128)).sum() == 10 * 20 + 12 * 8 + 5 * 5
    assert resized(gray(30, 60), 20).shape == (10, 20, 3)
    assert resized(gray(30, 60), 120).shape == (60, 120, 3)
