"""Curves of one or several runs: training curves over epochs, and precision over recall."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.errors import DataError
from detrkit.visualization.figures import as_label, figure_file
from detrkit.visualization.html_report.sections import Chart, Charts, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve official metrics in their order in log.txt of the reference DETR."""

FIRST_PANELS = ("AP", "AP50", "AP75", "AR100", "loss", "loss_ce", "loss_bbox", "loss_giou", "class_error")
"""Quantities that are plotted first; others follow in the order of the file."""

LEFT_OUT = ("epoch", "step", "seconds", "n_parameters", "APs", "APm", "APl", "AR1", "AR10", "ARs", "ARm", "ARl")
"""Axes and details that would crowd the sheet."""

PR_TABLES = {"iou_0.50": "at IoU 0.5", "iou_0.50_0.95": "mean over IoU 0.50 to 0.95"}
"""Tables of `pr_curves` in a report's metrics.json, and their titles."""


@dataclass
class Curves:
    """The log of a run: for each quantity its points over epochs (counted from 1)."""

    train: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Measured in training, or a property of the epoch, such as the learning rate."""
    val: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Measured on the validation images."""

    def quantities(self) -> Iterator[str]:
        """Names of all quantities that have a point."""
        yield from dict.fromkeys([*self.train, *self.val])


def plot_training(path: Path, runs: Mapping[str, Curves]) -> None:
    """Plot training curves, one panel per quantity and one color per run; training solid, validation dashed.

    Args:
        path: PNG to write.
        runs: name of each run and what it logged.
    """
    panels = _panels(runs)
    columns = min(4, max(1, math.ceil(math.sqrt(len(panels)))))
    rows = math.ceil(len(panels) / columns)
    with figure_file(path, 4.2 * columns, 2.9 * rows + 0.5, [*runs, *panels]) as figure:
        from matplotlib.ticker import MaxNLocator

        for place, quantity in enumerate(panels):
            axes = figure.add_subplot(rows, columns, place + 1)
            for number, curves in enumerate(runs.values()):
                for points, line in ((curves.train.get(quantity), "-"), (curves.val.get(quantity), "--")):
                    if points:
                        # AP is only ever a matter of validation: no need to draw it thin
                        style = "-" if quantity not in curves.train else line
                        axes.plot(*zip(*points, strict=True), style, color=_color(number), **_marks(points))
            axes.set_title(as_label(quantity), fontsize=10)
            axes.grid(color="0.92")
            axes.tick_params(labelsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if place >= len(panels) - columns:
                axes.set_xlabel("epoch", fontsize=9)
            _limit(axes, quantity, [v for c in runs.values() for _, v in c.train.get(quantity, [])])
        _legend(figure, list(runs), lines=any(set(c.train) & set(c.val) for c in runs.values()))


def training_charts(runs: Mapping[str, Curves]) -> Charts:
    """Make the training curves of an HTML report, one chart per quantity.

    Args:
        runs: name of each run and what it logged.
    """
    charts = []
    for quantity in _panels(runs):
        lines = []
        for name, curves in runs.items():
            for part, points in (("training", curves.train.get(quantity)), ("validation", curves.val.get(quantity))):
                if points:
                    label = part if len(runs) == 1 else f"{name}, {part}"
                    epochs, values = zip(*points, strict=True)
                    lines.append(Curve(label, epochs, values, dashed=part == "validation" and len(runs) > 1))
        trained = [value for curves in runs.values() for _, value in curves.train.get(quantity, [])]
        charts.append(
            Chart(
                quantity,
                lines,
                "epoch",
                log_y=_falls_by_powers(quantity, trained),
                from_zero=quantity in COCO_NAMES or quantity == "class_error",
            )
        )
    return Charts("Training curves", charts, small=True)


def plot_precision_recall(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Plot precision over recall, mean of all classes, one color per run; for a single run each class too, in gray.

    Args:
        path: PNG to write.
        runs: name of each run, and `pr_curves` of its report's metrics.json.
    """
    with figure_file(path, 10.5, 4.6, runs) as figure:
        for place, (table, title) in enumerate(PR_TABLES.items()):
            axes = figure.add_subplot(1, 2, place + 1)
            for number, (name, curves) in enumerate(runs.items()):
                recall, precision = curves["recall"], curves[table]["all"]
                if len(runs) == 1:
                    for one in curves[table]["per_class"].values():
                        axes.plot(recall, one, color="0.8", linewidth=0.8)
                if precision:
                    ap = sum(precision) / len(precision)
                    axes.plot(
                        recall, precision, color=_color(number), linewidth=2, label=f"{as_label(name)}  AP {ap:.3f}"
                    )
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            axes.set_title(f"Precision and recall, {title}", fontsize=11)
            axes.grid(color="0.92")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8, loc="upper right")


def read_curves(run: Path) -> Curves | None:
    """Read the log of a run folder: metrics.csv, else log.txt of the reference DETR; None where it has neither.

    Raises:
        DataError: the file cannot be understood.
    """
    if (run / "metrics.csv").is_file():
        return _from_csv(run / "metrics.csv")
    return _from_log(run / "log.txt") if (run / "log.txt").is_file() else None


def run_names(runs: Sequence[Path]) -> list[str]:
    """Short names of run folders: the shortest end of each path that differs from the others."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    if len(set(parts)) < len(parts):
        twice = next(run for run in runs if parts.count(run.resolve().parts) > 1)
        raise DataError(f"expected different runs, found {twice} more than once")
    return names


def _from_csv(path: Path) -> Curves:
    """Read metrics.csv: one row per epoch, columns such as epoch, lr, train/loss, val/AP; only numbers are kept."""
    curves = Curves()
    with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have written it anew
        for number, row in enumerate(csv.DictReader(file), start=1):
            epoch = _number(row.get("epoch"))
            for name, text in row.items():
                value = _number(text) if name else None
                if value is not None:
                    _add(curves, name, number if epoch is None else epoch, value)
    if not any(curves.quantities()):
        raise DataError(f"expected one row of numbers per epoch in {path}, found none; let the run finish an epoch")
    return curves


def _from_log(path: Path) -> Curves:
    """Read log.txt of the reference DETR: one JSON object per epoch (from 0); unweighted losses where it has them."""
    curves = Curves()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            epoch = float(row.get("epoch", number - 1)) + 1
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"expected a JSON object in {path}, line {number}, found {line[:40]!r}") from error
        for name, value in row.items():
            part = {"train": "train", "test": "val"}.get(name.partition("_")[0])
            rest = name.partition("_")[2]
            if name == "train_lr":
                _add(curves, "lr", epoch, value)
            elif rest == "coco_eval_bbox" and isinstance(value, list):
                for metric, number_of_it in zip(COCO_NAMES, value, strict=False):
                    _add(curves, f"val/{metric}", epoch, number_of_it)
            elif part and isinstance(value, int | float) and f"{name}_unscaled" not in row:
                _add(curves, f"{part}/{rest.removesuffix('_unscaled')}", epoch, value)
    if not any(curves.quantities()):
        raise DataError(f"expected one line per epoch in {path}, found nothing to draw")
    return curves


def read_pr(run: Path) -> Mapping[str, Any] | None:
    """Read the `pr_curves` of the report of a run folder; None where it has no report."""
    path = next((p for p in (run / "report" / "metrics.json", run / "metrics.json") if p.is_file()), None)
    if path is None:
        return None
    try:
        curves: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["pr_curves"]
        complete = all("all" in curves[table] for table in PR_TABLES) and "recall" in curves
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected precision-recall curves in {path}, found none; write it again: detrkit eval") from (
            error
        )
    return curves if complete else None


def _add(curves: Curves, name: str, epoch: float, value: float) -> None:
    """Add a point to the curve of a quantity.

    Left out are the losses of earlier decoder layers (loss_ce_3), metrics of -1 (no ground truth), and metrics of
    single classes (class_AP/NAME), which would need a panel each. Losses of training-only branches keep the branch
    name: `train/dense/loss_ce` is the quantity dense/loss_ce.
    """
    part, _, rest = name.partition("/") if "/" in name else ("", "", name)
    if re.match(r"class_(mask_)?(AP|PQ)/", rest):
        return
    if rest.rpartition("_")[2].isdecimal() or not math.isfinite(value) or (rest in COCO_NAMES and value < 0):
        return
    points = curves.val if part == "val" else curves.train
    points.setdefault(rest, []).append((epoch, float(value)))


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _panels(runs: Mapping[str, Curves]) -> list[str]:
    """The quantities to plot, the most important first."""
    quantities = list(dict.fromkeys(q for curves in runs.values() for q in curves.quantities()))
    panels = [q for q in FIRST_PANELS if q in quantities]
    return panels + [q for q in quantities if q not in panels and q not in LEFT_OUT]


def _falls_by_powers(quantity: str, values: Sequence[float]) -> bool:
    """Whether a quantity is a learning rate that is best seen on a logarithmic axis."""
    return quantity.startswith("lr") and min(values, default=0) > 0 and max(values) / min(values) > 5


def _color(number: int) -> str:
    return f"C{number % 10}"


def _marks(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The marker of a curve: few points are marked, since a single one would be invisible."""
    return {"linewidth": 1.6, "marker": "o" if len(points) <= 12 else None, "markersize": 3.5}


def _limit(axes: Axes, quantity: str, trained: Sequence[float]) -> None:
    """Set the axis of a quantity: metrics begin at 0, a learning rate that falls by powers of ten is logarithmic."""
    if quantity in COCO_NAMES or quantity == "class_error":
        axes.set_ylim(0, max(axes.get_ylim()[1], 0.01))
    elif _falls_by_powers(quantity, trained):
        axes.set_yscale("log")


def _legend(figure: Figure, names: Sequence[str], *, lines: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_color(k), linewidth=2, label=as_label(name)) for k, name in enumerate(names)]
    if lines:
        handles += [
            Line2D([], [], color="0.3", linestyle="-", label="training"),
            Line2D([], [], color="0.3", linestyle="--", label="validation"),
        ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)), fontsize=9, frameon=False)
