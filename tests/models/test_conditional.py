"""Conditional cross-attention and anchor queries follow their papers' formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten
from detrkit.models.layers.position_encoding import SinePosition
from tests.models.small import small_model

DIM, HEADS = 16, 2


def _memory(dim=DIM, dtype=torch.float64):
    """Two images on two levels, the second padded."""
    levels = []
    for height, width in ((4, 6), (2, 3)):
        padding = torch.zeros(2, height, width, dtype=torch.bool)
        padding[1, -(height // 2) :] = True
        padding[1, :, -1] = True
        position = SinePosition(dim)(padding).to(dtype)
        levels.append(Level(torch.randn(2, dim, height, width, dtype=dtype), padding, position))
    return flatten(levels)


def _setting(queries=3, dtype=torch.float64):
    """Attention that is not at its start, so that everything in it counts."""
    torch.manual_seed(0)
    attention = ConditionalAttention(DIM, HEADS).to(dtype)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    content = torch.randn(2, queries, DIM, dtype=dtype)
    reference = 0.1 + 0.8 * torch.rand(2, queries, 4, dtype=dtype)
    return attention, content, reference, _memory(dtype=dtype)


def _linear(layer, x):
    return layer.weight @ x + layer.bias


def _mlp(mlp, x):
    first, last = mlp.layers
    return _linear(last, _linear(first, x).clamp(min=0))


def _wave(number, channels):
    """The sine encoding of a number in 0..1."""
    out = []
    for k in range(channels // 2):
        angle = number * 2 * math.pi / 10000 ** (2 * k / channels)
        out += [angle.sin(), angle.cos()]
    return torch.stack(out)


def _naive(attention, content, reference, memory):
    """Each query of each image for itself, with its unpadded tokens alone."""
    out = []
    for b in range(len(content)):
        inside = ~memory.padding[b]
        for c, (x, y, w, h) in zip(content[b], reference[b], strict=True):
            wide, high = _mlp(attention.reference_size, c).sigmoid()
            center = torch.cat([_wave(y, DIM // 2) * (high / h), _wave(x, DIM // 2) * (wide / w)])
            where = _linear(attention.query_position, center * _mlp(attention.query_scale, c))
            what = _linear(attention.query_content, c)
            parts = []
            for head in range(HEADS):
                channels = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                scores, values = [], []
                for token, position in zip(memory.tokens[b, inside], memory.position[b, inside], strict=True):
                    fits = what[channels] @ _linear(attention.key_content, token)[channels]
                    lies = where[channels] @ _linear(attention.key_position, position)[channels]
                    scores.append((fits + lies) / math.sqrt(2 * DIM / HEADS))
                    values.append(_linear(attention.value_proj, token)[channels])
                parts.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            out.append(_linear(attention.output_proj, torch.cat(parts)))
    return torch.stack(out).view_as(content)


def test_values_and_gradients_are_those_of_the_equations():
    attention, content, reference, memory = _setting()
    leaves = (content.requires_grad_(), reference.requires_grad_(), memory.tokens.requires_grad_())
    parameters = [p for name, p in attention.named_parameters() if not name.startswith("key_") or "weight" in name]
    results = []
    for function in (attention, lambda *args: _naive(attention, *args)):
        out = function(content, reference, memory)
        weighted = out * torch.arange(out.numel()).view_as(out)
        results.append((out, *torch.autograd.grad(weighted.sum(), [*leaves, *parameters])))
    for ours, naive in zip(*results, strict=True):
        assert naive.abs().max() > 1e-3  # everything takes part (but a bias of the keys cancels in the softmax)
        torch.testing.assert_close(ours, naive)


@torch.no_grad()
def test_the_weights_are_those_that_make_the_output():
    attention, content, reference, memory = _setting()
    weights = attention.weights(content, reference, memory)
    assert weights[1, ..., memory.padding[1]].abs().max() == 0
    values = attention.value_proj(memory.tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.output_proj(mixed), attention(content, reference, memory))


def test_padding_is_never_looked_at():
    attention, content, reference, memory = _setting()
    plain = attention(content, reference, memory)
    noise = torch.where(memory.padding[..., None], 1e4, 0.0)
    other = replace(memory, tokens=memory.tokens + noise, position=memory.position - noise)
    assert torch.equal(attention(content, reference, other), plain)


def test_an_image_of_padding_alone_gives_numbers():
    attention, content, reference, memory = _setting()
    memory = replace(memory, padding=torch.tensor([[True], [False]]).expand_as(memory.padding))
    out = attention(content.requires_grad_(), reference, memory)
    out.sum().backward()
    assert out.isfinite().all()
    assert content.grad.isfinite().all()


def _look(attention, box, height=16, width=16):
    """How much a query without content attends to each cell, [M, h, w]: every cell holds a value of its own."""
    padding = torch.zeros(1, height, width, dtype=torch.bool)
    dim = attention.output_proj.in_features
    position = SinePosition(dim)(padding)
    memory = flatten([Level(torch.zeros_like(position), padding, position)])
    seen = []

    def attend(query, key, value, attn_mask, dropout_p):
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        seen.append(scores.softmax(-1))
        return scores.softmax(-1) @ value

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "scaled_dot_product_attention", attend)
        attention(torch.zeros(1, 1, dim), torch.tensor([[box]]), memory)
    return seen[0][0, :, 0].unflatten(-1, (height, width))


def _spread(weights):
    """Standard deviation of a distribution [n] over cells."""
    cells = torch.arange(len(weights)) / len(weights)
    mean = (weights * cells).sum()
    return ((weights * (cells - mean) ** 2).sum()).sqrt().item()


def test_a_narrower_anchor_narrows_the_attention_along_x():
    torch.manual_seed(0)
    attention = ConditionalAttention(64, 1)
    spreads = {}
    for width in (0.8, 0.1, 0.01):
        look = _look(attention, [0.5, 0.5, width, 0.4])[0]
        spreads[width] = (_spread(look.sum(1)), _spread(look.sum(0)))
        assert (look.sum(0).argmax() - 7).abs() <= 1  # around the anchor's center
        assert (look.sum(1).argmax() - 7).abs() <= 1
    (y, wide), (y_too, narrow), (y_again, narrowest) = spreads.values()
    assert wide > 1.2 * narrow
    assert narrow > 3 * narrowest
    assert y == pytest.approx(y_too, rel=1e-3) == pytest.approx(y_again, rel=1e-3)


@pytest.mark.parametrize(("dim", "heads"), [(64, 4), (48, 8)])  # 6 channels a head: waves cannot be dealt out evenly
def test_starts_with_every_head_around_the_anchor(dim, heads):
    look = _look(ConditionalAttention(dim, heads), [0.25, 0.75, 0.02, 0.02])
    row, column = look.sum(2).argmax(1), look.sum(1).argmax(1)
    whole = look.flatten(1).argmax(1)
    if dim % (4 * heads) == 0:
        assert whole.tolist() == [11 * 16 + 3] * heads  # cells count from 1: (11 + 1) / 16 and (3 + 1) / 16
    assert row.float().mean() == 11
    assert column.float().mean() == 3


def test_the_model_leaves_that_start_alone():
    model = small_model(query_init="anchors", decoder="conditional")
    for layer in model.transformer.decoder.layers:
        attention = layer.multihead_attn
        assert torch.equal(attention.key_position.weight, attention.query_position.weight)
        assert not attention.query_scale.layers[-1].weight.any()


def test_anchors_of_no_size_give_numbers():
    attention, content, reference, memory = _setting(dtype=torch.float32)
    reference[..., 2:] = 0
    out = attention(content, reference.requires_grad_(), memory)
    out.sum().backward()
    assert out.isfinite().all()
    assert reference.grad.isfinite().all()


@pytest.mark.parametrize("whole", [False, True])
def test_half_precision(whole):
    attention, content, reference, memory = _setting(dtype=torch.float32)
    attention.reset_parameters()
    exact = attention(content, reference, memory)
    if whole:
        half = replace(memory, tokens=memory.tokens.bfloat16())
        out = attention.bfloat16()(content.bfloat16(), reference, half)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = attention(content, reference, memory)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)


def test_dropout_is_of_training_alone():
    _, content, reference, memory = _setting(dtype=torch.float32)
    attention = ConditionalAttention(DIM, HEADS, dropout=0.5)
    once, again = (attention(content, reference, memory) for _ in range(2))
    assert not torch.equal(once, again)
    attention.eval()
    once, again = (attention(content, reference, memory) for _ in range(2))
    assert torch.equal(once, again)


def test_compiles_to_one_graph():
    attention, content, reference, memory = _setting(dtype=torch.float32)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(content, reference, memory), attention(content, reference, memory))


class _Tensors(nn.Module):
    """The attention as a function of tensors, as exporters want it."""

    def __init__(self, attention, shapes):
        super().__init__()
        self.attention, self.shapes = attention, shapes

    def forward(self, content, reference, tokens, position, padding, valid):
        return self.attention(content, reference, Memory(tokens, position, padding, self.shapes, valid))


def test_onnx_gives_the_same_numbers(tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    attention, content, reference, memory = _setting(dtype=torch.float32)
    inputs = (content, reference, memory.tokens, memory.position, memory.padding, memory.valid_ratios)
    module = _Tensors(attention, memory.shapes).eval()
    torch.onnx.export(module, inputs, tmp_path / "attention.onnx", opset_version=18, dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "attention.onnx", providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    (out,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), module(*inputs).detach(), rtol=1e-4, atol=1e-5)
