"""`detrkit review`: find labels that are probably wrong."""

from __future__ import annotations

from detrkit.config.reviewing import ReviewConfig
from detrkit.evaluation.label_errors import REASONS
from detrkit.evaluation.review_labels import ReviewResult, review_labels
from detrkit.ops.console import make_console
from detrkit.ops.text import one_line

SHOWN = 20
"""Number of suspects in the table of the terminal."""


def review(config: ReviewConfig) -> ReviewResult:
    """Review the labels, print the first suspects, and write report.html, suspects.json and suspects.csv.

    Raises:
        ConfigError: the folds are not finished, or the data set is not known.
        DataError: the data set or the detections cannot be read, or they do not belong together.
        WeightsError: weights cannot be read.
    """
    from rich import box
    from rich.table import Table

    console = make_console()
    result = review_labels(config, note=lambda sentence: console.print(f"Note: {sentence}."), show_data=console.print)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold", min_width=20)
    table.add_column("label id", justify="right", no_wrap=True)
    table.add_column("label", overflow="fold", min_width=12)
    table.add_column("detected", overflow="fold", min_width=12)
    for suspect in result.suspects[:SHOWN]:
        detected = "" if suspect.detected_score is None else f"{suspect.detected} {suspect.detected_score:.2f}"
        label_id = "" if suspect.label_id is None else str(suspect.label_id)
        texts = [one_line(text) for text in (suspect.file_name, label_id, suspect.label, detected)]
        table.add_row(str(suspect.rank), suspect.reason, f"{suspect.score:.2f}", *texts)
    console.print(table)
    console.print("; ".join(f"{reason}: {REASONS[reason]}" for reason in result.counts()))
    console.print(str(result))
    console.print(f"Written to {result.output_dir}: report.html, suspects.json, suspects.csv")
    return result
