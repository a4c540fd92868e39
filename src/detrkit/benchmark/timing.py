"""Timing of variants of the same work, in turns."""

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
    """One way of doing a piece of work."""

    name: str
    """Name of the variant: plain, fast, cached, or of another library."""
    run: Callable[[], object]
    """Does the work once."""
    precision: str = "fp32"
    """Arithmetic: fp32, bf16 or fp16."""
    holds: int = 0
    """Bytes that it keeps between calls: weights and optimizer state."""


@dataclass(frozen=True)
class Timing:
    """Times and memory of a variant."""

    variant: Variant
    seconds: tuple[float, ...]
    """Seconds of each call, in order, without warm-up calls."""
    first: float
    """Seconds of the very first call, which compiles, tunes and reads."""
    memory: int | None
    """Peak memory of a call in bytes, with what the variant keeps; None where it cannot be measured."""

    def percentile(self, percent: float) -> float:
        """A percentile of the seconds per call, interpolated linearly."""
        return float(np.percentile(self.seconds, percent))


def measure(
    variants: Sequence[Variant],
    *,
    seconds: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    memory: bool = True,
) -> list[Timing]:
    """Time several variants of one piece of work.

    Each is called once or, with `memory`, twice to warm up. Then they take turns, in another order each round, until
    each has had `seconds` on average, and three rounds at least, so that other load on the machine affects all alike.

    Args:
        variants: at least one.
        seconds: for each variant.
        device: to wait for at the end of each call.
        clock: gives seconds.
        memory: also measure peak memory, in a second warm-up call.
    """
    first, peaks = [], []
    for variant in variants:
        first.append(_time(variant, device, clock))
        grown = peak_growth(variant.run, device) if memory else None
        peaks.append(None if grown is None else variant.holds + grown)
    taken: list[list[float]] = [[] for _ in variants]
    began = clock()
    for turn in count():
        for k in range(len(variants)):
            turn_of = (k + turn) % len(variants)
            taken[turn_of].append(_time(variants[turn_of], device, clock))
        enough = turn + 1 >= LEAST_ROUNDS and clock() - began >= seconds * len(variants)
        if enough or turn + 1 >= MOST_ROUNDS:
            break
    return [
        Timing(variant, tuple(each), once, peak)
        for variant, each, once, peak in zip(variants, taken, first, peaks, strict=True)
    ]


def _time(variant: Variant, device: torch.device, clock: Callable[[], float]) -> float:
    wait_for(device)
    began = clock()
    variant.run()
    wait_for(device)
    return clock() - began


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all its work; a CPU has none pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
