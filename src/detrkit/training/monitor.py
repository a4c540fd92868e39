"""Names of the metrics of an evaluation, and the monitored one of best.ckpt and early stopping (`--monitor`).

A metric is named as its column of metrics.csv, without `val/`: AP50, mask_AP, PQ, loss, class_AP/scratch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from detrkit.config.fields import did_you_mean
from detrkit.data.fingerprint import fingerprint
from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.evaluation.coco_metrics import COCO_NAMES
from detrkit.evaluation.panoptic_quality import PanopticMetrics

Task = Literal["detect", "instance", "panoptic"]
USUAL: dict[Task, str] = {"detect": "AP", "instance": "mask_AP", "panoptic": "PQ"}
"""The monitored metric of each task, unless `--monitor` names another."""
LOSS = "loss"
"""The only metric that is better when lower."""


def class_columns(kind: str, rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Metrics of classes by name, such as `class_AP/scratch`, without undefined ones (below 0).

    Args:
        kind: AP, mask_AP or PQ.
        rows: name and metric of each class.
    """
    return {f"class_{kind}/{name}": value for name, value in rows if value >= 0}


def is_of_a_class(column: str) -> bool:
    """Whether a column is a metric of one class, such as `val/class_AP/scratch`."""
    return re.match(r"(val/)?class_(mask_)?(AP|PQ)/", column) is not None


def measured(task: Task, val: Split) -> list[str]:
    """Names of all metrics of an evaluation on these images."""
    metrics = [*COCO_NAMES]
    occurring = np.flatnonzero(val.arrays.class_counts()).tolist()
    named = [(val.categories.ids[k], val.categories.names[k]) for k in occurring]
    things = [(name, 0.0) for i, name in named if i in val.categories.thing_ids]
    classes = [*class_columns("AP", things)]
    if task != "detect":
        metrics += [f"mask_{name}" for name in COCO_NAMES]
        classes += class_columns("mask_AP", things)
    if task == "panoptic":
        metrics += PanopticMetrics([]).metrics
        classes += class_columns("PQ", [(name, 0.0) for _, name in named])
    return [*metrics, LOSS, *classes]


def chosen_monitor(monitor: str, task: Task, val: Split) -> str:
    """Choose the monitored metric: the one that `monitor` names, else that of the task.

    Args:
        monitor: name of a metric, with or without val/; empty: that of the task.
        task: task of the run.
        val: validation images.

    Raises:
        ConfigError: the metric is not measured in this run.
    """
    if not monitor:
        return USUAL[task]
    names = measured(task, val)
    name = monitor.removeprefix("val/")
    if name in names:
        return name
    if name.startswith(("mask_", "class_mask_")) and task == "detect":
        why = "; masks are measured with --task instance or panoptic"
    elif re.match(r"(class_)?[PSR]Q", name) and task != "panoptic":
        why = "; panoptic quality is measured with --task panoptic"
    elif is_of_a_class(name) and name.partition("/")[2] in val.categories.names:
        why = "; no validation image has an object of that class to measure it on"
    else:
        otherwise = [each for each in names if each.lower() == name.lower()]
        why = f"; did you mean {otherwise[0]!r}?" if otherwise else did_you_mean(name, names)
    some = ", ".join([each for each in names if not is_of_a_class(each)])
    example = next((f", or of one class, such as {each!r}" for each in names if is_of_a_class(each)), "")
    raise ConfigError(
        f"--monitor: expected a metric that --task {task} measures ({some}{example}), found {monitor!r}{why}"
    )


def called(monitor: str) -> str:
    """A metric in words, such as mask AP or AP of scratch."""
    kind, of, name = monitor.removeprefix("class_").partition("/")
    return kind.replace("_", " ") + (f" of {name}" if of else "")


def better(value: float, other: float, monitor: str) -> bool:
    """Whether a value of the monitored metric is better than another."""
    return value < other if monitor == LOSS else value > other


def worst(monitor: str) -> float:
    """A value that any other is better than."""
    return float("inf") if monitor == LOSS else float("-inf")


def compute_fingerprints(splits: Mapping[str, Split]) -> dict[str, dict[str, str | int]]:
    """Fingerprint and number of images of each split, for checkpoints."""
    return {name: {"fingerprint": fingerprint(split), "images": len(split)} for name, split in splits.items()}
