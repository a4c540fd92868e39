"""Laws of evaluation, which hold for every kind of model."""

import pytest
import torch

from .helpers import KINDS, layers_of, make_setup, some_images, targets, with_random_heads


@pytest.fixture(params=KINDS)
def model(request):
    return with_random_heads(make_setup(request.param, num_queries=8)).model.eval()


@torch.no_grad()
def test_images_of_one_shape_neither_see_each_other_nor_their_order_nor_the_objects(model):
    images, padding = some_images(3)  # noise of 1 ulp on them moves boxes of these random models by up to 3e-5
    together = model(images, padding)
    assert (together.logits[0] - together.logits[1]).abs().max() > 1e-3  # so the laws are not empty
    assert not together.branches

    for i in range(3):
        alone = model(images[i : i + 1], padding[i : i + 1])
        for one, of_all in zip(layers_of(alone), layers_of(together), strict=True):
            torch.testing.assert_close(one.logits[0], of_all.logits[i], rtol=0, atol=2e-4)
            torch.testing.assert_close(one.boxes[0], of_all.boxes[i], rtol=0, atol=1e-4)

    order = [2, 0, 1]
    turned = model(images[order], padding)
    for one, before in zip(layers_of(turned), layers_of(together), strict=True):
        torch.testing.assert_close(one.logits, before.logits[order], rtol=0, atol=2e-4)
        torch.testing.assert_close(one.boxes, before.boxes[order], rtol=0, atol=1e-4)

    with_targets = model(images, padding, targets(3, 0, 5))
    for one, before in zip(layers_of(with_targets), layers_of(together), strict=True):
        assert torch.equal(one.logits, before.logits)
        assert torch.equal(one.boxes, before.boxes)
