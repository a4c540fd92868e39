"""A run with everything on that was killed and continued ends as one that never was."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from detrkit.config.train import TrainConfig
from detrkit.training import train
from tests.training.helpers import assert_same_run, in_a_process
from tests.training.test_resume import DIE_IN_STEP, OFTEN

from .helpers import shrunk

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def whole(defects: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The settings of a run that nothing interrupted: three epochs of four steps, the last one without augmentation."""
    config = shrunk(
        "everything at once",
        data=str(defects),
        output_dir=str(tmp_path_factory.mktemp("whole") / "run"),
        image_size=48, batch_size=4, num_workers=0, device="cpu",
        lr=1e-3, lr_schedule="flat_cosine", warmup_steps=3, norm_decay=False, ema=0.9, dropout=0.1,
        mosaic=0.5, mixup=0.3, copy_paste=0.3, zoom_out=0.3, iou_crop=0.5, color_jitter=0.5, multi_scale=0.2,
        epochs=3, no_aug_epochs=1, eval_every=2,
    )  # fmt: skip
    train(config)
    return config


@pytest.mark.parametrize(("step", "workers"), [(6, 0), (11, 2)], ids=["with mosaic", "among plain images, workers"])
def test_a_killed_run_ends_bit_for_bit_like_a_whole_one(whole, tmp_path, step, workers):
    config = replace(whole, output_dir=str(tmp_path / "run"), save_minutes=OFTEN, num_workers=workers, resume="auto")
    assert in_a_process(config, DIE_IN_STEP % step) == -signal.SIGKILL
    train(config)
    assert_same_run(tmp_path / "run", Path(whole.output_dir))
