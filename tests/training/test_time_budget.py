"""A limit of time plans a run: the schedule follows the clock, which is read in one place and kept in checkpoints."""

import csv
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.training import threads as threads_module
from detrkit.training import train
from detrkit.training.optim import LRSchedule
from detrkit.training.state import TrainingState
from detrkit.training.threads import busy_note, fastest_num_threads, resolve_num_threads, using_threads
from detrkit.training.time_budget import TimeBudget

from .conftest import TINY
from .helpers import assert_same, assert_same_run, in_a_process, in_processes
from .test_distributed import square_data, square_run  # noqa: F401
from .test_resume import DIE_IN_STEP

pytestmark = pytest.mark.timeout(300)

OFTEN = 1e-9

FAKE_CLOCK = """
import os
from types import SimpleNamespace
from detrkit.training import evaluation, loop, state
clock = SimpleNamespace(now=%f)
state.time = SimpleNamespace(monotonic=lambda: clock.now)
def taking(seconds, function):
    def timed(*args, **kwargs):
        clock.now += seconds * (1 + 5 * int(os.environ.get("RANK", "0")))
        return function(*args, **kwargs)
    return timed
loop.Trainer.train_step = taking(%f, loop.Trainer.train_step)
evaluation.Validator.run = taking(%f, evaluation.Validator.run)
"""
"""A clock that only steps and evaluations move on, on rank 1 six times as fast."""


def rows(folder: Path) -> list[dict[str, float]]:
    lines = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items() if value} for row in lines]


def progress(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)["progress"]


SHORT = {
    "epochs": 6, "max_minutes": 0.75, "lr_schedule": "cosine", "warmup_steps": 3, "ema": 0.9, "augmentation": "flip",
    "mosaic": 0.5, "mixup": 0.3, "no_aug_epochs": 3, "eval_every": 2, "save_minutes": OFTEN,
}  # fmt: skip
"""Six epochs of five steps, of which four fit: steps take 2 s and evaluations 3 s of a limit of 45 s."""

CLOCK = FAKE_CLOCK % (0, 2, 3)


@pytest.fixture
def short(tiny) -> TrainConfig:
    return tiny(**SHORT)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that the time ends, and nothing else."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert in_a_process(TrainConfig(data=str(tiny_data), output_dir=str(folder), **(TINY | SHORT)), CLOCK) == 0
    return folder


def test_a_run_that_is_too_slow_ends_annealed_evaluated_and_in_time(whole):
    found, ended = rows(whole), progress(whole)
    assert len(found) == 4
    assert ended["step"] == 20  # 40 s, where another step and the evaluation would take 45
    assert found[-1]["lr"] == pytest.approx(0, abs=0.01 * TINY["lr"])
    assert [row["lr"] for row in found] == sorted([row["lr"] for row in found], reverse=True)
    assert ["val/AP" in row for row in found] == [False, False, False, True]  # none in between: they are too dear
    assert found[-1]["seconds"] == 43
    assert ended["time_share"] >= 1
    assert (whole / "best.ckpt").exists()
    epoch, batch = ended["no_aug_from"]  # half of the run has no mosaic, as 3 of 6 epochs would
    assert 5 * epoch + batch == pytest.approx(10, abs=1)


@pytest.mark.parametrize(("step", "workers"), [(3, 0), (9, 0), (12, 2)])
def test_a_killed_run_continues_from_its_clock_and_ends_like_a_whole_one(short, whole, tmp_path, step, workers):
    config = replace(short, num_workers=workers, resume="auto")
    if workers:  # the augmentation ends after the batches that workers may have begun
        whole = tmp_path / "whole"
        assert in_a_process(replace(config, output_dir=str(whole)), CLOCK) == 0
    assert in_a_process(config, CLOCK + DIE_IN_STEP % step) == -signal.SIGKILL
    assert 0 < progress(tmp_path / "run")["time_share"] < 1
    assert in_a_process(config, FAKE_CLOCK % (1234.5, 2, 3)) == 0
    assert_same_run(tmp_path / "run", whole)


def test_evaluations_in_between_take_a_tenth_of_the_time_and_are_counted(short, tmp_path):
    config = replace(short, epochs=12, max_minutes=1.5, eval_every=1)
    assert in_a_process(config, FAKE_CLOCK % (0, 2, 2)) == 0
    found = rows(tmp_path / "run")
    # the first is expected to take 3 s; then they take 2 s each
    assert ["val/AP" in row for row in found] == [False, False, True, True, False, True, False, True]
    assert found[-1]["seconds"] == 88
    assert found[-1]["lr"] == pytest.approx(0, abs=0.01 * short.lr)


def test_with_time_to_spare_a_run_is_the_same_as_without_a_limit(tiny, tmp_path):
    settings = {"epochs": 3, "lr_schedule": "flat_cosine", "ema": 0.9, "augmentation": "flip", "mosaic": 0.5}
    settings |= {"no_aug_epochs": 1}
    train(tiny(**settings))
    train(tiny(**settings, max_minutes=1e5, output_dir=str(tmp_path / "limited")))
    one, other = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("run", "limited"))
    assert one["progress"]["time_share"] == 0
    assert 0 < other["progress"]["time_share"] < 1e-3
    assert other["progress"]["no_aug_from"] is None
    for key in ("model", "ema", "optimizer"):
        assert_same(one[key], other[key])
    assert_same(one["progress"]["history"], other["progress"]["history"])


def test_nothing_is_left_after_the_time_and_a_new_limit_plans_anew(short, tmp_path, capsys):
    assert in_a_process(short, CLOCK) == 0
    again = replace(short, resume="auto")
    train(again)
    assert "its 0.75 minutes are used up; raise --max_minutes to train more" in capsys.readouterr().out
    before = rows(tmp_path / "run")[-1]["lr"]
    assert in_a_process(replace(again, max_minutes=2.0), CLOCK) == 0
    found, ended = rows(tmp_path / "run"), progress(tmp_path / "run")
    assert ended["step"] == 30  # all of them
    assert found[4]["lr"] > before
    assert ended["time_share"] < 1


def test_two_ranks_go_by_the_clock_of_the_first_and_equal_one(square_run, tmp_path):  # noqa: F811
    limited = replace(square_run, epochs=6, max_minutes=0.5, lr_schedule="cosine", eval_every=6)
    assert in_processes(2, limited, CLOCK) == [0, 0]
    assert in_a_process(replace(limited, batch_size=2, output_dir=str(tmp_path / "one")), CLOCK) == 0
    found, expected = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert len(found) == len(expected) == 4
    for row, other in zip(found, expected, strict=True):
        assert row["lr"] == other["lr"]
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    assert progress(tmp_path / "two")["time_share"] == progress(tmp_path / "one")["time_share"] >= 1


def test_rates_follow_whichever_share_is_larger():
    made = {"base": (1.0,), "epochs": 10, "lr_drop": 4, "warmup_steps": 0}
    for kind in ("step", "cosine", "flat_cosine"):
        schedule = LRSchedule(**made, kind=kind)
        for epoch in range(10):
            assert schedule.factor(epoch, 0.0, 0, 0.0) == schedule.factor(epoch, 0.0, 0)
            assert schedule.factor(epoch, 0.0, 0, 0.05) == schedule.factor(epoch or 0, 0.0, 0, 0.05)
            assert schedule.factor(0, 0.0, 0, epoch / 10) == pytest.approx(schedule.factor(epoch, 0.0, 0))
            assert schedule.factor(epoch, 0.5, 0, epoch / 10) == schedule.factor(epoch, 0.5, 0)
    warm = LRSchedule(**{**made, "warmup_steps": 100}, kind="cosine")
    assert warm.factor(0, 0.0, 0, 0.2) == pytest.approx(LRSchedule(**made, kind="cosine").factor(2, 0.0, 0))


def state_at(epoch: int, batch: int, **measured: float) -> TrainingState:
    state = TrainingState({"monitor": "AP", "val": ""}, epoch)
    state.batch = batch
    for name, value in measured.items():
        setattr(state, name, value)
    return state


def test_the_end_of_a_run_is_reserved():
    budget = TimeBudget(minutes=10, epochs=4, train_batches=100, val_batches=20)
    unmeasured = state_at(0, 50)  # a step takes 2 s, so an evaluation is expected to take 20 x 1 s
    assert budget.share(unmeasured, 100) == pytest.approx(100 / 578)
    measured = state_at(1, 0, evaluations=2, evaluation_seconds=100.0, save_seconds=5.0)
    assert budget.share(measured, 300) == pytest.approx(300 / 543)
    assert budget.share(state_at(0, 1), 100) == pytest.approx(100 / 300)  # at most half of the time is reserved
    assert budget.allows_evaluation(state_at(0, 100), 110)  # all epochs fit: 110 + 330 s, and two evaluations
    assert budget.allows_evaluation(state_at(0, 100, evaluations=1, evaluation_seconds=10.0), 210)
    assert not budget.allows_evaluation(state_at(0, 100, evaluations=1, evaluation_seconds=10.0), 190)
    assert not budget.allows_evaluation(state_at(2, 0, evaluations=1, evaluation_seconds=10.0), 530)


def test_the_forecast_is_in_plain_words():
    budget = TimeBudget(minutes=10, epochs=4, train_batches=100, val_batches=20)
    slow = budget.forecast(state_at(0, 50, evaluations=1, evaluation_seconds=40.0), 100, 4.0)
    assert slow == (
        "At this speed about 1.6 of 4 epochs fit into 10 minutes; the schedule is compressed, so that the learning "
        "rates still fall to their end"
    )
    fast = budget.forecast(state_at(0, 50, evaluations=1, evaluation_seconds=40.0), 50, 1.0)
    assert fast == "At this speed all 4 epochs fit into 10 minutes: they take about 7.3"


def test_what_to_expect_is_said_at_the_start_early_and_at_the_end(short, capsys):
    train(replace(short, max_minutes=0.03, epochs=900))
    said = capsys.readouterr().out
    assert "Time      at most 0.03 minutes, the last evaluation included; if the 900 epochs do not fit" in said
    assert "of 900 epochs fit into 0.03 minutes; the schedule is compressed" in said
    assert "epochs fit into the 0.03 minutes; the schedule was compressed to them. Raise --max_minutes" in said


def test_the_number_of_threads_is_measured_with_a_limit_alone_and_kept(tiny, monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    measured = []
    monkeypatch.setattr(threads_module, "fastest_num_threads", lambda: measured.append(1) or 1)
    train(tiny(epochs=1))
    assert not measured
    assert "num_threads: auto" in (tmp_path / "run" / "config.yaml").read_text()
    limited = tiny(epochs=2, max_minutes=1e5, output_dir=str(tmp_path / "limited"))
    train(replace(limited, epochs=1))
    assert "num_threads: 1\n" in (tmp_path / "limited" / "config.yaml").read_text()
    train(replace(limited, resume="auto"))
    assert len(measured) == 1
    assert resolve_num_threads(replace(limited, num_threads=3), None, measure=True)[0].num_threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert resolve_num_threads(limited, None, measure=True)[0].num_threads == "auto"
    assert len(measured) == 1


def test_measuring_threads_leaves_no_trace():
    with using_threads(2):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        assert fastest_num_threads() in (1, 2)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(2), expected)
        with using_threads("auto"):
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    assert fastest_num_threads() == 1


def test_a_busy_machine_is_pointed_out(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert busy_note() == ""  # one thread
    with using_threads(2):
        assert busy_note() == "; the machine is busy (load 3.0 on 2 cores), so --num_threads 1 may be faster"
        monkeypatch.setattr("os.getloadavg", lambda: (1.0, 0.0, 0.0))
        assert busy_note() == ""
