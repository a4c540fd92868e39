"""Runs that end early: by a signal, by the clock, by patience."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit.errors import ConfigError
from detrkit.structures import Batch
from detrkit.training import evaluation as validation
from detrkit.training import run_training, train
from detrkit.training.loop import Trainer

from .helpers import assert_same, assert_same_run

pytestmark = pytest.mark.timeout(240)


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something at the beginning of a step, counted from 1 over all epochs."""
    whole, calls = Trainer.train_step, []

    def train_step(self: Trainer, batch: Batch) -> bool:
        calls.append(batch)
        if len(calls) == number:
            act()
        return whole(self, batch)

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from detrkit.config.train import TrainConfig

    from .conftest import TINY

    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(TrainConfig(data=str(tiny_data), output_dir=str(folder), **TINY)).run_dir


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tiny, tmp_path, monkeypatch, capsys, whole, number):
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        result = run_training(tiny())
    assert result.interrupted
    assert signal.getsignal(number) is before
    assert f"detrkit train --resume auto --output_dir {tmp_path / 'run'}" in capsys.readouterr().out
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["progress"]["step"] == 3
    assert not run_training(tiny(resume="auto")).interrupted
    assert_same_run(tmp_path / "run", whole)


def test_printed_commands_survive_a_space_in_a_folder(tiny, tmp_path, monkeypatch, capsys):
    folder = str(tmp_path / "my run")
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run_training(tiny(output_dir=folder))
    assert f"detrkit train --resume auto --output_dir '{folder}'" in capsys.readouterr().out
    run_training(tiny(output_dir=folder, resume="auto"))
    assert f"--weights '{folder}/best.ckpt'" in capsys.readouterr().out


def test_the_door_hands_ctrl_c_on(tiny, monkeypatch):
    at_step(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tiny())


def test_a_second_ctrl_c_leaves_at_once(tiny, monkeypatch, tmp_path):
    at_step(monkeypatch, 2, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_training(tiny())
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("evaluation", [1, 2], ids=["first epoch", "last epoch"])
def test_a_signal_cuts_an_evaluation_short_and_it_is_made_up_for(tiny, tmp_path, monkeypatch, whole, evaluation):
    begin = validation.Validator.run
    calls = []

    def run(self, *args, should_stop, **kwargs):
        calls.append(1)
        if len(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(self, *args, should_stop=should_stop, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(validation.Validator, "run", run)
        assert run_training(tiny()).interrupted
    assert not run_training(tiny(resume="auto")).interrupted
    assert_same_run(tmp_path / "run", whole)


def test_slurm_requeues_the_job(tiny, tmp_path, monkeypatch, capsys):
    shown = tmp_path / "told"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {shown}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert run_training(tiny()).interrupted
    assert shown.read_text().split() == ["requeue", "17"]
    assert "queued this job again" in capsys.readouterr().out


def test_the_clock_stops_a_run_which_evaluates_and_can_go_on(tiny, tmp_path, whole, capsys):
    result = run_training(tiny(max_minutes=1e-9))
    assert "AP" in result.metrics
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert kept["progress"]["step"] == 1
    assert "0.2 of 2 epochs fit into the 1e-09 minutes" in capsys.readouterr().out
    run_training(tiny(max_minutes=1e-9, resume="auto"))
    assert "minutes are used up; raise --max_minutes" in capsys.readouterr().out
    run_training(tiny(resume="auto"))
    assert "minutes" not in capsys.readouterr().out
    actual, expected = (torch.load(d / "last.ckpt", weights_only=True) for d in (tmp_path / "run", whole))
    assert_same(actual["model"], expected["model"])
    assert_same(actual["progress"]["history"], expected["progress"]["history"])


def test_patience_ends_a_run(tiny, capsys, monkeypatch):
    monkeypatch.setattr(
        validation,
        "compute_coco_metrics",
        lambda *_: type("Same", (), {"metrics": {"AP": 0.5, "AP50": 0.5}, "per_class": []}),
    )
    config = tiny(patience=2, epochs=9)
    result = train(config)
    kept = torch.load(result.run_dir / "last.ckpt", weights_only=True)
    assert kept["progress"]["history"][-1]["epoch"] == 3  # the first, and two without a better AP
    assert kept["progress"]["best_epoch"] == 3  # among equals the later
    train(replace(config, resume="auto"))
    assert "AP has not improved for 2 evaluations" in capsys.readouterr().out


def test_settings_that_make_no_sense_are_named(tiny):
    with pytest.raises(ConfigError, match="lr_drop must be at least 1, found 0"):
        train(tiny(lr_drop=0))
    with pytest.raises(ConfigError, match="ema must be below 1, found"):
        train(tiny(ema=1.0))
