"""Timings as rows of a table, with the limits of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detrkit.benchmark.machine import Machine, Work
from detrkit.benchmark.timing import Timing

PLAIN = "plain"
"""The variant that others are compared with."""

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes per value."""


@dataclass(frozen=True)
class Row:
    """The timing of one variant. Times are in milliseconds per call; a call may process many images."""

    part: str
    """inference, training, data, postprocessing or evaluation."""
    what: str
    """The piece of work within the part."""
    variant: str
    """Name of the variant: plain, fast or cached."""
    precision: str
    """fp32, bf16 or fp16."""
    images: int
    """Images per call."""
    calls: int
    p50_ms: float
    p95_ms: float
    first_ms: float
    """Time of the very first call, which compiles and tunes."""
    images_per_second: float
    """At the median time."""
    ratio: float | None
    """Speed relative to the plain variant, at the median times; None without a plain variant."""
    memory_bytes: int | None
    """Peak memory in bytes, with weights and optimizer state; None where it was not measured."""
    flops: int | None
    """Floating point operations of the plain variant, also for the others; None where they say little."""
    bytes: int | None
    """Bytes that the operators of the plain variant read and write one by one, in this precision; fused operators need
    fewer."""
    arithmetic_ms: float | None
    """Time of `flops` at the peak measured in this precision."""
    traffic_ms: float | None
    """Time of `bytes` at the measured rate of copying."""
    of_peak: float | None
    """Share of the peak that is reached, 0..1."""
    shares: dict[str, float] | None = None
    """Phases of a training step and their shares of its time, which add up to 1."""


def make_rows(
    part: str,
    what: str,
    timings: Sequence[Timing],
    images: int,
    machine: Machine,
    work: Work | None = None,
    shares: Mapping[str, dict[str, float]] | None = None,
) -> list[Row]:
    """Make one row per variant of a piece of work.

    Args:
        part: of the benchmark.
        what: the piece of work.
        timings: of all variants; the one called `PLAIN` is compared with.
        images: images per call.
        machine: for its peaks and bandwidth.
        work: of a call of the plain variant.
        shares: by variant, see `Row`.
    """
    plain = next((timing.percentile(50) for timing in timings if timing.variant.name == PLAIN), None)
    rows = []
    for timing in timings:
        variant, middle = timing.variant, timing.percentile(50)
        moved = work.bytes * _SIZES[variant.precision] // 4 if work else None
        rows.append(
            Row(
                part,
                what,
                variant.name,
                variant.precision,
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
                (shares or {}).get(variant.name),
            )
        )
    return with_limits(rows, machine)


def with_limits(rows: Sequence[Row], machine: Machine) -> list[Row]:
    """Add the limits of a machine to rows."""
    result = []
    for row in rows:
        if row.flops is not None and row.bytes is not None and row.precision in machine.peaks:
            arithmetic = 1000 * row.flops / machine.peaks[row.precision]
            traffic = 1000 * row.bytes / machine.bandwidth
            row = replace(row, arithmetic_ms=arithmetic, traffic_ms=traffic, of_peak=arithmetic / row.p50_ms)
        result.append(row)
    return result
