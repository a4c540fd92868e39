"""Batches: padding, order, ranks, workers, and going on after an interruption."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.data.dataset import DetectionDataset
from detrkit.data.loader import EpochBatchSampler, ShapeBatchSampler, collate, eval_loader, train_loader
from detrkit.data.records import Split
from detrkit.data.transforms.resize_crop import eval_transform, train_transform
from detrkit.structures import Batch, Target
from tests.data.conftest import CATEGORIES


@pytest.fixture
def dataset(split: Split) -> DetectionDataset:
    return DetectionDataset(split, CATEGORIES, train_transform("detr", 64), seed=5)


def same(a: Batch, b: Batch) -> bool:
    if a.images.shape != b.images.shape or not torch.equal(a.images, b.images):
        return False
    return torch.equal(a.padding_mask, b.padding_mask) and all(
        s["image_id"] == t["image_id"] and torch.equal(s["boxes"], t["boxes"])
        for s, t in zip(a.targets, b.targets, strict=True)
    )


def test_collate_pads_right_and_bottom() -> None:
    targets = [Target(labels=torch.zeros(0, dtype=torch.int64), boxes=torch.zeros(0, 4)) for _ in range(2)]
    batch = collate(
        [(torch.full((3, h, w), 9, dtype=torch.uint8), t) for (h, w), t in zip([(4, 7), (6, 5)], targets, strict=True)]
    )
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (2, 3, 6, 7)
    assert torch.equal(batch.images[:, 0].bool(), ~batch.padding_mask)
    assert not batch.padding_mask[0, :4, :].any()
    assert batch.padding_mask[0, 4:].all()
    assert batch.padding_mask[1, :, 5:].all()
    assert batch.targets == targets


def indices(sampler: EpochBatchSampler | ShapeBatchSampler) -> list[list[int]]:
    return [[key[1] for key in batch] for batch in sampler]


def test_an_epoch_shows_every_image_once_in_its_own_order() -> None:
    sampler = EpochBatchSampler(23, 4, seed=1)
    epochs = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        assert all(key[0] == epoch for batch in sampler for key in batch)
        batches = indices(sampler)
        assert [len(b) for b in batches] == [4] * 5 == [4] * len(sampler)
        assert len({i for b in batches for i in b}) == 20
        assert batches == indices(sampler)
        epochs.append(batches)
    assert len({str(e) for e in epochs}) == 4
    assert indices(EpochBatchSampler(23, 4, seed=2)) != epochs[0]
    assert indices(EpochBatchSampler(6, 2, shuffle=False)) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("aspect", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_have_the_images_of_one_process(world_size: int, aspect: bool) -> None:
    ratios = np.random.default_rng(0).uniform(0.5, 2, 50) if aspect else None
    one = EpochBatchSampler(50, 2 * world_size, seed=7, aspect_ratios=ratios)
    many = [
        EpochBatchSampler(50, 2, seed=7, rank=r, world_size=world_size, aspect_ratios=ratios) for r in range(world_size)
    ]
    for epoch in (0, 1):
        for sampler in (one, *many):
            sampler.set_epoch(epoch)
        shares = zip(*(indices(s) for s in many), strict=True)
        assert [[*chain.from_iterable(parts)] for parts in shares] == indices(one)


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(1, 8, 1), (3, 8, 1), (1, 2, 3), (3, 2, 2), (5, 4, 2)])
def test_few_images_still_make_one_batch(n: int, batch_size: int, world_size: int) -> None:
    shares = [indices(EpochBatchSampler(n, batch_size, rank=r, world_size=world_size)) for r in range(world_size)]
    assert [len(s) for s in shares] == [1] * world_size
    assert len({len(s[0]) for s in shares}) == 1
    assert {i for s in shares for i in s[0]} == set(range(n))


@pytest.mark.parametrize(("n", "passes"), [(1, 4), (7, 4), (8, 4), (9, 4), (16, 2), (25, 2), (32, 1), (90, 1)])
def test_too_few_images_come_several_times_an_epoch(n: int, passes: int) -> None:
    sampler, once = EpochBatchSampler(n, 8, min_batches=4), EpochBatchSampler(n, 8)
    batches = indices(sampler)
    assert len(batches) == len(sampler) == passes * len(once) >= 4
    assert batches[: len(once)] == indices(once)
    assert all(len(set(batch)) == len(batch) == min(n, 8) for batch in batches)
    shown = Counter(chain.from_iterable(batches))
    assert set(shown.values()) <= {passes} or n % 8
    if passes > 1 and n > 1:
        assert len({str(batch) for batch in batches}) > len(once)
    shares = [indices(EpochBatchSampler(n, 4, min_batches=4, rank=r, world_size=2)) for r in range(2)]
    assert [sorted({*a, *b}) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in batches]


def test_grouping_by_aspect_ratio_loses_nothing_and_pads_less() -> None:
    ratios = np.random.default_rng(1).uniform(0.4, 2.5, 400)

    def spread(batches: list[list[int]]) -> float:
        return float(np.mean([np.ptp(ratios[b]) for b in batches]))

    plain = indices(EpochBatchSampler(400, 4))
    grouped = indices(EpochBatchSampler(400, 4, aspect_ratios=ratios))
    assert sorted(chain.from_iterable(grouped)) == list(range(400))
    assert spread(grouped) < spread(plain) / 10
    means = [ratios[b].mean() for b in grouped]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.35  # not from narrow to wide


def test_evaluation_shows_each_image_once_in_batches_of_one_shape() -> None:
    rng = np.random.default_rng(0)
    shapes = [((48, 64), (64, 48), (50, 50))[k] for k in rng.integers(0, 3, 37)]
    for world_size in (1, 2, 3):
        shown = Counter()
        for rank in range(world_size):
            for batch in indices(ShapeBatchSampler(shapes, 4, rank=rank, world_size=world_size)):
                assert 1 <= len(batch) <= 4
                assert len({shapes[i] for i in batch}) == 1
                shown.update(batch)
        assert shown == Counter(range(37))


def test_eval_loader_never_pads(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, eval_transform(48))
    loader = eval_loader(dataset, batch_size=3)
    batches = list(loader)
    assert not any(batch.padding_mask.any() for batch in batches)
    assert sorted(t["image_id"] for b in batches for t in b.targets) == [100 + 3 * k for k in range(11)]
    assert len(batches) < 11


@pytest.mark.parametrize("group_by_aspect", [False, True])
def test_workers_make_no_difference(dataset: DetectionDataset, group_by_aspect: bool) -> None:
    loaders = [
        train_loader(dataset, batch_size=2, num_workers=n, seed=1, group_by_aspect=group_by_aspect) for n in (0, 2)
    ]
    seen = []
    for epoch in (0, 1):
        for loader in loaders:
            loader.set_epoch(epoch)
        plain, parallel = (list(loader) for loader in loaders)
        assert len(plain) == len(parallel) == len(loaders[0]) == 5
        assert all(same(a, b) for a, b in zip(plain, parallel, strict=True))
        seen.append(plain)
    assert not same(seen[0][0], seen[1][0])


class _Groups(DetectionDataset):
    """Says which process loads it, and of which group, in place of the size of an image."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        image, target = super().__getitem__(index)
        target["size"] = (os.getpgrp(), os.getpid())
        return image, target


@pytest.mark.skipif(not hasattr(os, "getpgrp"), reason="no groups of processes here")
def test_workers_have_a_process_group_of_their_own(split: Split) -> None:
    """As `timeout` and terminals send SIGTERM and SIGINT: the main process saves, and needs its workers until then."""
    groups = _Groups(split, CATEGORIES, train_transform("detr", 64), seed=5)
    actual = {target["size"] for batch in train_loader(groups, batch_size=2, num_workers=2) for target in batch.targets}
    assert len(actual) == 2
    assert all(group == process != os.getpgrp() for group, process in actual)


_KILLED = """
import multiprocessing, os, pickle, signal, sys
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    from detrkit.data.loader import eval_loader
    with open({path!r}, "rb") as file:
        batches = iter(eval_loader(pickle.load(file), batch_size=1, num_workers=2))
    next(batches)
    print(*(worker.pid for worker in batches._workers), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither signals of this kind nor fork")
def test_workers_end_with_a_main_process_that_is_killed(split: Split, tmp_path: Path, method: str) -> None:
    path, script = tmp_path / "dataset.pickle", tmp_path / "killed.py"
    path.write_bytes(pickle.dumps(DetectionDataset(split, CATEGORIES, eval_transform(64))))
    script.write_text(_KILLED.format(method=method, path=str(path)))
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    workers = [int(pid) for pid in done.stdout.split()]
    assert (done.returncode, len(workers)) == (-signal.SIGKILL, 2)
    end = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert [pid for pid in workers if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 4])
def test_an_epoch_can_begin_at_any_batch(dataset: DetectionDataset, taken: int, num_workers: int) -> None:
    whole = train_loader(dataset, batch_size=2, seed=1)
    expected = []
    for epoch in (3, 4):
        whole.set_epoch(epoch)
        expected += list(whole)
    resumed = train_loader(dataset, batch_size=2, seed=1, num_workers=num_workers)
    resumed.set_epoch(3, taken)
    rest = list(resumed)
    assert len(resumed) == 5
    resumed.set_epoch(4)
    rest += list(resumed)
    assert all(same(a, b) for a, b in zip(rest, expected[taken:], strict=True))
