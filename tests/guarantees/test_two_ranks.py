"""Two processes with half of the images each learn what one with all of them learns, whatever else teaches."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .helpers import assert_all_have_gradients, batch, make_setup

pytestmark = pytest.mark.timeout(240)

KINDS: dict[str, dict[str, Any]] = {
    "everything at once": {},
    "dense head selects, groups": {
        "encoder": "deformable",
        "dense_head": "fcos",
        "score_refine": True,
        "task": "instance",
    },
    "FCOS beside anchors": {"class_loss": "varifocal"},
    "anchors, softmax": {"num_queries_one2many": 8, "task": "instance", "hidden_dim": 128, "nheads": 8},
}
"""Denoising, groups, hybrid queries, dense heads and both mask heads, on models without batch norm, which looks at its
own images."""

COUNTS = ((1, 4, 0, 3), (0, 0, 2, 0), (0, 0, 0, 0))
"""Objects of the four images of each step."""
BRANCHES = {
    "everything at once": {"groups", "one2many", "dn", "enc", "dense"},
    "dense head selects, groups": {"groups", "dn", "dense"},
    "FCOS beside anchors": {"groups", "one2many", "dn", "dense"},
    "anchors, softmax": {"groups", "one2many", "dn"},
}


def train_steps(kind: str, rank: int | None) -> dict[str, torch.Tensor]:
    """Losses of three steps and the weights after them: of all images, or of one rank's half.

    By plain gradient descent: Adam would blow a gradient that is zero but for rounding up to a whole step.
    """
    setup = make_setup(kind, backbone_norm="group", **KINDS[kind])
    model = setup.model.train()
    wrapped = model if rank is None else DistributedDataParallel(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.03, momentum=0.9)
    results = {}
    for step, counts in enumerate(COUNTS):
        whole_batch = batch(*counts, size=64, seed=step)
        for i, target in enumerate(whole_batch.targets):
            noise = torch.Generator().manual_seed(10 * step + i)
            target["masks"] = torch.rand(len(target["labels"]), 64, 64, generator=noise) > 0.5
        half = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
        objects = whole_batch.targets[half]
        out = wrapped(whole_batch.images[half], whole_batch.padding_mask[half], objects)
        assert {branch.name for branch in out.branches} == BRANCHES[kind]
        total = setup.criterion.weighted_sum(setup.criterion(out, objects))
        optimizer.zero_grad()
        total.backward()
        assert_all_have_gradients(setup)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        results[f"loss {step}"] = total.detach()
    return results | model.state_dict()


def one_rank(rank: int, kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    results = train_steps(kind, rank)
    for step in range(len(COUNTS)):
        dist.all_reduce(results[f"loss {step}"])
        results[f"loss {step}"] /= 2
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one(kind, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detrkit.training", "timm"])
    ranks = [context.Process(target=one_rank, args=(rank, kind, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    expected = train_steps(kind, None)
    for process in ranks:
        process.join(200)
        assert process.exitcode == 0
    initial = make_setup(kind, backbone_norm="group", **KINDS[kind]).model.state_dict()
    moved = [(expected[name] - value).abs().max() for name, value in initial.items()]
    assert max(moved) > 1e-3  # far beyond what rounding does
    for rank in range(2):
        results = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert results.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(results[name], value, rtol=1e-4, atol=2e-6, msg=f"{name} on rank {rank}")
