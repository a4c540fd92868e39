"""The layout of queries: its parts, in training and in evaluation, and which of them attend to each other."""

import torch

from detrkit.models.queries import QueryLayout, build_attn_mask

LAYOUT = QueryLayout(matching=4, groups=3, one2many=5, denoising=2)


def test_parts_lie_one_after_another_and_fill_the_queries():
    parts = list(LAYOUT.slices.values())
    assert list(LAYOUT.slices) == ["matching", "groups", "one2many", "denoising"]
    assert [part.stop - part.start for part in parts] == [4, 8, 5, 2]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == LAYOUT.total == 19


def test_evaluation_has_the_matching_queries_alone():
    assert LAYOUT.in_mode(training=True) == LAYOUT
    assert LAYOUT.in_mode(training=False) == QueryLayout(4)
    assert QueryLayout(4).slices == {
        "matching": slice(0, 4),
        "groups": slice(4, 4),
        "one2many": slice(4, 4),
        "denoising": slice(4, 4),
    }


def test_each_group_and_the_one_to_many_queries_attend_to_themselves():
    ids = LAYOUT.group_ids(2, torch.device("cpu"))
    assert ids.tolist() == [[0] * 4 + [-1] * 4 + [-2] * 4 + [-3] * 5] * 2
    attn_mask = build_attn_mask(ids)
    assert attn_mask.shape == (2, 1, 17, 17)
    assert torch.equal(attn_mask[0, 0], torch.block_diag(*(torch.ones(n, n) for n in (4, 4, 4, 5))).bool())
