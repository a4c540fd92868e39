"""The loading benchmark: the reference recipe and detrkit do the same work, and every variant gives the same batch."""

import random
from pathlib import Path

import pytest
import torch

import data as benchmark

SIZE = 160


def test_the_reference_recipe_makes_the_same_images(tmp_path: Path) -> None:
    split = benchmark.draw_split(tmp_path, 4)
    variants = benchmark.Variants(split, SIZE, 2)
    cropped = 0
    for epoch in range(3):
        for k, image in enumerate(split.images):
            write_image, target = variants.detrkit[epoch, k]
            reference, expected = benchmark.reference_item(image, SIZE, random.Random(f"0 {epoch} {k}"))
            assert reference.shape == write_image.shape
            assert (target["labels"] + 1).tolist() == expected["labels"].tolist()
            assert torch.allclose(target["boxes"], expected["boxes"], atol=2e-3)
            assert (benchmark.normalized(write_image) - reference).abs().mean() < 0.03  # two levels of 255 are 0.035
            cropped += len(target["labels"]) < 7
    assert cropped


def test_every_step_on_the_way_gives_the_same_batch(tmp_path: Path) -> None:
    variants = benchmark.Variants(benchmark.draw_split(tmp_path, 3), SIZE, 2)
    _, floats, *others = variants.loads.values()
    batch = variants.load(variants.detrkit, 1, 0)
    for load in [*others, *others[-1:]]:  # the last one again, from its cache
        actual = load(1, 0)
        images = actual[0] if isinstance(actual, tuple) else actual.images
        assert torch.equal(images, batch.images)
    images, padding, _ = floats(1, 0)
    assert torch.equal(padding, batch.padding_mask)
    mean, std = (torch.tensor(values).mul_(255).view(3, 1, 1) for values in (benchmark.MEAN, benchmark.STD))
    expected = ((batch.images - mean) / std).masked_fill(padding[:, None], 0)
    assert torch.equal(images, expected)


def test_stages_add_up(tmp_path: Path) -> None:
    variants = benchmark.Variants(benchmark.draw_split(tmp_path, 2), SIZE, 2)
    stages = benchmark.stages_of(variants, 1)
    parts = sum(value for name, value in stages.items() if name != "total")
    assert stages["total"] == pytest.approx(parts)
    assert min(stages["decode"], stages["resize pixels"], stages["batch"]) > 0
    times = benchmark.seconds({"ours": lambda epoch, first: variants.load(variants.detrkit, epoch, first)}, variants, 2)
    assert times["ours"] > 0
