"""The report on folds: metrics of each, their mean and spread, and those of all detections together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.data.records import Split
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.report import measure, write_report
from detrkit.files import write_atomic
from detrkit.ops.console import make_console
from detrkit.ops.text import one_line
from detrkit.visualization.html_report.sections import Cell, Column, Table


@dataclass(frozen=True)
class FoldMetrics:
    """One fold: its run, and the metrics of its images."""

    run_dir: Path
    images: int
    """Number of images of the fold."""
    detections: DetectionArrays = field(repr=False)
    metrics: dict[str, float]
    """COCO metrics of boxes, and those of masks as mask_AP, ...; -1 where there is no object."""
    per_class: dict[str, float]
    """AP of boxes by the name of the class; -1 for a class without an object."""
    epoch: int
    """Epoch of the best checkpoint."""


def measure_fold(run_dir: Path, images: Split, detections: DetectionArrays, *, epoch: int) -> FoldMetrics:
    """Measure the detections of a fold on its images."""
    coco = measure(images.to_coco(masks=detections.segmentations is not None), detections)
    metrics = dict(coco["bbox"].metrics)
    if "segm" in coco:
        metrics |= {f"mask_{name}": value for name, value in coco["segm"].metrics.items()}
    per_class = {row.name: row.AP for row in coco["bbox"].per_class}
    return FoldMetrics(run_dir, len(images), detections, metrics, per_class, epoch)


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that were measured; -1 where there are too few."""
    measured = [value for value in values if value >= 0]
    if not measured:
        return -1.0, -1.0
    return statistics.fmean(measured), statistics.stdev(measured) if len(measured) > 1 else -1.0


def write_folds_report(
    folder: Path,
    images: Split,
    gt: Mapping[str, Any],
    detections: DetectionArrays,
    folds: Sequence[FoldMetrics],
    config: TrainConfig,
    *,
    epochs: int,
) -> dict[str, float]:
    """Write report/ of the folder and print its tables.

    Args:
        folder: folder of the folds.
        images: all images.
        gt: their ground truth, see `Split.to_coco`.
        detections: detections of each image by the model that has not seen it.
        folds: the folds.
        config: settings of the folds.
        epochs: number of epochs that suited the folds.

    Returns:
        The metrics of all detections together.
    """
    names = [name for name in folds[0].metrics if name in ("AP", "AP50", "AP75", "AR100", "mask_AP", "mask_AP50")]
    spread = {name: mean_and_spread(fold.metrics[name] for fold in folds) for name in names}
    classes = {name: mean_and_spread(fold.per_class[name] for fold in folds) for name in folds[0].per_class}
    of_folds = Table(
        "Folds",
        [Column("fold"), Column("images", 0), Column("epoch", 0), *map(Column, names)],
        [[fold.run_dir.name, fold.images, fold.epoch, *(fold.metrics[name] for name in names)] for fold in folds],
        footer=[
            "mean ± deviation",
            len(images),
            epochs,
            *(f"{_number(mean)} ± {_number(dev)}" for mean, dev in spread.values()),
        ],
        note="Each fold is measured by the model that was trained on the others.",
    )
    content = write_report(
        gt,
        detections,
        folder / "report",
        image_paths={image.id: image.path for image in images.images},
        value_range=images.value_range,
        meta={"data": config.data, "folds": config.folds, "detections": str(folder / "detections.json")},
        title=f"{config.folds} folds of {Path(config.data or config.train_json).name}",
        extra_sections=[of_folds, _of_classes(folds, classes)],
    )
    coco = content["coco"]
    pooled = dict(coco["bbox"]) | {f"mask_{name}": value for name, value in coco.get("segm", {}).items()}
    intervals = content.get("intervals", {"metrics": {}, "per_class": []})
    plain = {
        "epochs": epochs,
        "pooled": pooled,
        "intervals": intervals["metrics"],
        "mean": {name: mean for name, (mean, _) in spread.items()},
        "deviation": {name: deviation for name, (_, deviation) in spread.items()},
        "folds": [
            {"run": fold.run_dir.name, "images": fold.images, "epoch": fold.epoch, "metrics": fold.metrics}
            for fold in folds
        ],
        "per_class": [
            {
                "name": row["name"],
                "objects": row["objects"],
                "AP": row["AP"],
                "interval": _of_class(intervals, row["id"]),
                "mean": classes[row["name"]][0],
                "deviation": classes[row["name"]][1],
                "folds": [fold.per_class[row["name"]] for fold in folds],
            }
            for row in content["per_class"]
        ],
    }
    write_atomic(folder / "report" / "folds.json", json.dumps(plain, indent=1, ensure_ascii=False))
    _print(plain, names, folder)
    return pooled


def _of_classes(folds: Sequence[FoldMetrics], classes: Mapping[str, tuple[float, float]]) -> Table:
    """AP of each class in each fold."""
    rows: list[list[Cell]] = [
        [
            name,
            *(None if fold.per_class[name] < 0 else fold.per_class[name] for fold in folds),
            mean,
            None if deviation < 0 else deviation,
        ]
        for name, (mean, deviation) in classes.items()
        if mean >= 0
    ]
    columns = [Column("class"), *(Column(fold.run_dir.name) for fold in folds), Column("mean"), Column("deviation")]
    return Table("AP of each class in each fold", columns, rows)


def _of_class(intervals: Mapping[str, Any], category_id: int) -> list[float] | None:
    """The interval of the AP of a class."""
    return next((row.get("AP") for row in intervals["per_class"] if row["id"] == category_id), None)


def _print(plain: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Print the folds, the classes, and where the report is."""
    from rich import box
    from rich.table import Table as TextTable

    console = make_console()
    table = TextTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("fold", "images", "epoch", *(name.replace("_", " ") for name in names)):
        table.add_column(head, justify="left" if head == "fold" else "right", no_wrap=True)
    for fold in plain["folds"]:
        values = [_number(fold["metrics"][name]) for name in names]
        table.add_row(fold["run"], str(fold["images"]), str(fold["epoch"]), *values)
    table.add_section()
    table.add_row("mean", "", str(plain["epochs"]), *(_number(plain["mean"][name]) for name in names))
    table.add_row("deviation", "", "", *(_number(plain["deviation"][name]) for name in names))
    table.add_row("all images", "", "", *(_number(plain["pooled"][name]) for name in names), style="bold")
    table.add_row("95 %", "", "", *(_interval(plain["intervals"].get(name)) for name in names))
    console.print(table)
    classes = TextTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    classes.add_column("class", overflow="fold", min_width=12)
    for head in ("objects", "AP", "95 %", "mean", "deviation"):
        classes.add_column(head, justify="right", no_wrap=True)
    for row in sorted(plain["per_class"], key=lambda row: (-row["AP"], row["name"])):
        if row["objects"]:
            cells = (_number(row["AP"]), _interval(row["interval"]), _number(row["mean"]), _number(row["deviation"]))
            classes.add_row(one_line(row["name"]), str(row["objects"]), *cells)
    console.print(classes)
    console.print(f"Report: {folder / 'report'}")


def _number(value: float) -> str:
    return "–" if value < 0 else f"{value:.3f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.3f}-{pair[1]:.3f}"
