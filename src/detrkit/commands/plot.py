"""`detrkit plot`: plot the training and precision-recall curves of one or several runs."""

from __future__ import annotations

from pathlib import Path

from detrkit.config.commands import PlotConfig
from detrkit.errors import DataError
from detrkit.ops.console import make_console
from detrkit.visualization.plots import plot_precision_recall, plot_training, read_curves, read_pr, run_names


def plot(config: PlotConfig) -> list[Path]:
    """Plot the training and precision-recall curves of one or several runs.

    Writes `training_curves.png` from metrics.csv (or log.txt of the reference DETR, facebookresearch/detr), and
    `precision_recall.png` from report/metrics.json, to `config.output_dir` or report/ of the first run.

    Returns:
        The files written.

    Raises:
        DataError: a run does not exist, or none has a file to plot.
    """
    console = make_console()
    runs = [Path(run) for run in config.runs]
    for run in runs:
        if not run.is_dir():
            raise DataError(f"expected a run folder at {run}, found none; look at the path")
    names = run_names(runs)
    output_dir = Path(config.output_dir) if config.output_dir else runs[0] / "report"

    curves = {name: read_curves(run) for name, run in zip(names, runs, strict=True)}
    reports = {name: read_pr(run) for name, run in zip(names, runs, strict=True)}
    written = []
    logged = {name: log for name, log in curves.items() if log is not None}
    if logged:
        written.append(output_dir / "training_curves.png")
        plot_training(written[-1], logged)
    evaluated = {name: report for name, report in reports.items() if report is not None}
    if evaluated:
        written.append(output_dir / "precision_recall.png")
        plot_precision_recall(written[-1], evaluated)
    if not written:
        raise DataError(
            f"expected metrics.csv, log.txt or report/metrics.json in {runs[0]}, found none of them; name the folder "
            "of a run"
        )
    for name in names:
        if name not in logged:
            console.print(f"{name} has no metrics.csv: no training curves")
        if name not in evaluated:
            console.print(f"{name} has no report: no precision-recall curve; run detrkit eval to make one")
    for path in written:
        console.print(f"Written: {path}")
    return written
