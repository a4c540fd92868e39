"""Gather what many requests ask for into batches, and run them in one thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Job(Generic[Item, Result]):
    """An item that waits for its result."""

    key: Hashable
    item: Item
    queued: float
    """When it came, in seconds of `time.monotonic`."""
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """A thread that runs items in batches of one key, the oldest first.

    An item waits for others only while more are expected: as many as were there at the last batch. So a client that
    sends one image after another never waits.

    Args:
        run: makes a result of each item of a batch; called in the thread, as is `start`.
        batch_size: most items per batch.
        wait: longest time in seconds that an item waits for others.
        name: of the thread.
        start: called once before the first batch.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[Item]], Sequence[Result]],
        batch_size: int,
        wait: float,
        name: str = "",
        start: Callable[[], object] | None = None,
    ) -> None:
        self._run_batch, self.batch_size, self.wait = run, batch_size, wait
        self._start_work = start
        self._queue: deque[Job[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._expected = 1
        self._thread = threading.Thread(target=self._work, name=f"detrkit {name}", daemon=True)
        self._ready: Future[None] = Future()

    def start(self) -> None:
        """Start the thread, and wait until `start` has run in it; what `start` raises is raised here."""
        self._thread.start()
        self._ready.result()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, key: Hashable, item: Item) -> Future[Result]:
        """Put an item into the queue. A future that is cancelled before its batch begins costs nothing more."""
        job: Job[Item, Result] = Job(key, item, time.monotonic())
        with self._changed:
            if self._closing:
                job.future.set_exception(RuntimeError("the batcher is closed"))
            else:
                self._queue.append(job)
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Run what is in the queue, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            if self._start_work:
                self._start_work()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        while (jobs := self._next_jobs()) is not None:
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._answer(running)

    def _next_jobs(self) -> list[Job[Item, Result]] | None:
        """Wait for the jobs of the next batch and take them out of the queue; None: the batcher is closed."""
        with self._changed:
            while True:
                self._queue = deque(job for job in self._queue if not job.future.cancelled())
                if not self._queue:
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                oldest = self._queue[0]
                jobs = [job for job in self._queue if job.key == oldest.key][: self.batch_size]
                remaining = oldest.queued + self.wait - time.monotonic()
                if len(jobs) >= min(self.batch_size, self._expected) or remaining <= 0 or self._closing:
                    break
                self._changed.wait(remaining)
            self._expected = len(self._queue)
            taken = {id(job) for job in jobs}
            self._queue = deque(job for job in self._queue if id(job) not in taken)
        return jobs

    def _answer(self, jobs: Sequence[Job[Item, Result]]) -> None:
        """Run a batch. If it fails, run its jobs one by one, so that none fails because of another."""
        try:
            results = self._run_batch(jobs[0].key, [job.item for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
