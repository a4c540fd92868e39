"""What was measured, as rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detrkit.benchmark.machine import Machine, Work
from detrkit.benchmark.timing import Timing

PLAIN = "plain"
"""The way that others are compared with."""

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number."""


@dataclass(frozen=True)
class Row:
    """One way of doing one thing. Times are in milliseconds, and of a call, which may be about many images."""

    part: str
    """inference, training, data, postprocessing or evaluation."""
    what: str
    """Which thing of that part."""
    way: str
    """plain, fast, cached, or whose it is."""
    precision: str
    """fp32, bf16 or fp16."""
    images: int
    """Of a call."""
    calls: int
    p50_ms: float
    p95_ms: float
    first_ms: float
    """Of the very first call, in which things are compiled and tuned."""
    images_per_second: float
    """By the median."""
    ratio: float | None
    """How many times as fast as the plain way, by the medians; None where there is none."""
    memory_bytes: int | None
    """At the fullest moment, with weights and what the optimiser keeps; None where it was not looked at."""
    flops: int | None
    """Floating point operations of the plain way, which all are measured by; None where they say little."""
    bytes: int | None
    """That the operators of the plain way read and write, each by itself, in this precision. Fused ones need less."""
    arithmetic_ms: float | None
    """What `flops` take at the peak measured in this precision."""
    traffic_ms: float | None
    """What `bytes` take at the measured rate of copying."""
    of_peak: float | None
    """Share of the peak that was reached, 0..1."""
    shares: dict[str, float] | None = None
    """Of a training step: its phases and their shares, which add up to 1. Without `criterion`, it is in `forward`."""


def make_rows(
    part: str,
    what: str,
    timings: Sequence[Timing],
    images: int,
    machine: Machine,
    work: Work | None = None,
    shares: Mapping[str, dict[str, float]] | None = None,
) -> list[Row]:
    """A row for each way of one thing.

    Args:
        part: of the bench.
        what: the thing.
        timings: of all ways; that called `PLAIN` is compared with.
        images: of a call.
        machine: whose peaks and bandwidth count.
        work: of a call of the plain way.
        shares: by way, see `Row`.
    """
    plain = next((timing.percentile(50) for timing in timings if timing.way.name == PLAIN), None)
    rows = []
    for timing in timings:
        way, middle = timing.way, timing.percentile(50)
        moved = work.bytes * _SIZES[way.precision] // 4 if work else None
        rows.append(
            Row(
                part,
                what,
                way.name,
                way.precision,
                images,
                len(timing.seconds),
                1000 * middle,
                1000 * timing.percentile(95),
                1000 * timing.first,
                images / middle,
                plain / middle if plain is not None else None,
                timing.memory,
                work.flops if work else None,
                moved,
                None,
                None,
                None,
                (shares or {}).get(way.name),
            )
        )
    return beside(rows, machine)


def beside(rows: Sequence[Row], machine: Machine) -> list[Row]:
    """Rows with what their work takes on a machine."""
    compared = []
    for row in rows:
        if row.flops is not None and row.bytes is not None and row.precision in machine.peaks:
            arithmetic = 1000 * row.flops / machine.peaks[row.precision]
            traffic = 1000 * row.bytes / machine.bandwidth
            row = replace(row, arithmetic_ms=arithmetic, traffic_ms=traffic, of_peak=arithmetic / row.p50_ms)
        compared.append(row)
    return compared
