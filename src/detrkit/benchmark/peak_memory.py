"""Memory that a piece of work takes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch import Tensor
from torch.autograd.profiler import profile


def peak_growth(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak growth in bytes of the memory of PyTorch's tensors during a call; None on MPS, which does not report it.

    On CUDA it is reported by the allocator. On the CPU all allocations of PyTorch are listed and added up: that is
    exact and repeatable, unlike the memory of the process, which hardly grows in the second call and never shrinks.
    Memory of other libraries is not included.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        run()
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would mention GPUs that are not there
    with profile(use_cpu=True, profile_memory=True) as listed:
        run()
    results = listed.kineto_results
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(accumulate((int(size) for _, size in events), initial=0))


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Total bytes of tensors; storage that several share counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
