"""Laws of the model that hold for any images: padding, batch and order do not matter."""

from dataclasses import replace

import pytest
import torch

from detrkit import build_criterion
from tests.models.small import small_model, some_images, some_targets


@pytest.fixture(scope="module", params=[False, True], ids=["post_norm", "pre_norm"])
def model(request):
    model = small_model(pre_norm=request.param, enc_layers=2).eval()
    torch.nn.init.normal_(model.query_embed.weight, std=3)
    return model


def test_padded_features_never_reach_a_result(model):
    images, padding_mask = some_images((96, 160), (160, 64), (128, 128))
    (level,) = model.backbone.to_levels(model.input_proj(model.backbone(images)), padding_mask)
    assert level.padding.any(dim=(1, 2)).all()

    def objects(features):
        memory = model.transformer.encoder([replace(level, features=features)])
        layers, _ = model.transformer.decoder(model.query_embed(memory), memory, model._class_logits, model._box_logits)
        return torch.stack([layer.logits for layer in layers])

    plain = objects(level.features)
    where = level.padding[:, None].expand_as(level.features)
    for other in (torch.randn_like(plain.new_empty(where.shape)) * 100, torch.zeros(where.shape)):
        changed = objects(torch.where(where, other, level.features))
        torch.testing.assert_close(changed, plain, rtol=0, atol=1e-5)
    elsewhere = torch.where(where, 0 * level.features, 2 * level.features)  # the law is not empty: others do reach it
    assert (objects(elsewhere) - plain).abs().max() > 1e-3


def test_a_batch_of_one_shape_is_its_images_one_by_one(model):
    images, padding = some_images((96, 64), (96, 64), (96, 64))
    together = model(images, padding)
    for i in range(3):
        alone = model(images[i : i + 1], padding[i : i + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], rtol=0, atol=1e-5)


def test_permuting_queries_permutes_outputs(model):
    batch, order = some_images((96, 64)), torch.tensor([3, 1, 5, 0, 2, 4])
    before, queries = model(*batch), model.query_embed.weight.detach().clone()
    with torch.no_grad():
        model.query_embed.weight.copy_(queries[order])
        after = model(*batch)
        model.query_embed.weight.copy_(queries)
    torch.testing.assert_close(after.logits, before.logits[:, order], rtol=0, atol=1e-5)
    torch.testing.assert_close(after.boxes, before.boxes[:, order], rtol=0, atol=1e-5)
    assert (before.boxes[:, 0] - before.boxes[:, 1]).abs().max() > 1e-3


def test_permuting_objects_leaves_every_loss(model):
    criterion, out, targets = build_criterion(4), model(*some_images((96, 64), (96, 64))), some_targets(5, 3)
    turned = [{key: value.flip(0) for key, value in target.items()} for target in targets]
    a, b = criterion(out, targets), criterion(out, turned)
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-5)


def test_permuting_images_leaves_every_loss(model):
    criterion, out, targets = build_criterion(4), model(*some_images((96, 64), (96, 64))), some_targets(5, 3)
    flip = [replace(layer, logits=layer.logits.flip(0), boxes=layer.boxes.flip(0), aux=[]) for layer in (out, *out.aux)]
    a, b = criterion(out, targets), criterion(replace(flip[0], aux=flip[1:]), targets[::-1])
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-5)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (3, 0)], ids=str)
def test_images_without_objects_have_a_finite_loss_and_gradient(model, counts):
    criterion = build_criterion(4)
    out = model(*some_images(*[(64, 64)] * len(counts)))
    total = criterion.weighted_sum(criterion(out, some_targets(*counts)))
    model.zero_grad()
    total.backward()
    assert total.isfinite()
    # Every parameter takes part even then, so that data-parallel processes agree on what to exchange.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
