"""What several training tests need."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from detrkit.config.train import TrainConfig
from detrkit.errors import DetrkitError
from detrkit.training import final_report as final
from detrkit.training import train

TIMES = ("seconds", "loader_share", "evaluation_seconds", "save_seconds")
"""What no two runs share."""


def assert_same(actual: Any, expected: Any, where: str = "") -> None:
    """Bit for bit, through dictionaries and lists; times are left out."""
    assert type(actual) is type(expected), where
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            if key not in TIMES:
                assert_same(actual[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    else:
        assert actual == expected, where


def assert_same_run(actual: Path, expected: Path) -> None:
    """Weights, optimizer, counters and metrics of two run folders agree bit for bit."""
    for name in ("last.ckpt", "best.ckpt"):
        one = torch.load(actual / name, weights_only=True)
        other = torch.load(expected / name, weights_only=True)
        for key in ("model", "ema", "optimizer", "scaler", "progress"):
            assert_same(one[key], other[key], f"{name}/{key}")
    assert metrics_without_time(actual) == metrics_without_time(expected)


def metrics_without_time(run_dir: Path) -> list[list[str]]:
    header, *rows = (line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines())
    kept = [k for k, name in enumerate(header) if name not in TIMES]
    return [[row[k] for k in kept] for row in [header, *rows]]


def in_a_process(config: TrainConfig, before: str = "", *, timeout: float = 120) -> int:
    """Train in a process of its own, after running the code `before`; its exit code, -9 if it was killed."""
    process = start_process(config, before)
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"not done after {timeout} s")
    assert process.exitcode is not None
    return process.exitcode


def start_process(config: TrainConfig, before: str = "", environment: dict[str, str] | None = None) -> Any:
    """Begin to train in a process of its own.

    A server that has imported everything forks it, which spares each test ten seconds of imports and, unlike a fork of
    this process, hands no threads on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detrkit.training", "timm"])
    process = context.Process(target=_train, args=(config, before, environment or {}))
    process.start()
    return process


def in_processes(world_size: int, config: TrainConfig, before: str = "", *, timeout: float = 120) -> list[int]:
    """Train in processes that find each other as torchrun's do; their exit codes, 2 for an error of ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "GROUP_RANK": "0"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    processes = [start_process(config, before, shared | rank) for rank in ranks]
    for process in processes:
        process.join(timeout)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, f"{len(hanging)} of {world_size} processes hang"
    return [process.exitcode for process in processes]


def _train(config: TrainConfig, before: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    final.write_report = lambda *args, **kwargs: {}
    exec(before, {})
    try:
        train(config)
    except DetrkitError as error:
        rank = os.environ.get("RANK", "0")
        Path(config.output_dir).with_name(f"error of rank {rank}").write_text(str(error))
        sys.exit(2)
