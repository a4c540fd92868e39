"""`detrkit pack`: pack a data set into shards with an index."""

from __future__ import annotations

import time
from collections.abc import Callable

from detrkit.config.packing import PackConfig
from detrkit.data.shards.pack_dataset import pack_dataset
from detrkit.ops.console import make_console, make_progress


def pack(config: PackConfig) -> None:
    """Pack a data set, and print what was left out and how long it took.

    Raises:
        ConfigError: the output has content, or lies inside the data set.
        DataError: the data set cannot be read.
    """
    console, begin = make_console(), time.monotonic()
    with make_progress(make_console(stderr=True, quiet=config.quiet)) as bar:

        def progress(total: int) -> Callable[[], object]:
            task = bar.add_task("Packing images", total=total)
            return lambda: bar.advance(task)

        result = pack_dataset(config, progress)
    for note in result.notes:
        console.print(f"Note: {note}.")
    counts = " and ".join(f"{count} {name} images" for name, count in result.images.items())
    tars = f"{result.shards} tar file{'' if result.shards == 1 else 's'}"
    console.print(
        f"Packed {counts} with {result.objects} objects into {tars} in {result.path}, in "
        f"{time.monotonic() - begin:.1f} s"
    )
