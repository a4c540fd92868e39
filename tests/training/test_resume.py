"""A run that was killed and continued ends as one that never was."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, TrainingError, WeightsError
from detrkit.training import train

from .conftest import TINY
from .helpers import assert_same_run, in_a_process, metrics_without_time

pytestmark = pytest.mark.timeout(240)

OFTEN = 1e-9  # minutes between saves: after every step

DIE_IN_STEP = """
import os, signal
from detrkit.training import loop
whole, calls = loop.Trainer.train_step, []
def train_step(self, batch):
    calls.append(batch)
    if len(calls) == %d:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, batch)
loop.Trainer.train_step = train_step
"""

DIE_IN_SAVE = """
import os, signal, torch
whole, calls = torch.save, []
def save(content, file):
    calls.append(file)
    if len(calls) == %d:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(content, file)
torch.save = save
"""

DIE_IN_EVALUATION = """
import os, signal
from detrkit.evaluation.accumulator import DetectionAccumulator
def add(*args):
    os.kill(os.getpid(), signal.SIGKILL)
DetectionAccumulator.add = add
"""


@pytest.fixture(scope="module")
def plain_config(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    settings = {**TINY, "augmentation": "detr", "lr_schedule": "cosine", "warmup_steps": 3, "ema": 0.9}
    return TrainConfig(data=str(tiny_data), output_dir=str(folder), **settings)


@pytest.fixture(scope="module")
def whole(plain_config) -> Path:
    """A run that nothing interrupts; 5 batches an epoch."""
    return train(plain_config).run_dir


@pytest.mark.parametrize(
    ("death", "workers", "save_minutes"),
    [
        (DIE_IN_STEP % 3, 0, OFTEN),
        (DIE_IN_STEP % 9, 2, OFTEN),
        (DIE_IN_STEP % 8, 0, 10.0),  # back to the end of the first epoch
        (DIE_IN_SAVE % 4, 0, OFTEN),
        (DIE_IN_EVALUATION, 0, OFTEN),
    ],
    ids=["step 3", "step 9, workers", "step 8, saved by epoch", "inside a save", "inside the evaluation"],
)
def test_a_killed_run_ends_bit_for_bit_like_a_whole_one(whole, plain_config, tmp_path, death, workers, save_minutes):
    config = replace(
        plain_config, output_dir=str(tmp_path / "run"), save_minutes=save_minutes, num_workers=workers, resume="auto"
    )
    assert in_a_process(config, death) == -signal.SIGKILL
    torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)  # never half a file

    train(config)

    assert_same_run(tmp_path / "run", whole)
    assert not list((tmp_path / "run").glob(".*"))


def test_resume_inside_an_epoch_with_accumulation(tiny, tmp_path):
    config = tiny(accumulate_grad_batches=2, epochs=1, save_minutes=OFTEN)
    whole = train(replace(config, output_dir=str(tmp_path / "whole"))).run_dir
    assert in_a_process(config, DIE_IN_STEP % 4) == -signal.SIGKILL
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert kept["progress"]["batches_summed"] == 2  # the save after batch 3 would have lost a gradient
    train(replace(config, resume="auto"))
    assert_same_run(tmp_path / "run", whole)


def test_more_epochs_train_on_and_the_same_number_says_that_nothing_is_left(tiny, capsys, tmp_path):
    config = tiny(epochs=2, lr_schedule="step")
    whole = train(replace(config, output_dir=str(tmp_path / "whole"))).run_dir
    first = train(replace(config, epochs=1))
    again = train(replace(config, epochs=1, resume="auto"))
    assert again.metrics == first.metrics
    assert "Nothing is left to train" in capsys.readouterr().out
    train(replace(config, resume="auto"))
    assert metrics_without_time(tmp_path / "run") == metrics_without_time(whole)


def test_auto_starts_anew_where_there_is_nothing(tiny):
    assert (train(tiny(resume="auto", epochs=1)).run_dir / "last.ckpt").exists()


def test_a_folder_with_a_run_is_not_overwritten(tiny):
    train(tiny(epochs=1))
    with pytest.raises(ConfigError, match="already holds a run; resume it with resume auto"):
        train(tiny(epochs=1))


def test_a_resumed_run_takes_a_new_learning_rate(tiny):
    train(tiny(epochs=1))
    run_dir = train(tiny(epochs=2, resume="auto", lr=5e-4)).run_dir
    kept = torch.load(run_dir / "last.ckpt", weights_only=True)
    assert kept["optimizer"]["param_groups"][0]["lr"] == 5e-4


def test_other_settings_are_refused_with_their_name(tiny, tmp_path):
    train(tiny(epochs=1))
    with pytest.raises(ConfigError, match=r"trained with num_queries 5, but now it is 6"):
        train(tiny(epochs=2, resume="auto", num_queries=6))
    config = tiny(epochs=1, save_minutes=OFTEN, output_dir=str(tmp_path / "killed"))
    in_a_process(config, DIE_IN_STEP % 3)
    with pytest.raises(ConfigError, match="inside epoch 1 with batch_size 2, but now it is 3"):
        train(replace(config, resume="auto", batch_size=3))


def test_something_else_than_a_checkpoint_is_refused(tiny, tmp_path):
    with pytest.raises(WeightsError, match="found none"):
        train(tiny(resume=str(tmp_path / "absent.ckpt")))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(WeightsError, match=r"text\.ckpt"):
        train(tiny(resume=str(tmp_path / "text.ckpt")))


def test_a_full_disk_leaves_the_old_checkpoint(tiny, monkeypatch, tmp_path):
    run_dir = train(tiny(epochs=1)).run_dir
    before = (run_dir / "last.ckpt").read_bytes()

    def full(content: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"the disk is full; the checkpoint before it is intact"):
        train(tiny(epochs=2, resume="auto"))
    assert (run_dir / "last.ckpt").read_bytes() == before
    assert not list(run_dir.glob(".*"))
