"""Sections of the HTML page of an evaluation: metrics, classes, curves, confusions and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.evaluation.confusion import BACKGROUND, Confusion, Mistake
from detrkit.evaluation.error_gallery import gallery_images
from detrkit.evaluation.matching import EvalArrays
from detrkit.evaluation.per_class import F1Curve
from detrkit.ops.value_range import ValueRange
from detrkit.visualization.html_report.sections import (
    Cell,
    Chart,
    Charts,
    Column,
    Curve,
    Gallery,
    Interval,
    Matrix,
    Section,
    Summary,
    Table,
)

CURVES_SHOWN = 8
"""With more classes than this only the curve of all classes is visible when the page opens."""

CONFUSIONS = 100
"""Most pairs of classes in the table of confusions."""

_OF_A_CLASS = ("AP", "AP50", "AP75", "AR")
_AT_BEST = ("F1", "threshold", "precision", "recall")


@dataclass(frozen=True)
class ErrorAnalysis:
    """The results of an evaluation of boxes that `metrics.json` does not hold in full."""

    arrays: EvalArrays
    overall: F1Curve
    curves: Sequence[F1Curve]
    """F1 curve of each class."""
    confusion: Confusion
    chosen: Sequence[Mistake]
    """Mistakes to draw, grouped by kind, worst first."""


def summary_section(content: Mapping[str, Any]) -> Summary:
    """The most important metrics of a report.

    Args:
        content: that of `metrics.json`.
    """
    values: dict[str, Cell] = {}
    for iou_type, prefix in (("bbox", ""), ("segm", "mask ")):
        metrics = content.get("coco", {}).get(iou_type, {})
        names = [name for name in ("AP", "AP50", "AP75") if name in metrics]
        values |= {f"{prefix}{name}": _with_interval(content, prefix + name, metrics[name]) for name in names}
    if "panoptic" in content:
        quality = content["panoptic"]["All"]
        values |= {name.upper(): _with_interval(content, name.upper(), quality[name]) for name in ("pq", "sq", "rq")}
    best = content.get("best_threshold", {"score": None})
    if best["score"] is not None:
        values |= {"best threshold": best["score"], "F1 at best threshold": best["f1"]}
    counts = ("images", "objects", "detections")
    return Summary(values | {name: int(content[name]) for name in counts if name in content})


def metric_sections(content: Mapping[str, Any], analysis: ErrorAnalysis | None) -> list[Section]:
    """Tables and curves of a report.

    Args:
        content: that of `metrics.json`.
        analysis: curves and confusions of boxes; None: only panoptic maps were evaluated.
    """
    sections: list[Section] = []
    if "per_class" in content:
        sections += [_metric_table(content["coco"]), _class_table(content)]
    if "panoptic" in content:
        sections.append(_panoptic_table(content))
    if analysis is not None:
        sections += [_curves(content, analysis), _confusion_matrix(analysis.confusion)]
        sections.append(_confusion_table(analysis.confusion))
    return sections


def error_section(
    content: Mapping[str, Any],
    analysis: ErrorAnalysis,
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None,
) -> Gallery:
    """The gallery of the worst errors; see `error_gallery.gallery_images` for the arguments."""
    images = gallery_images(analysis.arrays, analysis.confusion, analysis.chosen, image_paths, value_range)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in content["mistakes"].items())
    note = (
        f"At score {analysis.confusion.threshold:.3f} and IoU 0.5: {kinds}. The boxes of the error are red, ground "
        "truth is dashed. Missed objects are ranked by size, the others by score."
    )
    total = sum(content["mistakes"].values())
    return Gallery("Errors", images, total=total, note=note, layers=("ground truth", "prediction"))


def _class_table(content: Mapping[str, Any]) -> Table:
    rows = [row for row in content["per_class"] if row["objects"]]
    rows.sort(key=lambda row: (-row["AP"], row["name"]))
    coco = content["coco"]
    groups = [("", "bbox"), *([("mask ", "segm")] if "segm" in coco else [])]
    names = [f"{prefix}{name}" for prefix, _ in groups for name in _OF_A_CLASS]

    def cells(row: Mapping[str, Any]) -> list[Cell]:
        metrics = [_with_interval(content, name, row[name.replace("mask ", "mask_")], row["id"]) for name in names]
        return [row["name"], row["objects"], *metrics, *_at(row["best_threshold"])]

    means = [
        _with_interval(content, prefix + name, coco[iou_type]["AR100" if name == "AR" else name])
        for prefix, iou_type in groups
        for name in _OF_A_CLASS
    ]
    absent = len(content["per_class"]) - len(rows)
    return Table(
        "Class by class",
        [
            Column("class"),
            Column("objects"),
            *(Column(name, bar=name.endswith("AP")) for name in names),
            *map(Column, _AT_BEST),
        ],
        [cells(row) for row in rows],
        footer=["all classes", content["objects"], *means, *_at(content["best_threshold"])],
        note="F1, precision and recall at IoU 0.5, at the score threshold with the best F1 of the class."
        + (f" {absent} more classes have no object in these images." if absent else "")
        + _interval_note(content),
    )


def _panoptic_table(content: Mapping[str, Any]) -> Table:
    panoptic = content["panoptic"]
    rows = [row for row in panoptic["per_class"] if row["segments"] or row["predicted"]]
    rows.sort(key=lambda row: (not row["isthing"], -row["pq"], row["name"]))

    def quality(row: Mapping[str, float], class_id: int | None = None) -> list[Cell]:
        return [_with_interval(content, name.upper(), row[name], class_id) for name in ("pq", "sq", "rq")]

    def cells(row: Mapping[str, Any]) -> list[Cell]:
        kind = "thing" if row["isthing"] else "stuff"
        return [row["name"], kind, row["segments"], row["predicted"], *quality(row, row["id"])]

    counts = [sum(row[name] for row in rows) for name in ("segments", "predicted")]
    columns = [Column(name) for name in ("class", "kind", "segments", "predicted")]
    return Table(
        "Panoptic quality, class by class",
        [*columns, Column("PQ", bar=True), Column("SQ"), Column("RQ")],
        [cells(row) for row in rows],
        footer=["all classes", "", *counts, *quality(panoptic["All"])],
        note=_interval_note(content).strip(),
    )


def _with_interval(content: Mapping[str, Any], name: str, value: float, class_id: int | None = None) -> Cell:
    """A metric, with its interval if the report has one.

    Args:
        content: that of `metrics.json`.
        name: name of the metric; of masks, it begins with "mask " or "mask_".
        value: the metric; -1 stands for nothing to measure.
        class_id: category id of the class; None: all classes.
    """
    intervals = content.get("intervals", {})
    metrics = intervals.get("metrics", {})
    if class_id is not None:
        metrics = next((row for row in intervals.get("per_class", ()) if row["id"] == class_id), {})
    pair = metrics.get(name.replace("mask ", "mask_"))
    return _measured(value) if value == -1 or pair is None else Interval(value, *pair)


def _interval_note(content: Mapping[str, Any]) -> str:
    if "intervals" not in content:
        return ""
    intervals = content["intervals"]
    return (
        f" Beside a metric: its {100 * intervals['level']:g} % interval, by {intervals['resamples']:,} bootstrap "
        "resamples of the images."
    )


def _metric_table(coco: Mapping[str, Mapping[str, float]]) -> Table:
    """All COCO metrics, one column each."""
    names = list(coco.get("bbox", {}))
    kinds = [(title, coco[key]) for title, key in (("boxes", "bbox"), ("masks", "segm")) if key in coco]
    rows: list[list[Cell]] = [
        [title, *(_measured(metrics.get(name, -1)) for name in names)] for title, metrics in kinds
    ]
    return Table("COCO metrics", [Column("of"), *map(Column, names)], rows)


def _curves(content: Mapping[str, Any], analysis: ErrorAnalysis) -> Charts:
    curves = content["pr_curves"]
    charts = []
    for table, title in (("iou_0.50", "at IoU 0.5"), ("iou_0.50_0.95", "mean over IoU 0.50 to 0.95")):
        per_class = curves[table]["per_class"]
        shown = len(per_class) <= CURVES_SHOWN
        lines = (
            [Curve("all classes", curves["recall"], curves[table]["all"], strong=True)] if curves[table]["all"] else []
        )
        lines += [Curve(name, curves["recall"], values, shown=shown) for name, values in per_class.items()]
        charts.append(Chart(f"Precision over recall, {title}", lines, "recall", (0, 1)))
    present = [k for k, curve in enumerate(analysis.curves) if curve.objects]
    shown = len(present) <= CURVES_SHOWN
    names = analysis.arrays.names
    lines = [_f1_line("all classes", analysis.overall, strong=True)] if analysis.overall.objects else []
    lines += [_f1_line(names[k], analysis.curves[k], shown=shown) for k in present]
    charts.append(Chart("F1 over the score threshold (IoU 0.5)", lines, "score threshold", (0, 1)))
    return Charts("Curves", charts)


def _f1_line(name: str, curve: F1Curve, *, strong: bool = False, shown: bool = True) -> Curve:
    """F1 of the detections with at least a score of 0, 0.01, ... 1."""
    grid = np.linspace(0, 1, 101)
    kept = np.searchsorted(-curve.thresholds, -grid, side="right")  # number of thresholds of at least the score
    values = np.concatenate([[0.0], curve.f1])[kept]
    return Curve(name, grid.tolist(), values.tolist(), strong=strong, shown=shown)


def _confusion_matrix(confusion: Confusion) -> Matrix:
    """The matrix of the classes that occur or were predicted."""
    counts = confusion.counts
    kept = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1) > 0)
    labels = [*confusion.names, BACKGROUND]
    return Matrix(
        "Confusion matrix",
        [labels[k] for k in kept],
        counts[np.ix_(kept, kept)].tolist(),
        note=(
            f"Counts at score {confusion.threshold:.3f} and IoU 0.5, shaded by their share of the row. The column "
            f"{BACKGROUND} counts missed objects, the row {BACKGROUND} false alarms."
        ),
    )


def _confusion_table(confusion: Confusion) -> Table:
    """The most frequent pairs of different classes, background included."""
    off = confusion.counts * (1 - np.eye(len(confusion.counts), dtype=np.int64))
    labels = [*confusion.names, BACKGROUND]
    order = np.argsort(-off, axis=None, kind="stable")[: min(CONFUSIONS, int((off > 0).sum()))]
    rows: list[list[Cell]] = []
    for row, column in zip(*np.unravel_index(order, off.shape), strict=True):
        objects = int(confusion.counts[row].sum())
        share = float(off[row, column] / objects) if row < len(confusion.names) else None
        rows.append([labels[row], labels[column], int(off[row, column]), share])
    return Table(
        "Most frequent confusions",
        [Column("ground truth"), Column("prediction"), Column("number", bar=True), Column("share of the objects", 2)],
        rows,
        total=int((off > 0).sum()),
    )


def _measured(value: float) -> float | None:
    """A metric; None for -1, which stands for nothing to measure."""
    return None if value == -1 else value


def _at(best: Mapping[str, float | None]) -> list[Cell]:
    values = (best["f1"], best["score"], best["precision"], best["recall"])
    return [None if value is None or value == -1 else value for value in values]
