"""The limits of a device, and the arithmetic and memory traffic of a piece of work."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from detrkit.benchmark.timing import wait_for

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
"""Operators that make a tensor without touching its memory."""


@dataclass(frozen=True)
class Machine:
    """A device with its measured limits."""

    device: str
    """cpu, cuda or mps."""
    name: str
    threads: int
    """CPU threads that PyTorch uses."""
    peaks: dict[str, float]
    """Precision -> floating point operations per second, a multiplication and an addition being two: the better of a
    large matrix product and a large convolution."""
    bandwidth: float
    """Bytes per second read and written when a large tensor is copied."""

    def best(self, other: Machine) -> Machine:
        """The better limits of two measurements, since other programs may have slowed one down."""
        peaks = {name: max(peak, other.peaks[name]) for name, peak in self.peaks.items()}
        return replace(self, peaks=peaks, bandwidth=max(self.bandwidth, other.bandwidth))


@dataclass(frozen=True)
class Work:
    """Arithmetic and memory traffic of a call."""

    flops: int
    """Floating point operations of matrix products, convolutions and attention; the rest is small."""
    bytes: int
    """Bytes that all operators read and write one by one. Fused operators, and half precision, need fewer."""


def measure_machine(device: torch.device, precisions: set[str], seconds: float = 1.0) -> Machine:
    """Measure a device: its peak in each of the precisions, and its rate of copying.

    Args:
        device: which.
        precisions: keys of `PRECISIONS`.
        seconds: for each of the measurements, of which the best call counts: others may need the machine as well.
    """
    peaks = {name: measure_peak(device, PRECISIONS[name], seconds) for name in sorted(precisions)}
    return Machine(device.type, _name(device), torch.get_num_threads(), peaks, measure_bandwidth(device, seconds))


def measure_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating point operations per second of the better of a matrix product and a 3 x 3 convolution, both large."""
    large = device.type == "cuda"
    side = 8192 if large else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    maps = torch.randn(32 if large else 1, 256, 100, 100, device=device).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    product = 2 * side**3 / _best(lambda: a @ b, device, seconds)
    convolved = 2 * 9 * 256 * maps.numel() / _best(lambda: functional.conv2d(maps, kernel, padding=1), device, seconds)
    return max(product, convolved)


def measure_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes per second read and written in a copy of 256 MiB, or of 2 GiB on a GPU: more than any cache holds."""
    source = torch.zeros(2**31 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device, seconds)


@torch.no_grad()
def _best(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call, after one warm-up call."""
    run()
    best, until = float("inf"), time.perf_counter() + seconds
    while True:
        wait_for(device)
        began = time.perf_counter()
        run()
        wait_for(device)
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() >= until:
            return best


def count_work(run: Callable[[], object]) -> Work:
    """Count the arithmetic and the bytes of a call while it runs; it must not be compiled."""
    with _Traffic() as traffic, FlopCounterMode(display=False) as counter:
        run()
    return Work(counter.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its base is untyped
    """Adds up the bytes that operators read and write. Views of tensors cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in _UNWRITTEN:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return result


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    rows = Path("/proc/cpuinfo")
    if device.type == "cpu" and rows.exists():
        for row in rows.read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()
