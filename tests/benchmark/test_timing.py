"""Ways take turns, and the numbers made of their times are right."""

import pytest
import torch

from detrkit.benchmark.machine import Machine, Work
from detrkit.benchmark.rows import make_rows, with_limits
from detrkit.benchmark.timing import LEAST_ROUNDS, Timing, Variant, measure

CPU = torch.device("cpu")
MACHINE = Machine("cpu", "abacus", 1, {"fp32": 1000.0, "bf16": 2000.0}, bandwidth=100.0)


class Calendar:
    """Stands in for the clock: it moves when a variant says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def variant(self, name: str, *seconds: float) -> Variant:
        """Takes these seconds one call after another, and then the last of them for ever."""
        remaining = list(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return Variant(name, run)

    def clock(self) -> float:
        return self.now


def test_ways_take_turns_after_a_call_that_does_not_count() -> None:
    calendar = Calendar()
    variants = [calendar.variant("a", 50, 1), calendar.variant("b", 70, 2)]
    a, b = measure(variants, seconds=5, device=CPU, clock=calendar.clock, memory=False)
    assert calendar.calls == list("ababbaabba")
    assert (a.first, b.first) == (50, 70)
    assert (a.seconds, b.seconds) == ((1,) * 4, (2,) * 4)


def test_slow_ways_are_measured_three_times() -> None:
    calendar = Calendar()
    (timing,) = measure([calendar.variant("slow", 100)], seconds=0, device=CPU, clock=calendar.clock, memory=False)
    assert len(timing.seconds) == LEAST_ROUNDS == 3


def test_percentiles_are_interpolated() -> None:
    timing = Timing(Variant("a", int), tuple(float(k) for k in range(100, -1, -1)), first=0, memory=None)
    assert timing.percentile(50) == 50
    assert timing.percentile(95) == 95
    pair = Timing(Variant("a", int), (1.0, 3.0), first=0, memory=None)
    assert pair.percentile(50) == 2
    assert pair.percentile(95) == pytest.approx(2.9)


def test_rows_have_medians_and_shares_of_the_machine() -> None:
    plain = Timing(Variant("plain", int), (4.0, 1.0, 4.0), first=9.0, memory=64)
    fast = Timing(Variant("fast", int, "bf16"), (0.5, 0.5, 0.5), first=20.0, memory=None)
    slow, quick = make_rows("inference", "model", [plain, fast], 8, MACHINE, Work(flops=500, bytes=100))
    assert (slow.p50_ms, slow.p95_ms, slow.first_ms) == (4000, 4000, 9000)
    assert (slow.images_per_second, slow.ratio, slow.memory_bytes) == (2, 1, 64)
    assert (slow.arithmetic_ms, slow.traffic_ms, slow.of_peak) == (500, 1000, 0.125)
    assert (quick.images_per_second, quick.ratio, quick.memory_bytes) == (16, 8, None)
    assert (quick.bytes, quick.arithmetic_ms, quick.traffic_ms, quick.of_peak) == (50, 250, 500, 0.5)


def test_of_two_measurements_of_the_machine_the_better_counts() -> None:
    again = MACHINE.best(Machine("cpu", "abacus", 1, {"fp32": 4000.0, "bf16": 500.0}, bandwidth=50.0))
    assert (again.peaks, again.bandwidth) == ({"fp32": 4000.0, "bf16": 2000.0}, 100.0)
    plain = Timing(Variant("plain", int), (1.0, 1.0, 1.0), first=1.0, memory=None)
    (row,) = with_limits(make_rows("inference", "model", [plain], 1, MACHINE, Work(flops=500, bytes=100)), again)
    assert (row.arithmetic_ms, row.traffic_ms, row.of_peak) == (125, 1000, 0.125)


def test_without_a_plain_way_there_is_no_ratio() -> None:
    (row,) = make_rows("data", "images", [Timing(Variant("fast", int), (2.0,), 2.0, None)], 4, MACHINE)
    assert (row.ratio, row.flops, row.arithmetic_ms, row.of_peak) == (None, None, None, None)
    assert row.images_per_second == 2
