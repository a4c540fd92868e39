"""`detrkit compare`: compare detectors, or files of predictions, on the same images."""

from __future__ import annotations

from detrkit.config.commands import CompareConfig
from detrkit.evaluation.compare_detectors import compare_detectors
from detrkit.evaluation.comparison import ComparisonResult, comparison_tables
from detrkit.ops.console import make_console


def compare(config: CompareConfig) -> ComparisonResult:
    """Compare, print the differences with their intervals, and write report.html, comparison.json and drawn images.

    Raises:
        ConfigError: there are fewer than two sources, or no data set is known to all of them.
        DataError: the data set or a file of predictions cannot be read, or they do not belong together.
        WeightsError: weights cannot be read.
    """
    console = make_console()
    result = compare_detectors(config, note=console.print, show_data=console.print)
    for model in result.models:
        console.row(model.letter, model.source)
    for table in comparison_tables(result):
        console.print(table)
    for sentence in result.sentences():
        console.print(sentence)
    drawn = sum(bool(image.drawing) for image in result.images)
    if drawn:
        console.print(f"{drawn} of {len(result.images)} images with different numbers of errors are drawn")
    console.print(f"Written to {result.output_dir}")
    return result
