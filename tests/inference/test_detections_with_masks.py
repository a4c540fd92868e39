"""Masks of detections: kept when detections are selected, moved, drawn or converted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detrkit import Categories, Detections
from detrkit.errors import DataError
from detrkit.ops.masks import decode_segmentation
from detrkit.visualization.canvas import color_of
from detrkit.visualization.segments import OPACITY


@pytest.fixture
def some_detections() -> Detections:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, :, 0] = True
    return Detections(
        xyxy=torch.tensor([[2.0, 1, 6, 3], [0, 0, 1, 5], [3, 3, 4, 4]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        class_ids=torch.tensor([1, 0, 1]),
        class_names=("pit", "scratch", "pit"),
        masks=masks,
        image_size=(5, 7),
        source="a.png",
    )


@pytest.mark.parametrize(
    ("keep", "places"),
    [
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([False, True, False]), [1]),
        (1, [1]),
        (-1, [2]),
        ([], []),
        (torch.tensor([0, 0]), [0, 0]),
    ],
)
def test_masks_are_selected_with_their_detections(some_detections: Detections, keep: object, places: list[int]) -> None:
    kept = some_detections[keep]
    assert kept.masks.shape == (len(places), 5, 7)
    for k, place in enumerate(places):
        assert torch.equal(kept.masks[k], some_detections.masks[place])
        assert kept.class_names[k] == some_detections.class_names[place]
    assert (kept.image_size, kept.source) == ((5, 7), "a.png")


def test_cpu_and_categories_keep_masks(some_detections: Detections) -> None:
    for other in (some_detections.cpu(), some_detections.with_categories(Categories((3, 7), ("scratch", "pit")))):
        assert torch.equal(other.masks, some_detections.masks)
    assert some_detections.with_categories(Categories((3, 7), ("scratch", "pit"))).class_ids.tolist() == [7, 3, 7]


def test_coco_results_have_rle(some_detections: Detections) -> None:
    rows = some_detections.to_coco(image_id=4)
    assert [row["segmentation"]["size"] for row in rows] == [[5, 7]] * 3
    for row, mask in zip(rows, some_detections.masks, strict=True):
        assert torch.equal(decode_segmentation(row["segmentation"], 5, 7), mask)
        assert isinstance(row["segmentation"]["counts"], str)  # as JSON wants it
    assert rows[0]["bbox"] == [2, 1, 4, 2]
    assert some_detections[[]].to_coco() == []


def test_supervision_gets_masks(some_detections: Detections) -> None:
    other = some_detections.to_supervision()
    assert other.mask.dtype == np.bool_
    assert np.array_equal(other.mask, some_detections.masks.numpy())
    assert other.area.tolist() == [8, 5, 0]
    assert len(some_detections[[]].to_supervision()) == 0


def test_drawing_tints_masks_and_falls_back_to_boxes(some_detections: Detections) -> None:
    drawn = some_detections.draw(np.full((5, 7, 3), 128, dtype=np.uint8))
    factor = drawn.shape[1] // 7
    assert drawn.shape == (5 * factor, 7 * factor, 3)
    for place, class_id in (((1, 5), 1), ((4, 0), 0)):
        y, x = (round((k + 0.6) * factor) for k in place)
        expected = (1 - OPACITY) * 128 + OPACITY * np.array(color_of(class_id))
        assert np.abs(drawn[y, x] - expected).max() <= 1
    outside = drawn[round(4.5 * factor), round(5.5 * factor)]
    assert (outside == 128).all()
    assert (drawn[4 * factor, round(3.5 * factor)] != 128).any()  # the lower edge of the empty one's box


def test_masks_must_fit_the_detections(some_detections: Detections) -> None:
    with pytest.raises(DataError, match=r"masks \[3, H, W\]"):
        Detections(
            some_detections.xyxy, some_detections.scores, some_detections.class_ids, masks=some_detections.masks[:2]
        )
    with pytest.raises(DataError, match="masks"):
        Detections(
            some_detections.xyxy, some_detections.scores, some_detections.class_ids, masks=some_detections.masks[0]
        )
