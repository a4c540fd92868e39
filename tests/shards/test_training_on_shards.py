"""Training on packed data is training on the loose files, to the bit: one process, two, and one that was killed."""

from pathlib import Path

import pytest

from detrkit.config.train import TrainConfig
from detrkit.training import train
from tests.training.helpers import assert_same_run, in_a_process, in_processes
from tests.training.test_resume import DIE_IN_STEP, OFTEN

pytestmark = pytest.mark.timeout(240)

SETTINGS = {"augmentation": "detr", "mosaic": 0.3, "task": "instance", "hidden_dim": 64, "nheads": 8, "ema": 0.9}


@pytest.fixture(autouse=True, scope="module")
def _no_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})
        yield


def test_losses_and_weights_are_those_of_loose_files(loose: Path, packed: Path, config) -> None:
    runs = [train(config(data, name, **SETTINGS)).run_dir for data, name in ((loose, "loose"), (packed, "packed"))]
    assert_same_run(runs[1], runs[0])


def test_two_processes_train_as_on_loose_files(loose: Path, packed: Path, config) -> None:
    for data, name in ((loose, "loose"), (packed, "packed")):
        run: TrainConfig = config(data, name, epochs=1, batch_size=1)
        assert in_processes(2, run, timeout=200) == [0, 0]
    assert_same_run(Path(run.output_dir), Path(run.output_dir).with_name("loose"))


def test_a_killed_run_on_shards_ends_as_one_on_loose_files(loose: Path, packed: Path, config) -> None:
    whole = train(config(loose, "whole", **SETTINGS)).run_dir
    settings = {**SETTINGS, "num_workers": 2, "save_minutes": OFTEN, "resume": "auto"}
    run = config(packed, "run", **settings)
    assert in_a_process(run, DIE_IN_STEP % 8) == -9
    assert in_a_process(run) == 0
    assert_same_run(Path(run.output_dir), whole)


def test_a_run_on_loose_files_is_continued_on_shards(loose: Path, packed: Path, config) -> None:
    whole = train(config(loose, "whole")).run_dir
    run = config(loose, "run", save_minutes=OFTEN)
    assert in_a_process(run, DIE_IN_STEP % 3) == -9
    assert in_a_process(config(packed, "run", resume="auto", save_minutes=OFTEN)) == 0
    assert_same_run(Path(run.output_dir), whole)
