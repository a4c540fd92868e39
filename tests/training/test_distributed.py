"""Several processes over gloo learn and measure what one does."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detrkit.config.train import TrainConfig
from detrkit.losses import build_criterion
from detrkit.models import build_model
from detrkit.training import train

from . import conftest
from .helpers import assert_same_run, in_processes, metrics_without_time

pytestmark = pytest.mark.timeout(240)

OBJECTS = [
    pytest.param((1, 4), id="unequal numbers"),
    pytest.param((3, 0), id="one image without any"),
    pytest.param((0, 0), id="none at all"),
]


def losses_and_gradients(objects: tuple[int, ...], rank: int | None) -> dict[str, torch.Tensor]:
    """Of the images with so many objects: all of them, or that of one rank."""
    torch.manual_seed(0)
    model = build_model(
        2, backbone="timm:test_resnet", hidden_dim=16, enc_layers=1, dec_layers=2, dim_feedforward=16, dropout=0.0,
        nheads=2, num_queries=6,
    )  # fmt: skip
    with torch.no_grad():  # queries of a new model are so alike that rounding would choose among them
        for head in (model.class_embed, model.bbox_embed.layers[-1]):
            head.weight.normal_(std=0.5)
    criterion = build_criterion(num_classes=2)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(objects), 3, 64, 64, generator=generator)
    targets = [
        {
            "labels": torch.randint(0, 2, (count,), generator=generator),
            "boxes": 0.2 + 0.3 * torch.rand(count, 4, generator=generator),
        }
        for count in objects
    ]
    if rank is not None:
        images, targets = images[rank : rank + 1], targets[rank : rank + 1]
    wrapped = model if rank is None else DistributedDataParallel(model)
    losses = criterion(wrapped(images, torch.zeros(len(images), 64, 64, dtype=torch.bool)), targets)
    total = criterion.weighted_sum(losses)
    total.backward()
    actual = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in actual.values())  # so DDP need not look for unused ones
    return {"total": total.detach(), **actual}


def one_rank(rank: int, world_size: int, folder: Path, objects: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world_size)
    actual = losses_and_gradients(objects, rank)
    dist.all_reduce(actual["total"])
    actual["total"] /= world_size
    torch.save(actual, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("objects", OBJECTS)
def test_two_ranks_with_a_image_each_equal_one_with_both(objects, tmp_path):
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detrkit.training", "timm"])
    ranks = [context.Process(target=one_rank, args=(rank, 2, tmp_path, objects)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    expected = losses_and_gradients(objects, None)
    # gradients that are small beside the whole are held to what rounding leaves of the whole
    whole = sum(float(value.square().sum()) for name, value in expected.items() if name != "total") ** 0.5
    for rank in range(2):
        actual = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-5 + 1e-6 * whole, msg=name)


@pytest.fixture(scope="module")
def square_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one shape: then no rank pads, and ranks see what one process sees."""
    folder = tmp_path_factory.mktemp("square") / "shapes"
    (folder / "images").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "SIZES", [(48, 48)])
        rng = np.random.default_rng(7)
        conftest.write_split(folder, "train", 8, rng)
        conftest.write_split(folder, "val", 5, rng)
    return folder


@pytest.fixture
def square_run(square_data, tmp_path) -> TrainConfig:
    tiny = {**conftest.TINY, "lr": 1e-4, "augmentation": "flip", "backbone_norm": "frozen", "dropout": 0.0}
    return TrainConfig(data=str(square_data), output_dir=str(tmp_path / "two"), **{**tiny, "batch_size": 1})


def test_a_run_over_two_ranks_equals_a_run_on_one(square_run, tmp_path):
    assert in_processes(2, square_run) == [0, 0]
    one = train(replace(square_run, batch_size=2, output_dir=str(tmp_path / "one"))).run_dir
    actual, expected = (
        list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in (tmp_path / "two", one)
    )
    assert len(actual) == len(expected) == 2
    # the logged class and cardinality errors are means of the ranks', so they may differ
    for name in (
        "train/loss",
        "train/loss_ce",
        "train/loss_bbox",
        "train/loss_giou",
        "val/AP",
        "val/AP50",
        "val/AR100",
    ):
        for row, other in zip(actual, expected, strict=True):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("weights", [{"cls_loss_coef": 0.0}, {"bbox_loss_coef": 0.0, "giou_loss_coef": 0.0}])
def test_two_ranks_learn_also_where_heads_have_no_loss(square_run, weights):
    assert in_processes(2, replace(square_run, epochs=1, **weights)) == [0, 0]


def test_evaluation_over_two_ranks_equals_evaluation_on_one(square_run, tmp_path):
    """The same weights: a run that trains on nothing new, resumed to be evaluated by two ranks and by one."""
    config = replace(square_run, output_dir=str(tmp_path / "source"), epochs=1)
    train(config)
    content = torch.load(tmp_path / "source" / "last.ckpt", weights_only=True)
    content["progress"].update(evaluation_due=True, best_value=float("-inf"), best_epoch=0)
    rows = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "last.ckpt")
        again = replace(config, output_dir=str(tmp_path / name), resume="auto")
        if name == "one":
            train(again)
        else:
            assert in_processes(2, again) == [0, 0]
        rows[name] = next(csv.DictReader((tmp_path / name / "metrics.csv").read_text().splitlines()))
    numbers = [key for key in rows["one"] if key.startswith("val/A")]
    assert len(numbers) == 12
    assert {key: rows["two"][key] for key in numbers} == {key: rows["one"][key] for key in numbers}


DIE_TOGETHER = """
import os, signal
from detrkit.training import loop
whole, calls = loop.Trainer.train_step, []
def train_step(self, batch):
    calls.append(batch)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, batch)
loop.Trainer.train_step = train_step
"""


def test_a_killed_run_over_two_ranks_ends_like_a_whole_one(square_run, tmp_path):
    config = replace(square_run, save_minutes=1e-9, dropout=0.1, backbone_norm="batch", ema=0.9, resume="auto")
    whole = replace(config, output_dir=str(tmp_path / "whole"))
    assert in_processes(2, whole) == [0, 0]
    assert in_processes(2, config, DIE_TOGETHER) == [-signal.SIGKILL] * 2
    assert in_processes(2, config) == [0, 0]
    assert_same_run(tmp_path / "two", tmp_path / "whole")


def test_a_signal_to_one_rank_stops_and_saves_all(square_run, tmp_path):
    before = DIE_TOGETHER.replace("== 3:", "== 3 and os.environ['RANK'] == '1':").replace("SIGKILL", "SIGTERM")
    assert in_processes(2, square_run, before) == [1, 1]  # KeyboardInterrupt, after saving
    assert torch.load(tmp_path / "two" / "last.ckpt", weights_only=True)["progress"]["step"] == 3


def test_a_loss_that_is_not_finite_on_one_rank_ends_all(square_run, tmp_path):
    before = """
import os
from detrkit.losses import Criterion
whole, calls = Criterion.weighted_sum, []
def weighted_sum(self, losses):
    calls.append(1)
    return whole(self, losses) * (float("nan") if len(calls) == 2 and os.environ["RANK"] == "1" else 1)
Criterion.weighted_sum = weighted_sum
"""
    assert in_processes(2, square_run, before) == [2, 2]
    output = [(tmp_path / f"error of rank {rank}").read_text() for rank in range(2)]
    assert output[0] == output[1]
    assert "loss became nan at step 1" in output[0]
    assert output[0].count(".png") == 1  # only the image of the rank where it happened


def test_the_command_line_starts_its_own_processes(square_run, tmp_path):
    changed = {
        field.name: getattr(square_run, field.name)
        for field in fields(square_run)
        if getattr(square_run, field.name) != field.default
    }
    flags = [f"--{name}={value}" for name, value in {**changed, "epochs": 1}.items()]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-m", "detrkit", "train", *flags, "--devices", "2"],
        capture_output=True, text=True, timeout=200, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    assert "x 2" in done.stdout
    assert len(metrics_without_time(tmp_path / "two")) == 2
