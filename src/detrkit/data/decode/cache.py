"""Cache of decoded images in memory, so that a small data set is decoded once and not in every epoch.

Pixels are kept as decoded, so that a run with a cache is the same run, bit for bit. The cached images are fixed: as
many as fit, in the order of the data set. None is replaced, which would gain nothing in epochs that visit every image
once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")
"""Shared memory of Linux. It may be small in a container, and a process that writes beyond it is killed."""

LEFT_FREE = 2**30
"""Bytes of shared memory that stay free, for the batches of worker processes."""


class ImageCache:
    """Pixels of images in one block of memory, filled when an image is first decoded.

    If `shared`, worker processes, forked or spawned, fill and read the same block; two that decode the same image write
    the same bytes. Shared memory is allocated at once, so that it cannot run out later; other memory page by page.

    Args:
        sizes: [n, 2], (h, w) in pixels of every image of the data set, as decoded.
        limit: largest number of bytes.
        shared: use shared memory; `limit` is then lowered to half of the free shared memory, minus 1 GB for batches.

    Attributes:
        count: number of images that fit.
        nbytes: bytes of these images.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]] | np.ndarray[Any, Any], limit: int, *, shared: bool = False
    ) -> None:
        if shared:
            limit = min(limit, max(0, free_shared_memory() - LEFT_FREE) // 2)
        lengths = 3 * np.array(sizes, dtype=np.int64).reshape(-1, 2).prod(axis=1)
        ends = np.cumsum(lengths)
        self.count = int(np.searchsorted(ends, limit, side="right"))
        self.nbytes = int(ends[self.count - 1]) if self.count else 0
        self._sizes = [tuple(size) for size in np.asarray(sizes[: self.count]).tolist()]
        self._starts = (ends - lengths)[: self.count].tolist()
        self._pixels, self._filled = (_memory(length, shared=shared) for length in (self.nbytes, self.count))
        self._filled.zero_()

    def get(self, index: int) -> Tensor | None:
        """Image `index`, uint8 [3, H, W], a view of the cache that must not be changed; None if it is not cached."""
        if index >= self.count or not self._filled[index]:
            return None
        return self._place(index)

    def put(self, index: int, image: Tensor) -> None:
        """Cache an image, uint8 [3, H, W], if there is room for it and it has the size given at construction."""
        if index < self.count and tuple(image.shape[1:]) == tuple(self._sizes[index]):
            self._place(index).copy_(image)
            self._filled[index] = 1  # after the pixels, since other processes may read meanwhile

    def holds(self, image: Tensor) -> bool:
        """Whether a tensor is a view of this memory."""
        return image.untyped_storage().data_ptr() == self._pixels.untyped_storage().data_ptr()

    def _place(self, index: int) -> Tensor:
        height, width = self._sizes[index]
        start = self._starts[index]
        return self._pixels[start : start + 3 * height * width].view(height, width, 3).permute(2, 0, 1)


def _memory(length: int, *, shared: bool) -> Tensor:
    """Uninitialized memory, uint8 [length]."""
    if not shared or not length:
        return torch.empty(length, dtype=torch.uint8)
    # `share_memory_` would allocate private memory first
    storage = torch.UntypedStorage._new_shared(length)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def free_shared_memory() -> int:
    """Bytes of free shared memory; 2**62 if the system has no limit."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 2**62
