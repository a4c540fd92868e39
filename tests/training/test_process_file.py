"""process.json: which process trains in a run folder, and how far it is."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detrkit.errors import ConfigError
from detrkit.ops.processes import ProcessMark
from detrkit.training.process_file import ProcessFile
from detrkit.training.state import TrainingState
from detrkit.training.step import StepReport


def mark_in(path: Path) -> ProcessMark:
    content = json.loads(path.read_text(encoding="utf-8"))
    return ProcessMark(content["pid"], content["started"], content["host"])


def test_a_run_writes_its_process_and_its_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = tmp_path / "process.json", TrainingState({"monitor": "AP", "val": ""})
    file = ProcessFile(path, 3, lambda: "0:00:09")
    file.run_started(state, 5)
    assert mark_in(path) == ProcessMark.of(os.getpid())
    assert mark_in(path).alive
    monkeypatch.setattr("detrkit.training.process_file.SECONDS_BETWEEN", 0.0)
    state.batch = 2
    file.step_finished(state, StepReport({"loss": 1.5}, None, {}, 0.0))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [content[name] for name in ("activity", "epoch", "epochs", "batch", "batches", "loss", "left")] == [
        *("training", 0, 3, 2, 5, 1.5, "0:00:09")
    ]
    file.epoch_finished([{"epoch": 1.0}])
    file.run_finished(failed=False)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["activity"], content["epoch"], content["batch"]) == ("ending", 1, 0)


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detrkit.training.process_file.write_atomic", full)
    ProcessFile(tmp_path / "process.json", 3, lambda: "?").run_started(TrainingState({"monitor": "AP", "val": ""}), 5)


def test_a_number_that_another_process_has_now_is_never_signaled() -> None:
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    sleeper = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert sleeper.stdout
    try:
        sleeper.stdout.readline()
        mark = ProcessMark.of(sleeper.pid)
        assert mark.alive
        for other in (
            dataclasses.replace(mark, started=mark.started + "1"),
            dataclasses.replace(mark, started=""),
            dataclasses.replace(mark, host="elsewhere"),
        ):
            assert not other.alive
            with pytest.raises(ConfigError, match="not running here"):
                other.interrupt()
        assert sleeper.poll() is None
        mark.interrupt()
        assert sleeper.wait(20) == -signal.SIGINT
        assert not mark.alive
    finally:
        sleeper.kill()
        sleeper.wait()
        sleeper.stdout.close()


def test_a_process_that_nobody_waited_for_counts_as_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    mark = ProcessMark.of(ended.pid)
    deadline = time.monotonic() + 20
    while mark.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not mark.alive
    ended.wait()
