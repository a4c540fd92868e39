"""Doing the same work in several ways, in turns, and what that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch

from detrkit.benchmark.peak_memory import peak_growth

LEAST_ROUNDS, MOST_ROUNDS = 3, 1000


@dataclass(frozen=True)
class Variant:
    """One way of doing the work."""

    name: str
    """plain, fast, or whose it is."""
    run: Callable[[], object]
    """Does all of it once."""
    precision: str = "fp32"
    """What its arithmetic is done in: fp32, bf16 or fp16."""
    holds: int = 0
    """Bytes that it keeps between calls: weights, and moments of the optimiser."""


@dataclass(frozen=True)
class Timing:
    """What one way took."""

    way: Variant
    seconds: tuple[float, ...]
    """Of each call, in their order; the first ones, which warm up, are not among them."""
    first: float
    """Seconds of the very first call, in which things are compiled, tuned and read."""
    memory: int | None
    """Bytes at the fullest moment of a call, with what the way holds; None where it cannot be told."""

    def percentile(self, percent: float) -> float:
        """Seconds within which so many per cent of the calls were done, interpolated linearly."""
        return float(np.percentile(self.seconds, percent))


def measure(
    ways: Sequence[Variant],
    *,
    seconds: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    memory: bool = True,
) -> list[Timing]:
    """Time several ways of one piece of work.

    Each is called once or, with `memory`, twice to warm up. Then they take turns, in another order each round, until
    every one has had `seconds` on average, and three rounds at least: what else the machine does meanwhile meets all of
    them alike.

    Args:
        ways: at least one.
        seconds: for each way.
        device: waited for at the end of each call.
        clock: gives seconds.
        memory: also look how much memory a call takes, in a second call before those that count.
    """
    first, peaks = [], []
    for way in ways:
        first.append(_time(way, device, clock))
        grown = peak_growth(way.run, device) if memory else None
        peaks.append(None if grown is None else way.holds + grown)
    taken: list[list[float]] = [[] for _ in ways]
    began = clock()
    for turn in count():
        for k in range(len(ways)):
            place = (k + turn) % len(ways)
            taken[place].append(_time(ways[place], device, clock))
        enough = turn + 1 >= LEAST_ROUNDS and clock() - began >= seconds * len(ways)
        if enough or turn + 1 >= MOST_ROUNDS:
            break
    return [
        Timing(way, tuple(each), once, peak) for way, each, once, peak in zip(ways, taken, first, peaks, strict=True)
    ]


def _time(way: Variant, device: torch.device, clock: Callable[[], float]) -> float:
    wait_for(device)
    began = clock()
    way.run()
    wait_for(device)
    return clock() - began


def wait_for(device: torch.device) -> None:
    """Until everything given to a device is done; the CPU does it at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
