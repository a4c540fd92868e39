"""Intervals of the metrics of an evaluation, by the bootstrap; and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrkit.evaluation.arrays import Floats
from detrkit.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    draw_images,
    mean_of_classes,
    percentile_interval,
    resample_ap,
    resample_pq,
)
from detrkit.evaluation.coco_metrics import OFFICIAL_MAX_DETS, CocoMetrics, IouType
from detrkit.evaluation.panoptic_quality import PanopticMetrics
from detrkit.ops.text import one_line

Pair = tuple[float, float] | None
"""Low and high end of an interval; None: the images are too few for one."""

PREFIXES: dict[IouType, str] = {"bbox": "", "segm": "mask_"}
"""Beginnings of the names of metrics of boxes and masks."""

LEAST_IMAGES = 5
"""Fewest images, with an object of the class, for an interval: of fewer it would promise far too much, see
docs/benchmarks/intervals.md."""


@dataclass(frozen=True, eq=False)
class ClassSamples:
    """The metrics of one class in R resamples."""

    id: int
    """The data set's own category id."""
    name: str
    images: int
    """Number of images with an object of the class."""
    metrics: dict[str, Floats]
    """[R] each: AP, AP50, AP75, those of masks as mask_AP, ..., and PQ, SQ, RQ; NaN where a resample has no object."""


@dataclass(frozen=True, eq=False)
class MetricSamples:
    """The metrics of an evaluation in R resamples of its images."""

    images: int
    resamples: int
    seed: int
    metrics: dict[str, Floats]
    """[R] each, by the names of `EvaluationResult.metrics`; NaN where a resample has no object."""
    per_class: dict[int, ClassSamples]
    """By category id, in rising order; classes without objects included."""


@dataclass(frozen=True)
class ClassIntervals:
    """The intervals of the metrics of one class."""

    id: int
    """The data set's own category id."""
    name: str
    images: int
    """Number of images with an object of the class."""
    metrics: dict[str, Pair]
    """See `ClassSamples.metrics`."""


@dataclass(frozen=True)
class Intervals:
    """The intervals of the metrics of an evaluation."""

    level: float
    """Probability that an interval is meant to hold the value of all images that could have been drawn."""
    images: int
    resamples: int
    seed: int
    metrics: dict[str, Pair]
    per_class: list[ClassIntervals]

    def to_plain(self) -> dict[str, Any]:
        """Convert to JSON-like data; intervals become [low, high]."""
        per_class = [
            {"id": row.id, "name": row.name, "images": row.images, **_plain(row.metrics)} for row in self.per_class
        ]
        return {
            "level": self.level,
            "images": self.images,
            "resamples": self.resamples,
            "seed": self.seed,
            "metrics": _plain(self.metrics),
            "per_class": per_class,
        }


def resample(
    coco: Mapping[IouType, CocoMetrics],
    panoptic: PanopticMetrics | None,
    image_ids: Sequence[int],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MetricSamples:
    """Compute the metrics of an evaluation on resamples of its images.

    Evaluations of the same images, with the same seed, have the same resamples.

    Args:
        coco: metrics of boxes and of masks.
        panoptic: panoptic quality, or None.
        image_ids: ids of all images.
        resamples: number of resamples.
        seed: random seed.
    """
    ids = np.unique(np.array(image_ids, dtype=np.int64))
    draws = draw_images(len(ids), resamples, seed)
    metrics: dict[str, Floats] = {}
    per_class: dict[int, ClassSamples] = {}
    for iou_type, result in coco.items():
        prefix = PREFIXES[iou_type]
        samples = resample_ap(result.matches, draws, OFFICIAL_MAX_DETS)
        metrics |= {prefix + name: values for name, values in samples.metrics.items()}
        if result.max_dets > OFFICIAL_MAX_DETS:
            samples = resample_ap(result.matches, draws, result.max_dets)
            metrics[f"{prefix}AP@{result.max_dets}"] = samples.metrics["AP"]
        present = (result.matches.objects_of_images > 0).sum(axis=1).tolist()
        for k, row in enumerate(result.per_class):
            mine = per_class.setdefault(row.id, ClassSamples(row.id, row.name, present[k], {}))
            mine.metrics.update({prefix + name: values[:, k] for name, values in samples.per_class.items()})
    if panoptic is not None:
        quality = resample_pq(panoptic.counts, ids, len(panoptic.per_class), draws)
        _, tp, _, fn = panoptic.counts.values.T
        classes = panoptic.counts.classes[tp + fn > 0]
        present = np.bincount(classes, minlength=len(panoptic.per_class)).tolist()
        things = np.array([row.isthing for row in panoptic.per_class], dtype=np.bool_)
        for name, values in quality.items():
            for ending, kinds in (("", np.ones_like(things)), ("_things", things), ("_stuff", ~things)):
                metrics[name.upper() + ending] = mean_of_classes(values[:, kinds])
            for k, part in enumerate(panoptic.per_class):
                mine = per_class.setdefault(part.id, ClassSamples(part.id, part.name, present[k], {}))
                mine.metrics[name.upper()] = values[:, k]
    return MetricSamples(len(ids), resamples, seed, metrics, dict(sorted(per_class.items())))


def compute_intervals(samples: MetricSamples, level: float = LEVEL) -> Intervals:
    """Compute the percentile interval of each metric."""

    def pairs(metrics: Mapping[str, Floats], images: int) -> dict[str, Pair]:
        few = images < LEAST_IMAGES
        return {name: None if few else percentile_interval(values, level) for name, values in metrics.items()}

    return Intervals(
        level=level,
        images=samples.images,
        resamples=samples.resamples,
        seed=samples.seed,
        metrics=pairs(samples.metrics, samples.images),
        per_class=[
            ClassIntervals(row.id, row.name, row.images, pairs(row.metrics, row.images))
            for row in samples.per_class.values()
        ],
    )


def interval_tables(content: Mapping[str, Any]) -> list[Any]:
    """The intervals of a report as `rich` tables of 80 characters: boxes, masks, panoptic quality.

    Args:
        content: content of `metrics.json`; without `intervals` there is no table.
    """
    if "intervals" not in content:
        return []
    tables = []
    coco, panoptic = content.get("coco", {}), content.get("panoptic")
    for iou_type, prefix in PREFIXES.items():
        if iou_type in coco:
            values = {row["id"]: row for row in content["per_class"]}
            totals = {prefix + name: value for name, value in coco[iou_type].items()}
            tables.append(_table(content["intervals"], (f"{prefix}AP", f"{prefix}AP50"), values, totals))
    if panoptic is not None:
        names = ("pq", "sq")
        values = {row["id"]: {name.upper(): row[name] for name in names} | row for row in panoptic["per_class"]}
        totals = {name.upper(): panoptic["All"][name] for name in names}
        tables.append(_table(content["intervals"], ("PQ", "SQ"), values, totals))
    return tables


def _table(
    intervals: Mapping[str, Any],
    names: Sequence[str],
    values: Mapping[int, Mapping[str, Any]],
    totals: Mapping[str, float],
) -> Any:
    """A table of metrics with their intervals, one row per class that occurs, best first."""
    from rich import box
    from rich.table import Table

    images, resamples = intervals["images"], intervals["resamples"]
    many = f"{images} image{'' if images == 1 else 's'}"
    caption = f"{100 * intervals['level']:g} % bootstrap intervals: {resamples} resamples of {many}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("class", overflow="fold", min_width=12)
    for head in ("images", *(part for name in names for part in (name.replace("_", " "), "interval"))):
        table.add_column(head, justify="right", no_wrap=True)
    rows = [row for row in intervals["per_class"] if row["images"] and row["id"] in values]
    for row in sorted(rows, key=lambda row: (-values[row["id"]][names[0]], row["name"])):
        cells = [cell for name in names for cell in _cells(values[row["id"]][name], row[name])]
        table.add_row(one_line(row["name"]), str(row["images"]), *cells)
    table.add_section()
    cells = [cell for name in names for cell in _cells(totals[name], intervals["metrics"][name])]
    table.add_row("all", str(images), *cells, style="bold")
    return table


def _cells(value: float, interval: Sequence[float] | None) -> tuple[str, str]:
    words = "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
    return "–" if value == -1 else f"{value:.3f}", words


def _plain(metrics: Mapping[str, Pair]) -> dict[str, list[float] | None]:
    return {name: None if pair is None else list(pair) for name, pair in metrics.items()}
