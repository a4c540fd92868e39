"""The script for people with a GPU: it runs, here on the CPU and small, and compares its targets correctly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gpu
import gpu_paths
from detrkit import cli
from detrkit.benchmark.machine import Machine
from detrkit.commands import bench as run


def rows(model: float, ends: float, step: float, memory: int) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows that the runs might have measured."""
    actual = {}
    for name in ("inference-1", "inference-32"):
        actual[name, "model", "fast"] = {"ratio": model, "images_per_second": 100.0}
        actual[name, "from files", "fast"] = {"ratio": 1.0, "images_per_second": ends}
    actual["training-16", "step", "fast"] = {"ratio": step, "memory_bytes": memory}
    actual["training-16", "step", "plain"] = {"ratio": 1.0, "memory_bytes": 100}
    return actual


def test_targets_are_compared_with_measurements() -> None:
    lines = gpu.targets_table(rows(5.0, 70.0, 4.2, 61)).splitlines()[2:]
    assert [line.split(" | ")[1:] for line in lines] == [
        ["5.00", "at least 6", "no |"],
        ["5.00", "at least 4.5", "yes |"],
        ["0.70", "at least 0.7", "yes |"],
        ["0.70", "at least 0.7", "yes |"],
        ["4.20", "at least 4", "yes |"],
        ["0.61", "at most 0.6", "no |"],
    ]
    assert "not measured" in gpu.targets_table({})


def test_every_run_parses_as_bench_settings() -> None:
    for name in gpu.RUNS:
        _, *arguments = gpu.arguments(name, Path("out"), dry_run=False)
        config = cli.parse("bench", cli.COMMANDS["bench"], arguments)
        assert (config.image_size, config.device, config.compile, config.precision) == (800, "cuda", "auto", "auto")
        assert config.output_dir == f"out/{name}"
        _, *arguments = gpu.arguments(name, Path("out"), dry_run=True)
        small = cli.parse("bench", cli.COMMANDS["bench"], arguments)
        assert (small.image_size, small.device, small.part, small.masks) == (64, "cpu", config.part, config.masks)
        assert small.batch_size <= 2


def test_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = Machine("cpu", "abacus", 1, {"fp32": 1e12}, bandwidth=1e10)
    monkeypatch.setattr(run, "measure_machine", lambda *of: known)
    monkeypatch.setitem(gpu.RUNS, "training-16", [*gpu.RUNS["training-16"], "--model", "detrkit_n"])
    assert gpu.main(["--dry_run", "--output_dir", str(tmp_path), "--only", "training-16"]) == 0
    table = (tmp_path / "targets.md").read_text(encoding="utf-8")
    assert "these figures mean nothing" in table
    assert "| training, batch 16: times the plain step | not" not in table
    assert "| inference, batch 1: times the plain model | not measured |" in table
    assert table in capsys.readouterr().out


def test_a_failed_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", lambda argv: 2)
    assert gpu.main(["--output_dir", str(tmp_path), "--only", "inference-1"]) == 1


def test_paths_that_cannot_be_measured_cost_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device: str, scale: float, folder: Path) -> gpu_paths.Rows:
        raise RuntimeError("no such engine")

    def works(device: str, scale: float, folder: Path) -> gpu_paths.Rows:
        assert folder.is_dir()
        return [("frames per second", device)]

    monkeypatch.setattr(gpu_paths, "PATHS", {"engines": broken, "tracks": works})
    monkeypatch.setattr(gpu, "PATHS", gpu_paths.PATHS)
    assert gpu.main(["--dry_run", "--output_dir", str(tmp_path), "--only", "engines", "tracks"]) == 1
    assert "could not be done: engines" in capsys.readouterr().err
    table = (tmp_path / "paths.md").read_text(encoding="utf-8")
    assert "| engines | not measured: RuntimeError: no such engine |" in table
    assert "| frames per second | cpu |" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu_paths.PATHS)
def test_every_path_runs_on_the_cpu(name: str) -> None:
    rows, done = gpu_paths.measure_path(name, dry_run=True)
    assert done, rows
