"""Decoded images kept in memory, so that a small data set is decoded once and not in every epoch.

Pixels are kept as the decoder gives them, so that a run with a cache is the same run, bit for bit. Which images are
kept is decided beforehand and never changes: as many as fit, in the order of the data set. Nothing is ever thrown out
for another one, which in an epoch that visits every image once would only mean that the next is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps memory that processes share. It may be small in a container, and writing beyond it kills."""

LEFT_FREE = 2**30


class ImageCache:
    """The pixels of some images, one after another in one block of memory, filled as they are first met.

    Worker processes, forked or spawned, fill and read the same block where it is `shared`. Two that meet an image at
    once write the same bytes. Shared memory is taken at once, so that it cannot run out later, other memory page by
    page as it is filled.

    Attributes:
        count: how many images there is room for.
        nbytes: what they take, all together.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], limit: int, *, shared: bool = False) -> None:
        """Find room.

        Args:
            sizes: (h, w) in pixels of every image of the data set, as decoded.
            limit: most bytes to take.
            shared: let other processes use it too; `limit` is then lowered to half of what is free for that, after a GB
                for the batches that workers hand over.
        """
        if shared:
            limit = min(limit, max(0, free_shared_memory() - LEFT_FREE) // 2)
        lengths = 3 * np.array(sizes, dtype=np.int64).reshape(-1, 2).prod(axis=1)
        ends = np.cumsum(lengths)
        self.count = int(np.searchsorted(ends, limit, side="right"))
        self.nbytes = int(ends[self.count - 1]) if self.count else 0
        self._sizes, self._starts = list(sizes[: self.count]), (ends - lengths)[: self.count].tolist()
        self._pixels, self._filled = (_memory(length, shared=shared) for length in (self.nbytes, self.count))
        self._filled.zero_()

    def get(self, index: int) -> Tensor | None:
        """Image `index`, uint8 [3, H, W], if it is there. It is the cache's own memory, not to be written to."""
        if index >= self.count or not self._filled[index]:
            return None
        return self._place(index)

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image, uint8 [3, H, W], if there is room for it; one of another size than was said is not kept."""
        if index < self.count and tuple(image.shape[1:]) == tuple(self._sizes[index]):
            self._place(index).copy_(image)
            self._filled[index] = 1  # after its pixels, for those who look at the same time

    def holds(self, image: Tensor) -> bool:
        """Whether a tensor is part of this memory."""
        return image.untyped_storage().data_ptr() == self._pixels.untyped_storage().data_ptr()

    def _place(self, index: int) -> Tensor:
        height, width = self._sizes[index]
        start = self._starts[index]
        return self._pixels[start : start + 3 * height * width].view(height, width, 3).permute(2, 0, 1)


def _memory(length: int, *, shared: bool) -> Tensor:
    """uint8 [length], of any content."""
    if not shared or not length:
        return torch.empty(length, dtype=torch.uint8)
    # `share_memory_` would take private memory first
    storage = torch.UntypedStorage._new_shared(length)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def free_shared_memory() -> int:
    """Bytes that processes may still share; where the system has no limit for that, very many."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 2**62
