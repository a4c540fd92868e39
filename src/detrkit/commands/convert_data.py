"""`detrkit convert_data`: convert a data set to COCO, Pascal VOC or YOLO."""

from __future__ import annotations

from collections.abc import Callable

from detrkit.config.commands import ConvertDataConfig
from detrkit.data.conversion import write_dataset
from detrkit.ops.console import make_console, make_progress


def convert_data(config: ConvertDataConfig) -> None:
    """Write a data set in another format, and print what was left out and changed.

    Raises:
        ConfigError: the output has content, or lies inside the data set.
        DataError: the data set cannot be read.
    """
    console = make_console()
    with make_progress(make_console(stderr=True, quiet=config.quiet)) as bar:

        def progress(total: int) -> Callable[[], object]:
            task = bar.add_task("Writing images", total=total)
            return lambda: bar.advance(task)

        result = write_dataset(config, progress)
    console.print(result.report.summary()[0])
    for note in result.notes:
        console.print(f"Note: {note}.")
    counts = " and ".join(f"{count} {name} images" for name, count in result.images.items())
    console.print(f"Wrote {counts} with {result.objects} objects as {config.to.upper()} to {result.path}")
