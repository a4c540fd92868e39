"""Results of a comparison: tables in Markdown, and curves.png."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detrkit.files import write_atomic
from runner import Point, Run

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9)
"""AP values of the table of how soon each was reached."""


def by_name(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The seeds of each model, in the order of the runs."""
    names: dict[str, list[Run]] = {}
    for run in runs:
        names.setdefault(run.job.name, []).append(run)
    return names


def result_table(runs: Sequence[Run], epochs: Sequence[int], reference: str = "") -> str:
    """AP / AP50 at some epochs, size, time and memory of each model; means over the seeds.

    Args:
        runs: runs of one comparison.
        epochs: the columns, and the last evaluation of each; those that no model was evaluated at are left out.
        reference: model that the others are divided by; ignored where it is not among them.
    """
    groups = by_name(runs)
    epochs_shown = sorted({*epochs, *(run.curve[-1].epoch for run in runs)})
    shown = [epoch for epoch in epochs_shown if any(run.at(epoch) for run in runs)]
    head = ["model", "M parameters", *(f"epoch {epoch}" for epoch in shown), "best AP", "s / epoch", "minutes", "GiB"]
    base = groups.get(reference, [])
    if base:
        head += [f"{what} / {reference}" for what in ("AP", "time", "memory")]
    rows = []
    for name, group in groups.items():
        cells = [name, f"{group[0].parameters / 1e6:.1f}"]
        cells += [_cell([point for run in group if (point := run.at(epoch))]) for epoch in shown]
        cells += [
            _spread([best_ap(run) for run in group], "{:.3f}"),
            f"{mean(run.seconds_per_epoch for run in group):.1f}",
            f"{mean(run.curve[-1].seconds for run in group) / 60:.1f}",
            f"{mean(run.memory for run in group) / 2**30:.2f}",
        ]
        if base:
            measures: list[Callable[[Run], float]] = [
                lambda run: run.curve[-1].AP,
                lambda run: run.seconds_per_epoch,
                lambda run: run.memory,
            ]
            cells += [_ratio(mean(map(value, group)), mean(map(value, base))) for value in measures]
        rows.append(cells)
    notes = [f"AP / AP50, {max(len(group) for group in groups.values())} seed(s). Times include evaluations."]
    notes += [f"On {text}." for text in dict.fromkeys(run.machine for run in runs)]
    if shared := max(run.parallel for run in runs):
        notes += [f"Up to {shared} trainings shared the machine: times compare, but are longer than alone."] * (
            shared > 1
        )
    return markdown(head, rows) + "\n" + " ".join(notes) + "\n"


def reach_table(runs: Sequence[Run]) -> str:
    """The first evaluated epoch (and minutes) at which each model had each AP; means over the seeds that got there."""
    groups = by_name(runs)
    top = max(best_ap(run) for run in runs)
    rows = []
    for level in LEVELS:
        if level > top:
            break
        cells = [f"{level:.2f}"]
        for group in groups.values():
            points = [point for run in group if (point := first_at(run, level))]
            cells.append(
                f"{mean(p.epoch for p in points):.3g} ({mean(p.seconds for p in points) / 60:.1f} min)"
                if len(points) == len(group)
                else "never"
            )
        rows.append(cells)
    return markdown(["epochs until AP", *groups], rows) if rows else ""


def share_of_epochs(quick: Run, slow: Run) -> float | None:
    """The largest share of the epochs of `slow` that `quick` needs to any AP that `slow` reaches.

    None where `slow` never has an AP above 0, infinite where `quick` does not get as far.
    """
    shares, record = [], 0.0
    for point in slow.curve:
        if record < point.AP:
            record = point.AP
            reached = first_at(quick, record)
            shares.append(reached.epoch / point.epoch if reached else float("inf"))
    return max(shares, default=None)


def first_at(run: Run, level: float) -> Point | None:
    """The first evaluation with at least that AP."""
    return next((point for point in run.curve if level <= point.AP), None)


def best_ap(run: Run) -> float:
    """The highest AP of a run."""
    return max(point.AP for point in run.curve)


def draw_curves(path: Path, runs: Sequence[Run], title: str) -> None:
    """AP over epochs and AP over minutes: thin lines are seeds, thick ones their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = by_name(runs)
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[tuple[str, Callable[[Point], float]]] = [
        ("epochs", lambda point: point.epoch),
        ("minutes", lambda point: point.seconds / 60),
    ]
    ranked = sorted(groups, key=lambda name: -mean(run.curve[-1].AP for run in groups[name]))
    for place, (unit, x_of) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        for name in ranked:  # best first, as in the legend
            look = _look(list(groups).index(name))
            group = groups[name]
            final = mean(run.curve[-1].AP for run in group)
            if len(group) > 1:
                for run in group:
                    axes.plot(*_line(run.curve, x_of), color=look["color"], linewidth=0.7, alpha=0.6)
            middle = _mean_curve(group)
            marker = "o" if len(middle) <= 12 else None
            axes.plot(
                *_line(middle, x_of), linewidth=2, marker=marker, markersize=3.5, label=f"{final:.3f}  {name}", **look
            )
        axes.set(xlabel=unit, ylabel="AP (IoU 0.50:0.95)", xlim=(0, None), ylim=(0, None))
        axes.set_title(f"AP over {unit}", fontsize=11)
        axes.grid(color="0.92")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="AP at the end", fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_atomic(path, content.getvalue())


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns also line up as plain text; all but the first are numbers."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(table[0]), rule, *map(line, table[1:])]) + "\n"


def _cell(points: Sequence[Point]) -> str:
    return f"{mean(p.AP for p in points):.3f} / {mean(p.AP50 for p in points):.2f}" if points else ""


def _spread(values: Sequence[float], form: str) -> str:
    """Mean, and standard deviation where there are several."""
    text = form.format(mean(values))
    return f"{text} ± {form.format(stdev(values))}" if len(values) > 1 else text


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base > 0 else "-"


def _mean_curve(group: Sequence[Run]) -> list[Point]:
    """Means over the seeds at the epochs that all of them were evaluated at."""
    curve = []
    for point in group[0].curve:
        points = [each for run in group if (each := run.at(point.epoch))]
        if len(points) == len(group):
            curve.append(
                Point(
                    epoch=point.epoch,
                    seconds=mean(p.seconds for p in points),
                    AP=mean(p.AP for p in points),
                    AP50=mean(p.AP50 for p in points),
                )
            )
    return curve


def _line(curve: Sequence[Point], x_of: Callable[[Point], float]) -> tuple[list[float], list[float]]:
    """From AP 0 before the first step."""
    return [0.0, *(x_of(point) for point in curve)], [0.0, *(point.AP for point in curve)]


def _look(number: int) -> dict[str, Any]:
    """Ten colors, then the same ones dashed."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
