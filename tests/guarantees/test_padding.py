"""An image in a padded batch gives what it gives alone, from the levels on, for every kind of model.

Below them, in the backbone, the border of an image meets zeros, and padding is zeros that have been through a layer:
that small difference is the original's as well.
"""

import pytest
import torch
from torch.nn import functional as F

from .helpers import KINDS, layers_of, make_setup, some_images, with_random_heads


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_changes_nothing(kind):
    model = with_random_heads(make_setup(kind, num_queries=4)).model.eval()
    if hasattr(model.query_embed, "enc_output"):
        prefer_padding(model.query_embed)
    images, padding = some_images(1, size=128)
    settle_norms(model, images, padding)
    maps = [m * 2 for m in model.input_proj(model.backbone(images))]
    wide = F.pad(padding, (0, 128, 0, 64), value=True)
    maps_wide = [F.pad(m, (0, m.shape[3], 0, (m.shape[2] + 1) // 2), value=3.0) for m in maps]

    alone = see(model, model.backbone.to_levels(maps, padding))
    padded = see(model, model.backbone.to_levels(maps_wide, wide))
    for one, other in zip(layers_of(alone), layers_of(padded), strict=True):
        torch.testing.assert_close(other.logits, one.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=1e-4)

    stretched = see(model, model.backbone.to_levels(maps_wide, torch.zeros_like(wide)))
    assert (stretched.logits - alone.logits).abs().max() > 1e-2  # so the law is not empty


def settle_norms(model, images, padding):
    """Give the batch norms of a hybrid encoder the statistics of what they see, as training does: with those of a new
    model, its many convolutions make tokens that are alike but for rounding, which then chooses the queries."""
    encoder = model.transformer.encoder
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    encoder.train()
    model(images, padding)
    model.eval()


def prefer_padding(source):
    """Make nothing look better to the head that picks places than a token of zeros, which is what padding has."""
    torch.nn.init.normal_(source.enc_output.bias)
    nothing = source.enc_norm(source.enc_output.bias)
    source.enc_class.weight.zero_()
    source.enc_class.weight[0] = nothing / len(nothing)


def see(model, levels):
    """What the model makes of its levels: `DETR.forward` without the backbone."""
    memory = model.transformer.encoder(levels)
    dense = model.dense_head(memory) if model.dense_selects_queries else None
    queries = model.query_embed(memory, dense)
    layers, _ = model.transformer.decoder(queries, memory, model._class_logits, model._box_logits)
    return model._output(layers, queries.layout.slices["matching"])
