"""All decoder layers at once, and all costs in one go, beside one layer after another: pairs, losses and gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit import Output, build_criterion
from detrkit.losses.matcher import HungarianMatcher, LayerOutputs, MatchingProblem, to_numpy
from plain_criterion import plain_losses, plain_match
from tests.guarantees.helpers import batch as some_batch
from tests.guarantees.helpers import make_setup, with_random_heads
from tests.models.small import some_targets

KINDS = [
    "detr_resnet50",
    "detrkit_n",
    "dino_r50",
    "h_deformable_r50",
    "everything at once",
    "ATSS, matchability",
    "points",
]


def layers(count, some_images, queries, seed, sigmoid):
    generator = torch.Generator().manual_seed(seed)
    return [
        Output(
            3 * torch.randn(some_images, queries, 4 + (not sigmoid), generator=generator),
            0.2 + 0.5 * torch.rand(some_images, queries, 4, generator=generator),
            sigmoid=sigmoid,
        )
        for _ in range(count)
    ]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3),
    st.integers(0, 2**20), st.booleans(),
)  # fmt: skip
def test_pairs_and_their_order_are_those_of_one_layer_after_another(counts, many, groups, repeat, seed, sigmoid):
    outs, targets = layers(many, len(counts), 6 * groups, seed, sigmoid), some_targets(*counts, seed=seed)
    matcher = HungarianMatcher(2, 5, 2)
    actual = matcher.match_all([MatchingProblem(LayerOutputs.of(outs), targets, groups, repeat)])[0]
    assert len(actual) == many
    for layer, pairs in zip(outs, actual, strict=True):
        for one, other in zip(pairs, plain_match(matcher, layer, targets, groups, repeat), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_threads_find_the_same_pairs(monkeypatch):
    outs, targets = layers(3, 4, 40, 0, True), some_targets(9, 0, 30, 4)
    matcher, actual = HungarianMatcher(), []
    for least in (0, 10**9):
        monkeypatch.setattr("detrkit.losses.matcher._MIN_COSTS_FOR_THREADS", least)
        actual.append(matcher.match_all([MatchingProblem(LayerOutputs.of(outs), targets)])[0])
    for one, other in zip(*actual, strict=True):
        for (queries, objects), (others, theirs) in zip(one, other, strict=True):
            assert torch.equal(queries, others)
            assert torch.equal(objects, theirs)


def test_costs_are_of_own_images_alone():
    outs, targets = layers(2, 3, 5, 0, False), some_targets(4, 0, 2)
    costs = HungarianMatcher().costs(MatchingProblem(LayerOutputs.of(outs), targets))
    assert costs.shape == (6, 2, 5)
    alone = HungarianMatcher().costs(
        MatchingProblem(
            LayerOutputs.of([replace(out, logits=out.logits[2:], boxes=out.boxes[2:]) for out in outs]), targets[2:]
        )
    )
    assert torch.equal(costs[4:], alone)


def test_one_transfer_keeps_shapes_and_values():
    one, other = torch.arange(6).view(2, 3), torch.tensor([[-1.0], [2.0**24]])
    actual = to_numpy([one, other, one[:0]])
    assert [part.tolist() for part in actual] == [one.tolist(), other.tolist(), []]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_one_layer_after_another(kind):
    setup, batch = with_random_heads(make_setup(kind)), some_batch(3, 0, 5)
    out = setup.model.train()(batch.images, batch.padding_mask, batch.targets)
    leaves = [
        leaf
        for output in (out, *(branch.output for branch in out.branches))
        for layer in (output, *output.aux)
        for leaf in (layer.logits, layer.boxes)
    ]
    actual, gradients = [], []
    for losses in (setup.criterion(out, batch.targets), plain_losses(setup.criterion, out, batch.targets)):
        actual.append(losses)
        total = setup.criterion.weighted_sum(losses)
        gradients.append(torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True))
    assert list(actual[0]) == list(actual[1])
    for name, loss in actual[0].items():
        torch.testing.assert_close(loss, actual[1][name], rtol=1e-6, atol=1e-6)
    largest = max(gradient.abs().max() for gradient in gradients[1] if gradient is not None)
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(largest))


def test_the_weighted_sum_is_that_of_its_parts():
    criterion, out = build_criterion(4, cls_loss_coef=2), layers(1, 2, 5, 0, False)[0]
    losses = criterion(out, some_targets(2, 1))
    expected = 2 * losses["loss_ce"] + 5 * losses["loss_bbox"] + 2 * losses["loss_giou"]
    torch.testing.assert_close(criterion.weighted_sum(losses), expected, rtol=1e-6, atol=0)
