"""Projections of the backbone's maps to feature levels."""

import pytest
import torch
from torch.nn import functional as F

from detrkit.models.layers.input_proj import ChannelMapper, SingleLevelProj


def maps_of(*widths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, 16 // 2**i, 24 // 2**i, generator=generator) for i, c in enumerate(widths)]


def test_the_last_level_is_a_convolution_under_the_reference_keys():
    torch.manual_seed(0)
    mapper, (features,) = SingleLevelProj(6, 4), maps_of(6)
    assert set(mapper.state_dict()) == {"weight", "bias"}
    (projected,) = mapper([features])
    expected = torch.einsum("oc,bchw->bohw", mapper.weight[:, :, 0, 0], features) + mapper.bias[:, None, None]
    torch.testing.assert_close(projected, expected)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_further_levels_come_from_the_backbones_last_map_and_then_from_each_other(norm):
    """Written out from section 4.1 and appendix A.2 of Deformable DETR."""
    torch.manual_seed(0)
    mapper, maps = ChannelMapper((3, 5), 8, extra=2, norm=norm), maps_of(3, 5)
    mapper.eval()

    def step(number, x, **settings):
        conv, normalize = mapper[number]
        return normalize(F.conv2d(x, conv.weight, conv.bias, **settings))

    first, second = step(0, maps[0]), step(1, maps[1])
    third = step(2, maps[1], stride=2, padding=1)
    fourth = step(3, third, stride=2, padding=1)
    mapped = mapper(maps)
    assert [tuple(each.shape) for each in mapped] == [(2, 8, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3)]
    for ours, expected in zip(mapped, (first, second, third, fourth), strict=True):
        torch.testing.assert_close(ours, expected)
    assert mapper[2][0].weight.shape == (8, 5, 3, 3)
    assert mapper[3][0].weight.shape == (8, 8, 3, 3)


def test_a_mapper_without_further_levels():
    mapped = ChannelMapper((3, 5), 8)(maps_of(3, 5))
    assert [tuple(each.shape[1:]) for each in mapped] == [(8, 16, 24), (8, 8, 12)]


@pytest.mark.parametrize(("dim", "groups"), [(256, 32), (64, 32), (48, 16), (36, 4)])
def test_group_norm_takes_every_width(dim, groups):
    conv, norm = ChannelMapper((3,), dim)[0]
    assert norm.num_groups == groups
    assert (conv.bias == 0).all()
    bound = (6 / (3 + dim)) ** 0.5  # Glorot and Bengio 2010, eq. 16
    assert bound * 0.9 < conv.weight.abs().max() <= bound


def test_batch_norm_needs_no_bias():
    assert {key.split(".", 1)[1] for key in ChannelMapper((3,), 8, norm="batch").state_dict()} == {
        "0.weight",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
