"""The plots of a report: precision over recall, F1 over the score threshold, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.evaluation.coco_metrics import CocoMetrics
from detrkit.evaluation.confusion import Confusion
from detrkit.evaluation.per_class import F1Curve
from detrkit.visualization.figures import as_label, figure_file

MOST_NAMED = 10
"""With more classes than this only those with most objects are named; the others are thin gray lines."""

MOST_COUNTED = 40
"""With more classes than this the confusion matrix shows colors without counts."""


def plot_pr(path: Path, result: CocoMetrics) -> None:
    """Plot precision over recall at IoU 0.5 and on average over IoU 0.50:0.95, per class and their mean."""
    names = [row.name for row in result.per_class]
    with figure_file(path, 11.5, 4.6, names) as figure:
        shown = [k for k, row in enumerate(result.per_class) if row.objects]
        styles = _styles({k: result.per_class[k].objects for k in shown})
        for position, (title, table) in enumerate(
            [
                ("at IoU 0.5", result.precision[0]),
                ("mean over IoU 0.50 to 0.95", result.precision.mean(axis=0)),
            ]
        ):
            axes = figure.add_subplot(1, 2, position + 1)
            for k, style in styles.items():
                label = f"{as_label(names[k])}  {table[:, k].mean():.2f}" if "zorder" not in style else None
                axes.plot(result.recall_points, table[:, k], label=label, **style)
            if shown:
                mean = table[:, shown].mean(axis=1)
                axes.plot(
                    result.recall_points, mean, color="black", linewidth=2.4, label=f"all classes  {mean.mean():.2f}"
                )
            _finish(axes, f"Precision and recall, {title}", "recall", "precision", "class and AP")


def plot_f1(path: Path, overall: F1Curve, curves: Sequence[F1Curve], names: Sequence[str]) -> None:
    """Plot F1 at IoU 0.5 over the score threshold, per class and all together, with the best threshold marked."""
    with figure_file(path, 7.4, 4.8, names) as figure:
        axes = figure.add_subplot(1, 1, 1)
        drawn = {k: curve.objects for k, curve in enumerate(curves) if curve.objects and len(curve.f1)}
        for k, style in _styles(drawn).items():
            best = curves[k].best
            at = "" if best.threshold is None else f" at {best.threshold:.3f}"
            label = f"{as_label(names[k])}  {best.f1:.2f}{at}" if "zorder" not in style else None
            axes.plot(*_steps(curves[k]), drawstyle="steps-pre", label=label, **style)
        point = overall.best
        if point.threshold is not None:
            label = f"all classes  {point.f1:.2f} at {point.threshold:.3f}"
            axes.plot(*_steps(overall), drawstyle="steps-pre", color="black", linewidth=2.4, label=label)
            axes.plot([point.threshold], [point.f1], "o", color="black", markersize=7)
            axes.axvline(point.threshold, color="black", linewidth=0.8, linestyle=":")
        _finish(
            axes, "F1 over the score threshold (IoU 0.5)", "score threshold", "F1", "class, best F1 and its threshold"
        )
        if len(overall.thresholds):
            axes.set_xlim(0, min(1.0, 1.1 * float(overall.thresholds[0])))  # young models score everything low


def plot_confusion(path: Path, confusion: Confusion) -> None:
    """Plot the confusion matrix; classes that neither occur nor were predicted are left out.

    Colors are shares of a row, that is of the objects of a class (of all false alarms in the last row).
    """
    counts = confusion.counts
    kept = np.flatnonzero((counts.sum(axis=0) + counts.sum(axis=1) > 0) | (np.arange(len(counts)) == len(counts) - 1))
    counts = counts[np.ix_(kept, kept)]
    names = [as_label(confusion.names[k]) for k in kept[:-1]]  # the last is no class
    missed, alarms = [*names, "missed"], [*names, "false alarm"]
    counted = len(missed) <= MOST_COUNTED
    side = max(4.2, len(missed) * (0.46 if counted else 0.26))
    with figure_file(path, side + 2.4, side + 1.4, confusion.names) as figure:
        axes = figure.add_subplot(1, 1, 1)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if counted:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    ink = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(missed)), missed, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(missed)), alarms, fontsize=8)
        axes.axhline(len(missed) - 1.5, color="gray", linewidth=0.8)
        axes.axvline(len(missed) - 1.5, color="gray", linewidth=0.8)
        axes.set_xlabel("prediction")
        axes.set_ylabel("ground truth")
        axes.set_title(f"Confusion at score {confusion.threshold:.3f} and IoU 0.5", fontsize=11)
        figure.colorbar(image, ax=axes, fraction=0.03, aspect=40, pad=0.01, label="share of the row")


def _styles(weight: Mapping[int, float]) -> dict[int, dict[str, Any]]:
    """The line style of each class: colored and named for those of most weight, else thin gray."""
    named = sorted(weight, key=lambda k: -weight[k])[:MOST_NAMED]
    gray = {k: {"color": "0.85", "linewidth": 0.7, "zorder": 1} for k in weight if k not in named}
    return gray | {k: {"color": f"C{i}", "linewidth": 1.3} for i, k in enumerate(sorted(named))}


def _steps(curve: F1Curve) -> tuple[list[float], list[float]]:
    """The curve from low to high thresholds, for steps that hold up to a point; 0 above the highest score."""
    f1 = curve.f1[::-1].tolist()
    return [0.0, *curve.thresholds[::-1].tolist(), 1.0], [*f1[:1], *f1, 0.0]


def _finish(axes: Any, title: str, x: str, y: str, legend: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.92")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=legend, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
