"""Repeat-factor sampling: rare classes more often, in epochs of one length, as a function of seed and epoch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detrkit.data.loader import EpochBatchSampler
from detrkit.data.records import ImageRecord, Split
from detrkit.data.repeat_factors import (
    LONGEST,
    class_factors,
    describe_repeats,
    draw_repeated,
    repeat_factors,
    suggest_threshold,
)
from detrkit.data.tile_records import tile_split
from detrkit.ops.tiles import Tiling
from tests.data.conftest import CATEGORIES, make_object

FACTORS = np.array([1.0, 2.5, 1.3, 0.5, 3.0, 1.0, 0.0, 1.7])


@pytest.fixture
def unequal() -> Split:
    """Twenty images with a bolt, of which two have a nut and one a washer; and one without objects."""
    images = []
    for k in range(21):
        objects = [make_object(3 * k + 1, 3, (10, 10, 20, 20))] if k < 20 else []
        objects += [make_object(3 * k + 2, 7, (60, 60, 70, 70))] if k in (3, 4) else []
        objects += [make_object(3 * k + 3, 20, (10, 60, 20, 70))] if k == 4 else []
        images.append(ImageRecord(k, Path(f"{k}.png"), f"{k}.png", 100, 100, objects))
    return Split("train", images, CATEGORIES, "")


def test_the_factor_of_an_image_is_the_largest_of_its_classes(unequal: Split) -> None:
    by_class = class_factors(unequal, 0.2)
    assert by_class == pytest.approx({3: 1.0, 7: (0.2 * 21 / 2) ** 0.5, 20: (0.2 * 21) ** 0.5})
    factors = repeat_factors(unequal, 0.2)
    assert factors is not None
    assert factors[:3].tolist() == [1, 1, 1]
    assert factors[3:5].tolist() == pytest.approx([by_class[7], by_class[20]])
    assert factors[20] == 1
    assert repeat_factors(unequal, 0.0) is None
    assert repeat_factors(unequal, 0.01) is None


def test_the_suggested_threshold_lengthens_an_epoch_by_at_most_half(unequal: Split) -> None:
    assert suggest_threshold(unequal) == 0.3
    many = [
        ImageRecord(
            k, Path(f"{k}.png"), f"{k}.png", 100, 100, [make_object(k, (3, 7, 20)[k // 2 % 3], (10, 10, 20, 20))]
        )
        for k in range(6)
    ]
    assert suggest_threshold(replace(unequal, images=many)) == 0  # each class is in a third of the images
    longer = [
        replace(image, objects=[make_object(100 + k, 7 if k < 2 else 20 if k < 11 else 3, (10, 10, 20, 20))])
        for k, image in enumerate(unequal.images)
    ]
    split = replace(unequal, images=longer)
    threshold = suggest_threshold(split)
    factors = repeat_factors(split, threshold)
    assert factors is not None
    assert 1 < factors.sum() / 21 <= LONGEST
    plain = replace(unequal, images=[replace(image, objects=image.objects[:1]) for image in unequal.images])
    assert suggest_threshold(plain) == 0


def test_crowds_make_no_class_frequent(unequal: Split) -> None:
    crowded = [
        replace(image, objects=[*image.objects, make_object(99, 20, (0, 0, 5, 5), crowd=True)])
        for image in unequal.images
    ]
    assert class_factors(replace(unequal, images=crowded), 0.2) == class_factors(unequal, 0.2)


def test_tiles_without_objects_occur_as_often_as_the_others_together(unequal: Split) -> None:
    cut = tile_split(unequal, Tiling(50, 10))
    factors = repeat_factors(cut, 0.0)
    assert factors is not None
    shown = np.array([image.has_trainable for image in cut.images])
    assert set(factors[shown]) == {1.0}
    assert factors[~shown].sum() == pytest.approx(shown.sum())
    assert class_factors(cut, 0.2) == pytest.approx(class_factors(unequal, 0.2))
    assert "tiles without objects per epoch" in describe_repeats(cut, 0.0)


def test_the_line_of_a_run_names_the_rare_classes(unequal: Split) -> None:
    assert describe_repeats(unequal, 0.0) == ""
    assert describe_repeats(unequal, 0.2) == (
        "images of washer 2.0 times, images of nut 1.4 times per epoch, which has 22 images"
    )


def test_epochs_have_one_length_and_the_mean_number_is_the_factor() -> None:
    counts = np.zeros(len(FACTORS))
    for epoch in range(2000):
        drawn = draw_repeated(FACTORS, np.random.default_rng((5, epoch)))
        assert len(drawn) == int(FACTORS.sum())
        one = np.bincount(drawn, minlength=len(FACTORS))
        assert (np.floor(FACTORS) - 1e-9 <= one).all()
        assert (one <= np.ceil(FACTORS)).all()
        counts += one
    assert np.abs(counts / 2000 - FACTORS).max() < 0.06


@pytest.mark.parametrize("batch_size", [2, 3, 20])
def test_ranks_divide_the_repeated_images_and_any_batch_can_be_the_first(batch_size: int) -> None:
    def batches(rank: int, world_size: int, epoch: int = 3, start: int = 0, size: int = batch_size) -> list[list[int]]:
        sampler = EpochBatchSampler(8, size, seed=1, rank=rank, world_size=world_size, repeats=FACTORS)
        sampler.set_epoch(epoch, start)
        found = [[key.image for key in batch] for batch in sampler]
        assert len(found) == len(sampler) - start
        return found

    one, other = batches(0, 2), batches(1, 2)
    assert len(one) == len(other)
    if batch_size < 20:
        assert [a + b for a, b in zip(one, other, strict=True)] == batches(0, 1, size=2 * batch_size)
    assert batches(0, 2, start=1) == one[1:]
    assert batches(0, 2) == one
    assert batches(0, 1, epoch=4) != batches(0, 1)


def test_without_factors_the_order_is_as_it_was() -> None:
    sampler = EpochBatchSampler(10, 3, seed=2)
    expected = np.random.default_rng((2, 0)).permutation(10)[:9].reshape(3, 3)
    assert [[key.image for key in batch] for batch in sampler] == expected.tolist()
