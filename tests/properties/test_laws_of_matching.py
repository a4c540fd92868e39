"""Laws of the matching that hold for any outputs and targets."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit import Output, build_criterion
from detrkit.errors import ConfigError
from detrkit.losses.matcher import HungarianMatcher, LayerOutputs, MatchingProblem
from tests.models.small import some_targets


def some_output(queries, layers=1, some_images=1, seed=0, sigmoid=False):
    generator = torch.Generator().manual_seed(seed)
    outs = [
        Output(
            torch.randn(some_images, queries, 5, generator=generator),
            torch.rand(some_images, queries, 4, generator=generator),
            sigmoid=sigmoid,
        )
        for _ in range(layers)
    ]
    return outs if layers > 1 else outs[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**20), st.booleans())
def test_no_assignment_is_cheaper(queries, objects, seed, sigmoid):
    out = some_output(queries, seed=seed, sigmoid=sigmoid)
    target = some_targets(objects, seed=seed)[0]
    matcher = HungarianMatcher()
    cost = matcher.costs(MatchingProblem(LayerOutputs.of([out]), [target]))[:, 0].T.double()
    chosen = matcher(out, [target])[0]
    assert len(chosen[0]) == len(set(chosen[0].tolist())) == len(set(chosen[1].tolist())) == min(queries, objects)

    table = cost if queries >= objects else cost.T
    few = range(table.shape[1])
    best = min(
        sum(table[row, column] for column, row in enumerate(rows)) for rows in permutations(range(len(table)), len(few))
    )
    torch.testing.assert_close(cost[chosen].sum(), torch.as_tensor(best, dtype=torch.float64))


def test_focal_cost_equals_focal_loss_difference():
    logits = torch.tensor([[-50.0, 0.0, 3.0], [2.0, -1.0, 50.0]])
    target = {"labels": torch.tensor([2, 0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2)}
    out = Output(logits[None], target["boxes"][None], sigmoid=True)
    cost = HungarianMatcher(2, 0, 0).costs(MatchingProblem(LayerOutputs.of([out]), [target]))[:, 0].T

    def focal(x):
        p = 1 / (1 + math.exp(-x))
        return 2 * (0.25 * (1 - p) ** 2 * math.log1p(math.exp(-x)) - 0.75 * p**2 * math.log1p(math.exp(x)))

    expected = torch.tensor([[focal(3), focal(-50)], [focal(50), focal(2)]])
    torch.testing.assert_close(cost, expected)
    assert (cost.diff(dim=1)[0] > 0).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**20))
def test_groups_and_repeats_equal_separate_matchings(size, groups, repeat, objects, seed):
    outs = some_output(size * groups, layers=2, some_images=2, seed=seed, sigmoid=True)
    targets = some_targets(objects, 1, seed=seed)
    matcher = HungarianMatcher()
    solved = matcher.match_all(
        [
            MatchingProblem(LayerOutputs.of(outs), targets, groups, repeat),
            MatchingProblem(LayerOutputs.of(outs[:1]), targets),
        ]
    )
    assert [len(one) for one in solved] == [2, 1]
    for layer, pairs in zip(outs, solved[0], strict=True):
        for i, (target, (queries, actual)) in enumerate(zip(targets, pairs, strict=True)):
            n = len(target["labels"])
            assert len(queries) == groups * min(size, repeat * n)
            assert queries.tolist() == sorted(set(queries.tolist()))
            again = {key: value.repeat(repeat, *[1] * (value.ndim - 1)) for key, value in target.items()}
            for g in range(groups):
                run = slice(g * size, (g + 1) * size)
                alone = matcher(
                    Output(layer.logits[i : i + 1, run], layer.boxes[i : i + 1, run], sigmoid=True), [again]
                )
                mine = (queries >= run.start) & (queries < run.stop)
                assert torch.equal(queries[mine] - run.start, alone[0][0])
                assert torch.equal(actual[mine], alone[0][1] % max(n, 1))
    plain = matcher(outs[0], targets)
    assert all(torch.equal(a, b) for x, y in zip(solved[1][0], plain, strict=True) for a, b in zip(x, y, strict=True))


def test_ignored_queries_are_never_matched():
    out, targets = some_output(6, some_images=2), some_targets(4, 2)
    ignored = torch.zeros(2, 6, dtype=torch.bool)
    ignored[0, :3], ignored[1, 4] = True, True
    (((first, actual), (second, others)),) = HungarianMatcher().match_all(
        [MatchingProblem(LayerOutputs.of([out]), targets, ignored=ignored)]
    )[0]
    assert first.tolist() == [3, 4, 5]  # three are left for four objects
    assert len(set(actual.tolist())) == 3
    assert 4 not in second.tolist()
    assert sorted(others.tolist()) == [0, 1]


def test_indivisible_groups_are_refused():
    with pytest.raises(ConfigError, match="expected queries that divide into 4 equal groups, found 6"):
        HungarianMatcher().match_all([MatchingProblem(LayerOutputs.of([some_output(6)]), some_targets(2), groups=4)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 0.0, -1.0], ids=str)
@pytest.mark.parametrize("part", ["logits", "boxes", "width"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_bad_predictions_neither_crash_the_matcher_nor_win(bad, part, sigmoid):
    torch.manual_seed(0)
    logits, boxes = torch.randn(1, 5, 5), 0.2 + 0.4 * torch.rand(1, 5, 4)
    match part:
        case "logits":
            logits[0, 2] = bad
        case "boxes":
            boxes[0, 2] = bad
        case "width":
            boxes[0, 2, 2] = bad
    targets = some_targets(3)
    queries, objects = HungarianMatcher()(Output(logits, boxes, sigmoid=sigmoid), targets)[0]
    assert sorted(objects.tolist()) == [0, 1, 2]
    if not torch.tensor(bad).isfinite():
        assert 2 not in queries.tolist()


def test_predictions_that_are_all_nan_still_match():
    nothing = Output(torch.full((2, 4, 5), torch.nan), torch.full((2, 4, 4), torch.nan))
    assert [len(q) for q, _ in HungarianMatcher()(nothing, some_targets(3, 0))] == [3, 0]
    assert build_criterion(4)(nothing, some_targets(3, 0))["loss_bbox"].isnan()  # the training loop sees it and stops
