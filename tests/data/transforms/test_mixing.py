"""Mosaic, mix-up and copy-paste, against what is to be seen in the pixels."""

import random

import pytest
import torch

from detrkit.data.transforms.mixing import (
    MIN_VISIBLE,
    concat_objects,
    copy_paste,
    fit_boxes_to_masks,
    mixup,
    mosaic,
    random_window,
    select_objects,
)
from detrkit.data.transforms.resize_crop import crop, no_objects, resized_size

from .scenes import BRIGHT, assert_boxes_follow, extent, iou, pixels_of, rectangles, scene


def same_size(height: int, width: int) -> tuple[int, int]:
    return height, width


def shorter_160(height: int, width: int) -> tuple[int, int]:
    return resized_size(height, width, 160, 266)


GROUNDS = (20, 45, 70, 95)


def four_scenes(rng: random.Random) -> tuple[list, dict[int, int]]:
    """Four images of several sizes on different grays, and the gray under each label."""
    samples, ground_of = [], {}
    for labels, ground in zip(([1, 2], [3, 4], [5, 6], [7]), GROUNDS, strict=True):
        height, width = rng.randint(90, 260), rng.randint(90, 260)
        samples.append(scene(height, width, rectangles(rng, height, width, labels), ground=ground, masks=True))
        ground_of |= dict.fromkeys(labels, ground)
    return samples, ground_of


@pytest.mark.parametrize("seed", range(40))
def test_boxes_and_masks_of_a_mosaic_follow_its_pixels(seed: int) -> None:
    rng = random.Random(seed)
    samples, ground_of = four_scenes(rng)
    image, objects = mosaic(samples, shorter_160, rng)
    assert tuple(image.shape[1:]) == shorter_160(*samples[0][0].shape[1:])
    assert image.dtype == torch.uint8
    assert_boxes_follow(image, objects)
    for label, mask, box in zip(objects["labels"].tolist(), objects["masks"], objects["boxes"].tolist(), strict=True):
        seen = pixels_of(image, label)
        assert (mask.bool() ^ seen).sum() <= 0.1 * seen.sum() + 2 * (box[2] - box[0] + box[3] - box[1])
    for label in set(range(1, 8)) - set(objects["labels"].tolist()):
        seen = pixels_of(image, label)
        if seen.any():
            assert not lies_free(image, seen, ground_of[label]), f"{label} is whole and has no box"


def lies_free(image: torch.Tensor, seen: torch.Tensor, ground: int) -> bool:
    """Whether there is nothing but its own ground around the box of an object: then nothing of it was cut off."""
    x1, y1, x2, y2 = (int(v) for v in extent(seen))
    outer = (slice(max(0, y1 - 4), y2 + 4), slice(max(0, x1 - 4), x2 + 4))
    whole = y1 >= 4 and x1 >= 4 and y2 + 4 <= image.shape[1] and x2 + 4 <= image.shape[2]
    ring = torch.ones(seen.shape, dtype=torch.bool)[outer]
    ring[2:-2, 2:-2] = False
    return whole and bool(((image[:, *outer].float() - ground).abs() < 4).all(dim=0)[ring].all())


def test_a_mosaic_leaves_nothing_empty_and_shows_all_four() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        plain = [scene(rng.randint(30, 200), rng.randint(30, 200), {}, ground=g)[0] for g in GROUNDS]
        image, objects = mosaic([(p, no_objects(*p.shape[1:])) for p in plain], shorter_160, rng)
        assert set(image.unique().tolist()) == set(GROUNDS)
        for ground in GROUNDS:
            assert (image[0] == ground).float().mean() >= 0.08
        assert len(objects["labels"]) == 0


def test_a_mosaic_doubles_the_objects_and_shrinks_them() -> None:
    grid = {k: (8 + 32 * (k % 6), 8 + 32 * (k // 6), 24 + 32 * (k % 6), 24 + 32 * (k // 6)) for k in range(36)}
    image, objects = scene(192, 192, dict.fromkeys([0], (0, 0, 1, 1)))
    boxes = torch.tensor(list(grid.values()), dtype=torch.float32)
    objects["boxes"] = type(objects["boxes"])(boxes, format="XYXY", canvas_size=(192, 192))
    objects["labels"], objects["area"] = torch.zeros(36, dtype=torch.int64), torch.full((36,), 256.0)
    counts, sides = [], []
    for seed in range(40):
        _, mixed = mosaic([(image, objects)] * 4, same_size, random.Random(seed))
        counts.append(len(mixed["labels"]))
        sides.append((mixed["boxes"][:, 2:] - mixed["boxes"][:, :2]).as_subclass(torch.Tensor).max().item())
    assert 1.9 <= sum(counts) / 40 / 36 <= 3
    assert max(counts) <= 4 * 36
    assert 8 <= min(sides) < 12 < max(sides) <= 17


def test_a_window_keeps_objects_that_it_shows_whole() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        image, objects = scene(100, 140, rectangles(rng, 100, 140, [1, 2, 4]))
        size = (rng.randint(20, 90), rng.randint(20, 90))
        shown, kept = random_window(image, objects, size, rng.uniform(0.3, 2), rng)
        assert tuple(shown.shape[1:]) == size
        assert_boxes_follow(shown, kept, least=0.85)
        for label in {1, 2, 4} - set(kept["labels"].tolist()):
            seen = pixels_of(shown, label)
            if seen.any():
                x1, y1, x2, y2 = extent(seen)
                assert min(x1, y1) == 0 or x2 == size[1] or y2 == size[0]


def test_cut_objects_stay_while_a_quarter_and_two_pixels_are_left() -> None:
    image, objects = scene(40, 40, {1: (0, 0, 20, 20), 2: (0, 20, 4, 40), 3: (30, 30, 31, 31), 4: (38, 0, 39, 40)})

    def labels(top: int, left: int) -> list[int]:
        return crop(image, objects, top, left, 40 - top, 40 - left, min_visible=MIN_VISIBLE)[1]["labels"].tolist()

    assert labels(0, 0) == [1, 2, 3, 4]  # a pixel that was small from the start is no scrap
    assert labels(0, 2) == [1, 2, 3, 4]
    assert labels(0, 3) == [1, 3, 4]  # a quarter of the second is left, but one pixel wide
    assert labels(0, 15) == [1, 3, 4]
    assert labels(0, 16) == [3, 4]
    assert labels(30, 0) == [2, 3, 4]
    assert labels(31, 0) == [2]
    _, kept = crop(image, objects, 0, 15, 40, 25, min_visible=MIN_VISIBLE)
    assert kept["boxes"][0].tolist() == [0, 0, 5, 20]


def test_mix_up_is_the_mean_with_the_objects_of_both() -> None:
    first, objects = scene(80, 120, {1: (10, 10, 50, 40)}, masks=True)
    second, others = scene(40, 60, {2: (20, 12, 50, 30)}, masks=True)
    image, mixed = mixup((first, objects), (second, others), random.Random(0))
    assert mixed["labels"].tolist() == [1, 2]
    assert mixed["boxes"].tolist() == [[10, 10, 50, 40], [40, 24, 100, 60]]
    assert mixed["masks"].shape == (2, 80, 120)
    assert extent(mixed["masks"][1].bool()) == (40, 24, 100, 60)
    assert image.dtype == torch.uint8
    assert image[:, 20, 20].tolist() == [BRIGHT // 2, 0, 0]
    assert image[:, 35, 45].tolist() == [BRIGHT // 2, BRIGHT // 2, 0]
    assert extent(image[1] > BRIGHT // 4) == (40, 24, 100, 60)
    assert first[0, 20, 20] == BRIGHT  # the sources are untouched
    empty = scene(30, 30, {}, masks=True)
    assert mixup((first, objects), empty, random.Random(0))[1]["labels"].tolist() == [1]
    assert mixup(empty, empty, random.Random(0))[1]["masks"].shape == (0, 30, 30)


def test_pasted_objects_cover_what_was_there() -> None:
    pasted, lost, untouched = 0, 0, 0
    for seed in range(120):
        rng = random.Random(seed)
        first = scene(100, 140, rectangles(rng, 100, 140, [1, 2]), ground=40, masks=True)
        pieces = rectangles(rng, 90, 120, [4, 5, 6]) if seed % 3 else {4: (2, 2, 118, 88)}
        second = scene(90, 120, pieces, ground=90, masks=True)
        image, objects = copy_paste(first, second, same_size, rng)
        assert image.shape == first[0].shape
        shown = dict(zip(objects["labels"].tolist(), objects["masks"].bool(), strict=True))
        assert (objects["masks"].sum(dim=0) <= 1).all()  # no pixel belongs to two
        for label, box, area in zip(
            objects["labels"].tolist(), objects["boxes"].tolist(), objects["area"].tolist(), strict=True
        ):
            # Masks are resized to the nearest pixel, images with blurred edges: those may differ by a pixel.
            seen, mask = pixels_of(image, label), shown[label]
            around = 2 * (box[2] - box[0] + box[3] - box[1])
            assert (seen ^ mask).sum() <= (0 if label in (1, 2) else around)
            assert extent(mask) == tuple(box)
            assert mask.sum() == area
        for row, label in enumerate((1, 2)):
            before = first[1]["masks"][row].bool()
            left = pixels_of(image, label).sum() / before.sum()
            assert (label in shown) == bool(left >= MIN_VISIBLE)
            lost += label not in shown
            untouched += bool(left == 1)
            if left == 1:
                assert objects["boxes"][objects["labels"] == label][0].tolist() == first[1]["boxes"][row].tolist()
        new = [label for label in shown if label >= 4]
        pasted += len(new)
        assert (image == 90).all(dim=0).float().mean() < 0.01  # of the second image's ground nothing comes along
    assert pasted > 100
    assert lost > 3
    assert untouched > 100


def test_paste_nothing_is_the_image_itself() -> None:
    first = scene(60, 60, {1: (5, 5, 30, 30)}, masks=True)
    for seed in range(5):
        image, objects = copy_paste(first, scene(40, 50, {}, masks=True), same_size, random.Random(seed))
        assert torch.equal(image, first[0])
        assert objects["boxes"].tolist() == [[5, 5, 30, 30]]


def test_select_and_join_are_inverse() -> None:
    _, objects = scene(60, 90, {1: (5, 5, 30, 30), 2: (40, 6, 60, 50), 4: (70, 8, 80, 20)}, masks=True)
    which = torch.tensor([True, False, True])
    again = concat_objects([select_objects(objects, which), select_objects(objects, ~which)])
    assert again["labels"].tolist() == [1, 4, 2]
    assert again["boxes"].tolist() == [objects["boxes"][k].tolist() for k in (0, 2, 1)]
    assert torch.equal(again["masks"][2], objects["masks"][1])


def test_tighten_takes_the_extent_of_the_mask() -> None:
    _, objects = scene(60, 90, {1: (5, 5, 30, 30), 2: (40, 6, 60, 50)}, masks=True)
    objects["masks"][:, :10] = False
    tight = fit_boxes_to_masks(objects, torch.tensor([False, True]))
    assert tight["boxes"].tolist() == [[5, 5, 30, 30], [40, 10, 60, 50]]
    assert tight["area"].tolist() == [625, 800]
    assert fit_boxes_to_masks(objects)["boxes"][0].tolist() == [5, 10, 30, 30]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (500, 7)])
def test_hostile_sizes(shape: tuple[int, int]) -> None:
    height, width = shape
    odd = scene(height, width, {1: (0, 0, width, height)}, masks=True)
    usual = scene(80, 120, {2: (10, 10, 100, 60)}, masks=True)
    for seed in range(10):
        rng = random.Random(seed)
        for samples in ([odd] * 4, [usual, odd, odd, usual], [odd, usual, usual, usual]):
            mixes = (
                mosaic(samples, shorter_160, rng),
                mixup(samples[0], samples[1], rng),
                copy_paste(samples[0], samples[1], shorter_160, rng),
            )
            for image, objects in mixes:
                h, w = image.shape[1:]
                boxes = objects["boxes"].as_subclass(torch.Tensor)
                assert objects["masks"].shape == (len(boxes), h, w)
                assert (boxes[:, 2:] > boxes[:, :2]).all()
                assert (boxes >= 0).all()
                assert (boxes <= torch.tensor([w, h, w, h]) + 1e-3).all()
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
