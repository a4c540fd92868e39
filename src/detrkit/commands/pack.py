"""`detrkit pack`: pack a data set into shards with an index."""

from __future__ import annotations

import time
from collections.abc import Callable

from detrkit.config.packing import PackConfig
from detrkit.data.shards.pack_dataset import pack_dataset
from detrkit.ops.console import TextConsole, make_console, make_progress

_FIRST, _EVERY = 10.0, 60.0
"""Seconds after which a log gets its first line on the progress of a step, and further ones."""


def pack(config: PackConfig) -> None:
    """Pack a data set, and print what was left out and how long it took.

    Raises:
        ConfigError: the output has content, or lies inside the data set.
        DataError: the data set cannot be read.
    """
    console, begin = make_console(), time.monotonic()
    log = make_console(stderr=True, quiet=config.quiet)
    with make_progress(log) as bar:

        def progress(title: str, total: int) -> Callable[[int], object]:
            if bar.disable:
                return _LoggedStep(log, title, total).advance
            task = bar.add_task(title, total=total)
            return lambda done: bar.advance(task, done)

        result = pack_dataset(config, progress)
    for note in result.notes:
        console.print(f"Note: {note}.")
    counts = " and ".join(f"{count} {name} images" for name, count in result.images.items())
    tars = f"{result.shards} tar file{'' if result.shards == 1 else 's'}"
    console.print(
        f"Packed {counts} with {result.objects} objects into {tars} in {result.path}, in "
        f"{time.monotonic() - begin:.1f} s"
    )


class _LoggedStep:
    """Prints now and then how much of a step is done, for logs, where a bar is of no use."""

    def __init__(self, log: TextConsole, title: str, total: int) -> None:
        self._log, self._title, self._total, self._done = log, title, total, 0
        self._begin = time.monotonic()
        self._next = self._begin + _FIRST

    def advance(self, done: int) -> None:
        """Add what is done, and print a line if it is time."""
        self._done += done
        now = time.monotonic()
        if now < self._next or self._done >= self._total:
            return
        self._next = now + _EVERY
        left = (now - self._begin) * (self._total - self._done) / self._done
        self._log.print(f"{self._title}: {100 * self._done // self._total}% done, about {left / 60:.1f} minutes left")
