"""Items wait for others only as long as it helps, and are never lost or run twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import pytest

from detrkit.serving.batcher import Batcher


@contextmanager
def batcher(run: Callable[[Hashable, Sequence[int]], Sequence[int]], size: int, wait: float) -> Iterator[Any]:
    made: Batcher[int, int] = Batcher(run, size, wait)
    made.start()
    yield made
    made.close()
    assert not made.alive


def test_items_of_one_key_share_batches_and_keep_their_results() -> None:
    batches: list[tuple[Hashable, list[int]]] = []
    begin = threading.Event()

    def run(key: Hashable, items: Sequence[int]) -> list[int]:
        assert begin.wait(10)
        batches.append((key, list(items)))
        return [2 * item for item in items]

    with batcher(run, 3, 0.2) as made:
        futures = [made.submit("a", 0)]
        time.sleep(0.1)  # its batch has begun
        futures += [made.submit("ab"[k % 2], k) for k in range(1, 10)]
        begin.set()
        assert [future.result(20) for future in futures] == [2 * k for k in range(10)]
    assert batches[0] == ("a", [0])
    assert Counter(item for _, items in batches for item in items) == Counter(range(10))
    assert all(item % 2 == (key == "b") for key, items in batches for item in items)
    assert max(len(items) for _, items in batches) == 3
    assert batches[1][1] == [1, 3, 5]  # the oldest first


def test_a_client_that_asks_one_after_another_never_waits() -> None:
    with batcher(lambda key, items: items, 8, 5) as made:
        started = time.monotonic()
        for k in range(20):
            assert made.submit("a", k).result(4) == k
        assert time.monotonic() - started < 4


def test_an_item_waits_for_others_at_most_so_long() -> None:
    begin = threading.Event()

    def run(key: Hashable, items: Sequence[int]) -> Sequence[int]:
        assert begin.wait(10)
        return items

    with batcher(run, 8, 0.2) as made:
        futures: list[Future[int]] = [made.submit("a", k) for k in range(6)]
        begin.set()
        for future in futures:
            future.result(10)
        started = time.monotonic()
        made.submit("a", 7).result(10)
        assert 0.15 < time.monotonic() - started < 3


def test_a_cancelled_item_is_not_run() -> None:
    begin, ran = threading.Event(), []

    def run(key: Hashable, items: Sequence[int]) -> Sequence[int]:
        assert begin.wait(10)
        ran.extend(items)
        return items

    with batcher(run, 1, 0) as made:
        first, second, third = (made.submit("a", k) for k in range(3))
        time.sleep(0.1)
        assert second.cancel()
        begin.set()
        assert (first.result(10), third.result(10)) == (0, 2)
        with pytest.raises(CancelledError):
            second.result(10)
    assert ran == [0, 2]


def test_closing_runs_what_is_in_the_queue_and_takes_nothing_more() -> None:
    begin = threading.Event()

    def run(key: Hashable, items: Sequence[int]) -> Sequence[int]:
        assert begin.wait(10)
        return items

    made: Batcher[int, int] = Batcher(run, 2, 10)
    made.start()
    futures = [made.submit("a", k) for k in range(5)]
    closing = threading.Thread(target=made.close)
    closing.start()
    begin.set()
    closing.join()
    assert [future.result(0) for future in futures] == list(range(5))
    with pytest.raises(RuntimeError, match="closed"):
        made.submit("a", 9).result(0)


def test_what_fails_at_the_start_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no compiler")

    made: Batcher[int, int] = Batcher(lambda key, items: items, 1, 0, start=fail)
    with pytest.raises(ValueError, match="no compiler"):
        made.start()
    made.close()
