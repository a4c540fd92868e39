"""Whatever a batch holds (no object, more than there are queries, strange boxes), every kind of model learns of it."""

import pytest
import torch

from detrkit.structures import Batch, Target
from detrkit.training.optim import build_optimizer

from .helpers import KINDS, assert_all_have_gradients, assert_finite, batch, loss_and_gradients, make_setup, some_images


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_batches_without_objects(kind):
    """Every parameter takes part, since processes that train together wait for each other's gradients."""
    setup = make_setup(kind)
    optimizer = build_optimizer(setup.model, lr=1e-3, lr_backbone=1e-3, weight_decay=1e-4)
    for counts in ((3, 0), (0, 0), (0,), (2, 1)):
        assert loss_and_gradients(setup, batch(*counts, seed=sum(counts))) > 0, counts
        assert_all_have_gradients(setup)
        optimizer.step()
        assert_finite(setup.model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_more_objects_than_queries(kind):
    setup = make_setup(kind, num_queries=4, dn_queries=10)
    for counts in ((12, 1), (40, 0)):
        loss_and_gradients(setup, batch(*counts))
        assert_all_have_gradients(setup)


def test_more_objects_than_denoising_queries():
    setup = make_setup("dino_r50", dn_queries=100)
    one_batch = batch(151, 2)
    out = setup.model.train()(one_batch.images, one_batch.padding_mask, one_batch.targets)
    (noised,) = (branch for branch in out.branches if branch.name == "dn")
    used = (~noised.ignored).sum(1).tolist()
    assert used == [100, 100]
    assert [len(objects.unique()) for _, objects in noised.pairs] == [50, 2]  # a true and a false one of each
    loss_and_gradients(setup, one_batch)
    assert_all_have_gradients(setup)


@pytest.mark.parametrize("kind", KINDS)
def test_more_queries_than_tokens(kind):
    setup = make_setup(kind, num_queries=300)
    loss_and_gradients(setup, batch(2, 1, size=32))
    assert_all_have_gradients(setup)
    loss_and_gradients(setup, batch(2, 1, size=64))  # and as many as there are elsewhere
    with torch.no_grad():
        out = setup.model.eval()(*some_images(1, 32))
    assert 1 <= out.logits.shape[1] <= 300
    assert out.boxes.shape[1] == out.logits.shape[1]
    assert_finite({"logits": out.logits, "boxes": out.boxes})


def test_one2many_queries_where_no_token_is_left_for_one():
    """Processes that train together have the same branches, whatever the sizes of their images."""
    setup = make_setup("h_deformable_r50", num_queries=300)
    one_batch = batch(2, 1, size=64)
    out = setup.model.train()(one_batch.images, one_batch.padding_mask, one_batch.targets)
    (one2many,) = (branch for branch in out.branches if branch.name == "one2many")
    assert one2many.output.boxes.shape[1] == 0
    assert loss_and_gradients(setup, one_batch) > 0
    assert_all_have_gradients(setup)


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
    setup = make_setup(kind, num_queries=10, dn_queries=30)
    optimizer = build_optimizer(setup.model, lr=1e-3, lr_backbone=1e-3, weight_decay=1e-4)
    for pixels in (64, 4000):  # the second are far below a pixel of what the model sees
        for _ in range(2):
            loss_and_gradients(setup, Batch(*some_images(2), [strange_boxes(pixels), strange_boxes(pixels)]))
            assert_all_have_gradients(setup)
            optimizer.step()
    assert_finite(setup.model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_have_gradients_with_any_switches(kind):
    """Also by a batch without objects, and of more objects than queries, in a padded batch."""
    setup = make_setup(kind, task="instance", hidden_dim=128, nheads=8, num_queries=4)
    for counts in ((3, 1), (0, 0), (9, 0)):
        one_batch = batch(*counts)
        one_batch.padding_mask[0, 48:] = True
        for target, height in zip(one_batch.targets, (48, 64), strict=True):
            target["masks"] = torch.rand(len(target["labels"]), height, 64) > 0.5
        loss_and_gradients(setup, one_batch)
        assert_all_have_gradients(setup)
    with torch.no_grad():
        out = setup.model.eval()(*some_images(2))
    assert out.masks.shape == (2, 4, 16, 16)
    assert_finite({"masks": out.masks})
