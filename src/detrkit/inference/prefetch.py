"""Prefetching in threads: images are decoded and resized while the model runs on earlier ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item], limit: int = 8) -> Generator[Made, None, None]:
    """Map `make` over items in threads, in order; at most `limit` results are made or being made at a time.

    Decoding and resizing release Python's lock, so threads suffice. Items are taken in the calling thread. An error in
    making or taking an item is raised at its position, after the earlier results. When the iterator ends, is dropped or
    is left by an exception, calls that have not begun are canceled and the others are waited for.

    Args:
        make: called in threads, several at a time.
        items: may be endless.
        limit: most results in advance; 0: each is made when it is needed, without a thread.
    """
    if not limit:
        yield from map(make, items)
        return
    remaining = iter(items)
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(min(limit, os.cpu_count() or 1), "detrkit-prefetch")
    failed: Exception | None = None

    def take(count: int) -> None:
        nonlocal failed
        try:
            waiting.extend(pool.submit(make, item) for item in islice(remaining, count))
        except Exception as error:
            failed = error

    try:
        take(limit)
        while waiting:
            made = waiting.popleft().result()
            if failed is None:
                take(1)
            yield made
        if failed is not None:
            raise failed
    finally:
        pool.shutdown(cancel_futures=True)
