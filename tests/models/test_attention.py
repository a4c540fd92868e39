"""Multi-head attention against PyTorch's, and the weights that are recorded for drawing."""

import torch

from detrkit.models.layers.attention import MultiheadAttention, padding_to_attn_mask, record_attention
from tests.models.small import small_model, some_images


def _twin(dim=16, heads=4):
    torch.manual_seed(0)
    ours = MultiheadAttention(dim, heads)
    torch.nn.init.normal_(ours.in_proj_bias)
    theirs = torch.nn.MultiheadAttention(dim, heads, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_attention_and_its_weights_are_those_of_torch():
    ours, theirs = _twin()
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    expected, weights = theirs(query, key, value, key_padding_mask=padding, average_attn_weights=False)
    attn_mask = padding_to_attn_mask(padding)
    torch.testing.assert_close(ours(query, key, value, attn_mask), expected)
    torch.testing.assert_close(ours.weights(query, key, attn_mask), weights)
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value)[0])


def test_an_image_of_padding_alone_gives_numbers():
    ours, _ = _twin()
    padding = torch.tensor([[True] * 7, [False] * 7])
    x = torch.randn(2, 7, 16, requires_grad=True)
    out = ours(x, x, x, padding_to_attn_mask(padding))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert ours.weights(x, x, padding_to_attn_mask(padding)).isfinite().all()


def test_recorded_weights_are_of_every_layer_and_leave_the_model_alone():
    model = small_model().eval()
    batch = some_images((64, 96), (96, 64))
    plain = model(*batch).logits
    layers = [layer.multihead_attn for layer in model.transformer.decoder.layers]
    with record_attention(layers) as weights:
        recorded = model(*batch).logits
    assert torch.equal(plain, recorded)
    assert [w.shape for w in weights] == [(2, 2, 6, 9)] * 2  # images, heads, queries, 3 x 3 cells
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 2, 6))
    assert (weights[0].unflatten(-1, (3, 3))[0, :, :, 2] == 0).all()  # the last row is padding in the first image
    model(*batch)
    assert len(weights) == 2
