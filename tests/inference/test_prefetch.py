"""Threads that prepare images: the order, the errors and what is held are as without them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from detrkit import Detector
from detrkit.errors import DataError
from detrkit.inference.prefetch import prefetch


def waiting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("detrkit-prefetch")]


def test_order_is_kept_at_any_duration() -> None:
    def slow_first(k: int) -> int:
        time.sleep(0.05 if k == 0 else 0)
        return 2 * k

    assert list(prefetch(slow_first, range(20), limit=5)) == list(range(0, 40, 2))
    assert list(prefetch(slow_first, range(3), limit=0)) == [0, 2, 4]
    assert waiting_threads() == []


def test_it_works_while_the_caller_does() -> None:
    begun = threading.Event()

    def make(k: int) -> int:
        if k == 1:
            begun.set()
        return k

    made = prefetch(make, range(3), limit=2)
    assert next(made) == 0
    assert begun.wait(5)  # nobody has asked for it
    assert list(made) == [1, 2]


def test_little_is_taken_from_an_endless_source() -> None:
    taken = count()
    source = (next(taken) for _ in count())
    made = prefetch(lambda k: k, source, limit=3)
    assert list(islice(made, 5)) == [0, 1, 2, 3, 4]
    assert next(taken) == 3 + 5
    made.close()
    assert waiting_threads() == []


def test_errors_come_in_their_place() -> None:
    def make(k: int) -> int:
        if k == 2:
            raise DataError("broken")
        return k

    got = []
    with pytest.raises(DataError, match="broken"):
        take_all(prefetch(make, range(9), limit=4), got)
    assert got == [0, 1]
    assert waiting_threads() == []

    def source():
        yield 0
        yield 1
        raise DataError("no more")

    got = []
    with pytest.raises(DataError, match="no more"):
        take_all(prefetch(lambda k: k, source(), limit=4), got)
    assert got == [0, 1]


def take_all(made: Iterator[int], got: list[int]) -> None:
    for each in made:
        got.append(each)  # what came before an error counts


def test_an_interrupt_waits_only_for_started_items() -> None:
    done: list[int] = []

    def make(k: int) -> int:
        time.sleep(0.02)
        done.append(k)
        return k

    def interrupted() -> None:
        for k in prefetch(make, range(1000), limit=8):
            if k == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(done) < 20
    assert waiting_threads() == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_detections_are_those_of_one_by_one(detector: Detector, some_images: Path, batch_size: int) -> None:
    paths = sorted(path for path in some_images.rglob("*.png") if not path.name.startswith(".")) * 3
    together = detector.predict(paths, threshold=0, batch_size=batch_size)
    for path, actual in zip(paths, together, strict=True):
        alone = detector.predict(path, threshold=0)
        assert actual.source == str(path)
        torch.testing.assert_close(actual.xyxy, alone.xyxy, atol=1e-3, rtol=0)
        torch.testing.assert_close(actual.scores, alone.scores, atol=1e-5, rtol=0)


def test_an_unreadable_file_raises_as_without_prefetch(detector: Detector, some_images: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png"):
        detector.predict([some_images / "5.png", tmp_path / "broken.png", some_images / "12.png"])
    assert waiting_threads() == []


def test_a_stream_can_be_prepared_ahead(detector: Detector) -> None:
    some_images = [(torch.full((3, 40, 40 + 10 * (k % 2)), 20 * k, dtype=torch.uint8), str(k)) for k in range(10)]
    plain = list(detector.stream(some_images, threshold=0, batch_size=2))
    ready = list(detector.stream(some_images, threshold=0, batch_size=2, prefetch=4))
    for (one_image, actual), (other, expected) in zip(ready, plain, strict=True):
        assert torch.equal(one_image, other)
        assert actual.source == expected.source
        assert torch.equal(actual.scores, expected.scores)
