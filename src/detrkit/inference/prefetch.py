"""Work done ahead of time in threads: images are decoded and resized while the model looks at those before."""

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
    """What `make` makes of each item, in order; at most `limit` of them are made or in the making at a time.

    Decoding and resizing let go of Python's lock, so threads suffice. Items are taken in the calling thread. An error
    is raised in its item's place, also one of taking an item, after what came before. When the iterator ends, is
    dropped or is left by an exception, what was not begun is dropped and what was is waited for.

    Args:
        make: called in threads, several at a time.
        items: may be endless.
        limit: 0: none is made before it is asked for, and no thread is needed.
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
