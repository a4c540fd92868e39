"""Number of CPU threads that help: on a busy machine one is often faster than several."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn

from detrkit.config.train import TrainConfig
from detrkit.training.checkpoint import ResumePoint

WINDOW = 0.4
"""Seconds of one measurement. In less than a tenth of a second a process that has slept gets more of a busy core than
it keeps, so that several threads seem to help."""
ROUNDS = 3
"""Measurements per number of threads, in turns, since the load of a machine changes."""
BUSY = 0.75
"""Load per core from which a machine counts as busy."""
NEARLY = 0.95
"""A smaller number of threads is taken if it has this share of the best speed."""


def resolve_num_threads(
    config: TrainConfig, resume_point: ResumePoint | None, *, measure: bool
) -> tuple[TrainConfig, dict[str, str]]:
    """Replace `num_threads` auto by a number where that is worth it.

    Only a run with a limit of time measures, since its schedule depends on the clock anyway; other runs keep PyTorch's
    own number, so that the same settings give the same weights on one machine, busy or not.

    Args:
        config: settings of the run.
        resume_point: checkpoint to resume from, or None; its number is kept.
        measure: whether the run is one process on the CPU.

    Returns:
        The settings, and the reason for the number by its name on the console.
    """
    if config.num_threads != "auto":
        return config, {}
    if resume_point:
        return replace(config, num_threads=resume_point.metadata["config"]["num_threads"]), {}
    if not measure or not config.max_minutes or "OMP_NUM_THREADS" in os.environ:
        return config, {}
    number, most = fastest_num_threads(), torch.get_num_threads()
    why = "as many as the cores" if number == most else f"{most} would be slower now, since the machine is busy"
    return replace(config, num_threads=number), {"Threads": f"{number}: {why}"}


def busy_note() -> str:
    """Advice for a run with several threads on a busy machine, as part of a sentence; empty on others."""
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows has none
    if threads == 1 or load < BUSY * cores:
        return ""
    return f"; the machine is busy (load {load:.1f} on {cores} cores), so --num_threads 1 may be faster"


@contextlib.contextmanager
def using_threads(number: int | str) -> Iterator[None]:
    """Compute with this number of threads inside a `with`; "auto": with as many as before."""
    before = torch.get_num_threads()
    if isinstance(number, int):
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_num_threads() -> int:
    """Measure the number of threads that trains fastest at present: 1, 2, 4, ... or PyTorch's own number.

    Where other programs need the cores, threads wait for each other after every operation. A small convolutional model
    is trained for about a second with each number. Neither the number of threads nor random numbers change.
    """
    most = torch.get_num_threads()
    candidates = [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    if most == 1:
        return 1
    counts = dict.fromkeys(candidates, 0.0)
    with torch.random.fork_rng(devices=[]):
        train_step = _small_training()
        try:
            for _ in range(ROUNDS):
                for number in candidates:
                    torch.set_num_threads(number)
                    train_step()  # the first step after a change starts the threads
                    counts[number] += _speed(train_step)
        finally:
            torch.set_num_threads(most)
    best = max(counts.values())
    return next(number for number in candidates if counts[number] >= NEARLY * best)


def _small_training() -> Callable[[], None]:
    """Make a function that does a training step of a model of three convolutions on 8 maps of 16 x 16 pixels."""
    layers = [(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.SiLU()) for _ in range(3)]
    model = nn.Sequential(*(layer for group in layers for layer in group))
    images = torch.rand(8, 64, 16, 16)

    def train_step() -> None:
        model(images).mean().backward()

    return train_step


def _speed(train_step: Callable[[], None]) -> float:
    """Steps per second within a `WINDOW`."""
    begun, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < WINDOW or not steps:
        train_step()
        steps += 1
    return steps / seconds
