from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit import Output, build_criterion
from detrkit.matching import HungarianMatcher
from models.small import some_targets


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**20))
def test_no_assignment_is_cheaper(queries, objects, seed):
    generator = torch.Generator().manual_seed(seed)
    out = Output(torch.randn(1, queries, 5, generator=generator), torch.rand(1, queries, 4, generator=generator))
    target = some_targets(objects, seed=seed)[0]
    matcher = HungarianMatcher()
    cost = matcher.cost(out.logits[0], out.boxes[0], target).double()
    chosen = matcher(out, [target])[0]
    assert len(chosen[0]) == len(set(chosen[0].tolist())) == len(set(chosen[1].tolist())) == min(queries, objects)

    table = cost if queries >= objects else cost.T
    few = range(table.shape[1])
    best = min(
        sum(table[row, column] for column, row in enumerate(rows)) for rows in permutations(range(len(table)), len(few))
    )
    torch.testing.assert_close(cost[chosen].sum(), torch.as_tensor(best, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 0.0, -1.0], ids=str)
@pytest.mark.parametrize("part", ["logits", "boxes", "width"])
def test_bad_predictions_neither_crash_the_matcher_nor_win(bad, part):
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
    queries, objects = HungarianMatcher()(Output(logits, boxes), targets)[0]
    assert sorted(objects.tolist()) == [0, 1, 2]
    if not torch.tensor(bad).isfinite():
        assert 2 not in queries.tolist()


def test_predictions_that_are_all_nan_still_match():
    nothing = Output(torch.full((2, 4, 5), torch.nan), torch.full((2, 4, 4), torch.nan))
    assert [len(q) for q, _ in HungarianMatcher()(nothing, some_targets(3, 0))] == [3, 0]
    assert build_criterion(4)(nothing, some_targets(3, 0))["loss_bbox"].isnan()  # the training loop sees it and stops
