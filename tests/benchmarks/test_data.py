"""The benchmark of loading: the original's recipe and ours do the same work, and every step between gives our batch."""

import random
import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # they are scripts

import data as benchmark

SIZE = 160


def test_the_originals_recipe_makes_the_same_images(tmp_path: Path) -> None:
    split = benchmark.draw_split(tmp_path, 4)
    ways = benchmark.Ways(split, SIZE, 2)
    cropped = 0
    for epoch in range(3):
        for k, image in enumerate(split.images):
            write_image, target = ways.ours[epoch, k]
            theirs, wanted = benchmark.original_item(image, SIZE, random.Random(f"0 {epoch} {k}"))
            assert theirs.shape == write_image.shape
            assert (target["labels"] + 1).tolist() == wanted["labels"].tolist()
            assert torch.allclose(target["boxes"], wanted["boxes"], atol=2e-3)
            assert (benchmark.normalised(write_image) - theirs).abs().mean() < 0.03  # two levels of 255 are 0.035
            cropped += len(target["labels"]) < 7
    assert cropped


def test_every_step_on_the_way_gives_the_same_batch(tmp_path: Path) -> None:
    ways = benchmark.Ways(benchmark.draw_split(tmp_path, 3), SIZE, 2)
    _, floats, *others = ways.ways.values()
    batch = ways.load(ways.ours, 1, 0)
    for load in [*others, *others[-1:]]:  # the last one again, from its cache
        found = load(1, 0)
        images = found[0] if isinstance(found, tuple) else found.images
        assert torch.equal(images, batch.images)
    images, padding, _ = floats(1, 0)
    assert torch.equal(padding, batch.padding_mask)
    mean, std = (torch.tensor(values).mul_(255).view(3, 1, 1) for values in (benchmark.MEAN, benchmark.STD))
    expected = ((batch.images - mean) / std).masked_fill(padding[:, None], 0)
    assert torch.equal(images, expected)


def test_stages_add_up(tmp_path: Path) -> None:
    ways = benchmark.Ways(benchmark.draw_split(tmp_path, 2), SIZE, 2)
    stages = benchmark.stages_of(ways, 1)
    parts = sum(value for name, value in stages.items() if name != "total")
    assert stages["total"] == pytest.approx(parts)
    assert min(stages["decode"], stages["resize pixels"], stages["batch"]) > 0
    times = benchmark.seconds({"ours": lambda epoch, first: ways.load(ways.ours, epoch, first)}, ways, 2)
    assert times["ours"] > 0
