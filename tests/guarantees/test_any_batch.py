"""Whatever a batch holds (no object, more than there are queries, strange boxes), every kind of model learns of it."""

import pytest
import torch

from detrkit.structures import Batch, Target
from detrkit.training.optim import build_optimizer

from .helpers import KINDS, assert_finite, assert_taught, batch, begin, some_images, supervised


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_batches_without_objects(kind):
    """Every parameter takes part, since processes that train together wait for each other's gradients."""
    start = begin(kind)
    optimizer = build_optimizer(start.model, lr=1e-3, lr_backbone=1e-3, weight_decay=1e-4)
    for counts in ((3, 0), (0, 0), (0,), (2, 1)):
        assert supervised(start, batch(*counts, seed=sum(counts))) > 0, counts
        assert_taught(start)
        optimizer.step()
        assert_finite(start.model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_more_objects_than_queries(kind):
    start = begin(kind, num_queries=4, dn_queries=10)
    for counts in ((12, 1), (40, 0)):
        supervised(start, batch(*counts))
        assert_taught(start)


def test_more_objects_than_denoising_queries():
    start = begin("dino_r50", dn_queries=100)
    taught = batch(151, 2)
    out = start.model.train()(taught.images, taught.padding_mask, taught.targets)
    (noised,) = (branch for branch in out.branches if branch.name == "dn")
    used = (~noised.ignored).sum(1).tolist()
    assert used == [100, 100]
    assert [len(objects.unique()) for _, objects in noised.pairs] == [50, 2]  # a true and a false one of each
    supervised(start, taught)
    assert_taught(start)


@pytest.mark.parametrize("kind", KINDS)
def test_more_queries_than_places(kind):
    start = begin(kind, num_queries=300)
    supervised(start, batch(2, 1, size=32))
    assert_taught(start)
    supervised(start, batch(2, 1, size=64))  # and as many as there are elsewhere
    with torch.no_grad():
        out = start.model.eval()(*some_images(1, 32))
    assert 1 <= out.logits.shape[1] <= 300
    assert out.boxes.shape[1] == out.logits.shape[1]
    assert_finite({"logits": out.logits, "boxes": out.boxes})


def test_one2many_queries_where_no_token_is_left_for_one():
    """Processes that train together have the same branches, whatever the sizes of their images."""
    start = begin("h_deformable_r50", num_queries=300)
    taught = batch(2, 1, size=64)
    out = start.model.train()(taught.images, taught.padding_mask, taught.targets)
    (one2many,) = (branch for branch in out.branches if branch.name == "one2many")
    assert one2many.output.boxes.shape[1] == 0
    assert supervised(start, taught) > 0
    assert_taught(start)


def strange_boxes(pixels: int) -> Target:
    """In an image of so many pixels: boxes of a pixel, of the image, of a line, one twice, one on the border."""
    pixel = 1 / pixels
    boxes = torch.tensor(
        [
            [0.5, 0.5, pixel, pixel],
            [pixel / 2, 1 - pixel / 2, pixel, pixel],
            [0.5, 0.5, 1.0, 1.0],
            [0.5, 0.3, 1.0, pixel],
            [0.4, 0.4, 0.3, 0.3],
            [0.4, 0.4, 0.3, 0.3],
            [0.9, 0.9, 0.2, 0.2],
        ]
    )
    return {"labels": torch.tensor([0, 1, 0, 0, 2, 2, 0]), "boxes": boxes, "noise_seed": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_a_pixel_of_the_image_and_twice_the_same(kind):
    start = begin(kind, num_queries=10, dn_queries=30)
    optimizer = build_optimizer(start.model, lr=1e-3, lr_backbone=1e-3, weight_decay=1e-4)
    for pixels in (64, 4000):  # the second are far below a pixel of what the model sees
        for _ in range(2):
            supervised(start, Batch(*some_images(2), [strange_boxes(pixels), strange_boxes(pixels)]))
            assert_taught(start)
            optimizer.step()
    assert_finite(start.model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_taught_whatever_the_switches(kind):
    """Also by a batch without objects, and of more objects than queries, in a padded batch."""
    start = begin(kind, task="instance", hidden_dim=128, nheads=8, num_queries=4)
    for counts in ((3, 1), (0, 0), (9, 0)):
        taught = batch(*counts)
        taught.padding_mask[0, 48:] = True
        for target, height in zip(taught.targets, (48, 64), strict=True):
            target["masks"] = torch.rand(len(target["labels"]), height, 64) > 0.5
        supervised(start, taught)
        assert_taught(start)
    with torch.no_grad():
        out = start.model.eval()(*some_images(2))
    assert out.masks.shape == (2, 4, 16, 16)
    assert_finite({"masks": out.masks})
