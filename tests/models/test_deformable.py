"""Deformable attention against a loop over its formula, and the encoder and decoder made of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten

SHAPES = ((4, 5), (3, 2), (1, 2))
DIM, HEADS, LEVELS, POINTS = 8, 2, len(SHAPES), 3


def _memory(dtype):
    """Two images, the second of which fills a part of each level."""
    levels = []
    for height, width in SHAPES:
        padding = torch.zeros(2, height, width, dtype=torch.bool)
        padding[1, math.ceil(0.7 * height) :] = True
        padding[1, :, math.ceil(0.6 * width) :] = True
        features = torch.randn(2, DIM, height, width, dtype=dtype)
        levels.append(Level(features, padding, torch.zeros_like(features)))
    return flatten(levels)


def _attention(levels=LEVELS, dtype=torch.float64):
    """Attention that is not at its start, so that everything in it counts."""
    attention = DeformableAttention(DIM, HEADS, levels, POINTS).to(dtype)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention


def _setting(numbers, queries=4, dtype=torch.float64):
    torch.manual_seed(0)
    memory = _memory(dtype)
    attention = _attention(dtype=dtype)
    query = torch.randn(2, queries, DIM, dtype=dtype)
    reference = torch.rand(2, queries, numbers, dtype=dtype)
    return attention, query, reference, memory


def _read(grid, x, y):
    """The bilinear value of a grid [h, w, d] at x, y in 0..1, 0 outside."""
    height, width, _ = grid.shape
    x, y = x * width - 0.5, y * height - 0.5
    left, top = math.floor(x.item()), math.floor(y.item())
    total = 0 * grid[0, 0]
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total = total + grid[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def _naive(attention, query, reference, memory):
    """Equation 3, number by number."""
    heads, levels, points = attention.heads, attention.levels, attention.points
    values = attention.value_proj(memory.tokens) * (~memory.padding)[..., None]
    starts = [sum(h * w for h, w in memory.shapes[:level]) for level in range(levels)]
    out = []
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            offsets = attention.sampling_offsets(query[b, q]).view(heads, levels, points, 2)
            weights = attention.attention_weights(query[b, q]).view(heads, -1).softmax(-1).view(heads, levels, points)
            parts = []
            for head in range(heads):
                channels = slice(head * DIM // heads, (head + 1) * DIM // heads)
                mixed = 0
                for level, (height, width) in enumerate(memory.shapes):
                    grid = values[b, starts[level] : starts[level] + height * width, channels].view(height, width, -1)
                    wide, high = memory.valid_ratios[b, level].tolist()
                    for point in range(points):
                        dx, dy = offsets[head, level, point]
                        if reference.shape[-1] == 2:
                            dx, dy = dx / width, dy / height
                        else:
                            dx = dx / points * reference[b, q, 2] * wide / 2
                            dy = dy / points * reference[b, q, 3] * high / 2
                        x, y = reference[b, q, 0] * wide + dx, reference[b, q, 1] * high + dy
                        mixed = mixed + weights[head, level, point] * _read(grid, x, y)
                parts.append(mixed)
            out.append(attention.output_proj(torch.cat(parts)))
    return torch.stack(out).view_as(query)


@pytest.mark.parametrize("numbers", [2, 4])
def test_values_and_gradients_are_those_of_the_equation(numbers):
    attention, query, reference, memory = _setting(numbers)
    tokens = memory.tokens
    leaves = (query, reference, tokens)
    for leaf in leaves:
        leaf.requires_grad_()
    parameters = tuple(attention.parameters())
    results = []
    for function in (attention, lambda *args: _naive(attention, *args)):
        out = function(query, reference, replace(memory, tokens=tokens))
        gradients = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), leaves + parameters)
        results.append((out, *gradients))
    for ours, naive in zip(*results, strict=True):
        assert naive.abs().max() > 1e-3  # everything takes part
        torch.testing.assert_close(ours, naive)


@pytest.mark.parametrize("numbers", [2, 4])
def test_gradients_are_those_of_small_steps(numbers):
    attention, query, reference, memory = _setting(numbers, queries=2)
    leaves = [leaf.requires_grad_() for leaf in (query, reference, memory.tokens)]
    assert torch.autograd.gradcheck(lambda q, r, t: attention(q, r, replace(memory, tokens=t)), leaves, fast_mode=True)


def test_starts_as_the_paper_does():
    torch.manual_seed(0)
    attention = DeformableAttention(16, 8, 2, 3)
    queries = torch.randn(1, 5, 16)
    memory = flatten([_whole(1, 16, 10, 20), _whole(1, 16, 5, 10)])
    locations, weights = attention.sampling(queries, torch.full((1, 5, 2), 0.5), memory)
    torch.testing.assert_close(weights, torch.full((1, 5, 8, 2, 3), 1 / 6))
    compass = torch.tensor([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
    for level, size in enumerate(((20, 10), (10, 5))):
        for point in range(3):
            expected = 0.5 + compass * (point + 1) / torch.tensor(size)
            torch.testing.assert_close(locations[0, 2, :, level, point], expected)
    box = torch.tensor([0.5, 0.4, 0.2, 0.6]).expand(1, 5, 4)
    locations, _ = attention.sampling(queries, box, memory)  # the last point of each head is on the border
    expected = torch.tensor([0.5, 0.4]) + compass * torch.tensor([0.1, 0.3])
    torch.testing.assert_close(locations[0, 4, :, 1, 2], expected)


def test_can_be_started_anew():
    attention = _attention(dtype=torch.float32)
    attention.reset_parameters()
    fresh = DeformableAttention(DIM, HEADS, LEVELS, POINTS)
    assert torch.equal(attention.sampling_offsets.bias, fresh.sampling_offsets.bias)
    for name in ("sampling_offsets.weight", "attention_weights.weight", "attention_weights.bias", "output_proj.bias"):
        assert not attention.get_parameter(name).any()


def test_an_image_reads_the_same_with_padding_around():
    """Boxes are relative to the image, so growing the map by padding changes nothing; not what lies there either."""
    torch.manual_seed(0)
    attention = _attention(levels=2)
    query, reference = torch.randn(1, 5, DIM, dtype=torch.float64), torch.rand(1, 5, 4, dtype=torch.float64)
    small, large = [], []
    for height, width in ((4, 8), (2, 4)):  # padding a half of each: the valid shares are exact
        features = torch.randn(1, DIM, height, width, dtype=torch.float64)
        grown = torch.full((1, DIM, 2 * height, 2 * width), 1e6, dtype=torch.float64)
        grown[..., :height, :width] = features
        padding = torch.ones(1, 2 * height, 2 * width, dtype=torch.bool)
        padding[:, :height, :width] = False
        small.append(Level(features, torch.zeros(1, height, width, dtype=torch.bool), features))
        large.append(Level(grown, padding, grown))
    for given in (reference, reference[..., :2]):
        torch.testing.assert_close(attention(query, given, flatten(large)), attention(query, given, flatten(small)))


def test_an_image_of_padding_alone_reads_nothing():
    attention, query, reference, memory = _setting(4)
    memory = replace(memory, padding=torch.ones_like(memory.padding))
    expected = attention.output_proj.bias.expand_as(query)
    torch.testing.assert_close(attention(query, reference, memory), expected)


@pytest.mark.parametrize("numbers", [2, 4])
def test_equals_deformable_detr_of_transformers(numbers):
    pytest.importorskip("transformers")
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as published

    attention, query, reference, memory = _setting(numbers, dtype=torch.float32)
    config = DeformableDetrConfig(d_model=DIM, num_feature_levels=LEVELS)
    theirs = published.DeformableDetrMultiscaleDeformableAttention(config, num_heads=HEADS, n_points=POINTS)
    fresh = DeformableAttention(DIM, HEADS, LEVELS, POINTS)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    theirs.load_state_dict(attention.state_dict())
    valid = memory.valid_ratios.repeat(1, 1, numbers // 2)
    expected, _ = theirs(
        query,
        attention_mask=~memory.padding,
        encoder_hidden_states=memory.tokens,
        reference_points=reference[:, :, None] * valid[:, None],
        spatial_shapes=torch.tensor(memory.shapes),
        spatial_shapes_list=list(memory.shapes),
    )
    torch.testing.assert_close(attention(query, reference, memory), expected, rtol=1e-5, atol=1e-5)


def test_equals_rt_detr_of_transformers():
    pytest.importorskip("transformers")
    from transformers import RTDetrConfig
    from transformers.models.rt_detr import modeling_rt_detr as published

    attention, query, reference, memory = _setting(4, dtype=torch.float32)
    memory = replace(
        memory, valid_ratios=torch.ones_like(memory.valid_ratios), padding=torch.zeros_like(memory.padding)
    )
    config = RTDetrConfig(d_model=DIM, num_feature_levels=LEVELS)
    theirs = published.RTDetrMultiscaleDeformableAttention(config, num_heads=HEADS, n_points=POINTS)
    theirs.load_state_dict(attention.state_dict())
    expected, _ = theirs(
        query,
        encoder_hidden_states=memory.tokens,
        reference_points=reference[:, :, None],
        spatial_shapes=torch.tensor(memory.shapes),
        spatial_shapes_list=list(memory.shapes),
    )
    torch.testing.assert_close(attention(query, reference, memory), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_half_precision_keeps_the_locations_exact(whole):
    """Both under autocast and as a model that is bf16 throughout."""
    torch.manual_seed(0)
    attention = DeformableAttention(DIM, HEADS, 1, POINTS)
    nn.init.zeros_(attention.sampling_offsets.bias)
    width = 1024  # bf16 knows multiples of 4 cells there
    memory = flatten([_whole(1, DIM, 1, width)])
    query = torch.randn(1, 40, DIM)
    reference = torch.stack([torch.linspace(0.9, 0.91, 40), torch.full((40,), 0.5)], -1)[None]
    exact = attention(query, reference, memory)
    if whole:
        attention, query = attention.bfloat16(), query.bfloat16()
        out = attention(query, reference, replace(memory, tokens=memory.tokens.bfloat16()))
        locations, _ = attention.sampling(query, reference, memory)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = attention(query, reference, memory)
            locations, _ = attention.sampling(query, reference, memory)
    assert out.dtype == torch.bfloat16
    assert locations.dtype == torch.float32
    torch.testing.assert_close(locations[0, :, 0, 0, 0], reference[0])
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("numbers", [2, 4])
def test_compiles_to_one_graph(numbers):
    attention, query, reference, memory = _setting(numbers, dtype=torch.float32)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, reference, memory), attention(query, reference, memory))


class _Tensors(nn.Module):
    """The attention as a function of tensors, as exporters want it."""

    def __init__(self, attention, shapes):
        super().__init__()
        self.attention, self.shapes = attention, shapes

    def forward(self, query, reference, tokens, padding, valid):
        return self.attention(query, reference, Memory(tokens, tokens, padding, self.shapes, valid))


@pytest.mark.parametrize("numbers", [2, 4])
def test_onnx_gives_the_same_numbers(numbers, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    attention, query, reference, memory = _setting(numbers, dtype=torch.float32)
    inputs = (query, reference, memory.tokens, memory.padding, memory.valid_ratios)
    module = _Tensors(attention, memory.shapes).eval()
    torch.onnx.export(module, inputs, tmp_path / "attention.onnx", opset_version=18, dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "attention.onnx", providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    (out,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), module(*inputs).detach(), rtol=1e-4, atol=1e-5)


def _whole(batch, dim, height, width):
    """A level without padding."""
    features = torch.randn(batch, dim, height, width)
    return Level(features, torch.zeros(batch, height, width, dtype=torch.bool), torch.zeros_like(features))
