"""How much memory a piece of work takes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch import Tensor
from torch.autograd.profiler import profile


def peak_growth(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which a call grows what PyTorch's tensors take, at its fullest moment; None on MPS, which cannot tell.

    On CUDA it is what the allocator notes. On the CPU every allocation of PyTorch is listed and added up. That is exact
    and the same each time, unlike the memory that the process holds, which hardly grows in the second call and never
    shrinks; what other libraries take for themselves is not in it.
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would talk about GPUs that are not there
    with profile(use_cpu=True, profile_memory=True) as listed:
        run()
    results = listed.kineto_results
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    peak: int = max(accumulate((size for _, size in events), initial=0))
    return peak


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors together; one that is there twice counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
