"""Position encodings equal those of the reference DETR, and their learned variant."""

import math

import torch

from detrkit.models.layers.position_encoding import LearnedPosition, SinePosition, sine_of_boxes


def test_sine_position_of_one_cell_by_hand():
    padding = torch.ones(1, 4, 6, dtype=torch.bool)
    padding[:, :3, :5] = False
    encoding = SinePosition(8)(padding)
    assert encoding.shape == (1, 8, 4, 6)
    y, x = 2 / (3 + 1e-6) * 2 * math.pi, 4 / (5 + 1e-6) * 2 * math.pi  # row 2 of 3 and column 4 of 5, from 1
    slow = 10000**0.5
    expected = [f(v / t) for v in (y, x) for t in (1, slow) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoding[0, :, 1, 3], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_sine_position_does_not_see_the_padding_around():
    small = torch.zeros(1, 3, 5, dtype=torch.bool)
    large = torch.ones(1, 7, 9, dtype=torch.bool)
    large[:, :3, :5] = False
    sine = SinePosition(16)
    torch.testing.assert_close(sine(large)[:, :, :3, :5], sine(small))


def test_sine_of_boxes_by_hand():
    boxes = torch.tensor([[[0.25, 0.8]], [[0.0, 1.0]]], dtype=torch.float64)
    encoding = sine_of_boxes(boxes, 6, temperature=20.0)
    assert encoding.shape == (2, 1, 12)
    periods = (1, 20 ** (1 / 3), 20 ** (2 / 3))
    expected = [f(v * 2 * math.pi / t) for v in (0.25, 0.8) for t in periods for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoding[0, 0], torch.tensor(expected, dtype=torch.float64))


def test_sine_of_boxes_has_the_layout_of_sine_position():
    grid = SinePosition(16)(torch.zeros(1, 4, 5, dtype=torch.bool))[0]
    row_2_column_3 = torch.tensor([2 / 4, 3 / 5])  # the grid counts rows and columns from 1 to the end
    torch.testing.assert_close(sine_of_boxes(row_2_column_3, 8), grid[:, 1, 2], rtol=1e-4, atol=1e-5)


def test_sine_of_boxes_is_float32_under_half_precision():
    boxes = torch.tensor([[0.3, 0.9, 0.1, 0.2]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = sine_of_boxes(boxes, 8)
    assert encoding.dtype == torch.float32
    torch.testing.assert_close(encoding, sine_of_boxes(boxes.detach().float(), 8))
    encoding.sum().backward()
    assert boxes.grad.isfinite().all()


def test_learned_position_is_exact_to_50_and_interpolated_beyond():
    torch.manual_seed(0)
    learned = LearnedPosition(8)
    table = learned(torch.zeros(1, 50, 50, dtype=torch.bool))
    for row, column in ((0, 0), (49, 49), (3, 17)):
        expected = torch.cat([learned.col_embed.weight[column], learned.row_embed.weight[row]])
        assert torch.equal(table[0, :, row, column], expected)
    assert torch.equal(learned(torch.zeros(2, 20, 30, dtype=torch.bool))[1], table[0, :, :20, :30])

    wide = learned(torch.zeros(1, 30, 99, dtype=torch.bool))[0]
    assert wide.shape == (8, 30, 99)
    assert torch.equal(wide[4:, :, 0], learned.row_embed.weight[:30].T)
    # every second of the 99 cells coincides with one of the 50 that were learned
    torch.testing.assert_close(wide[:4, 0, ::2], learned.col_embed.weight.T)
    between = (learned.col_embed.weight[10] + learned.col_embed.weight[11]) / 2
    torch.testing.assert_close(wide[:4, 0, 21], between)
    wide.sum().backward()
    assert learned.col_embed.weight.grad.isfinite().all()
