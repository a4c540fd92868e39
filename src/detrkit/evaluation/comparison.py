"""Differences of metrics between detectors on the same images, with paired bootstrap intervals; and their table.

A resample draws the same images for every detector, so that the doubt that they share, which images there are, cancels
in the difference. An interval that holds 0 means: no difference that this many images could show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from detrkit.evaluation.arrays import Floats
from detrkit.evaluation.bootstrap import LEVEL, percentile_interval
from detrkit.evaluation.coco_metrics import CocoMetrics, IouType
from detrkit.evaluation.intervals import LEAST_IMAGES, PREFIXES, MetricSamples, Pair
from detrkit.evaluation.panoptic_quality import PanopticMetrics
from detrkit.ops.text import one_line

NO_DIFFERENCE = "no difference that this many images could show"
"""The outcome where the interval holds 0."""

MAIN_METRICS = ("AP", "mask_AP", "PQ")
"""Metrics of which a sentence is printed."""

CLASSES_SHOWN = 20
"""Most classes in the table of a console; `comparison.json` has them all."""

Outcome = Literal["higher", "lower", "no difference shown", "too few images"]


@dataclass(frozen=True)
class ComparedModel:
    """One of the detectors of a comparison."""

    letter: str
    """A, B, C, ...; A is the one that all others are compared with."""
    source: str
    """The weights or the file of predictions, as they were named."""
    kind: Literal["detector", "predictions"]
    metrics: dict[str, float]
    """See `EvaluationResult.metrics`."""
    per_class: dict[int, dict[str, float]]
    """Category id -> AP, AP50, AP75, mask_AP, ..., PQ, SQ, RQ, whichever were measured; -1 without objects."""
    ms_per_image: float | None
    """Median time from the pixels of an image to its detections in milliseconds; None: not measured."""
    threshold: float | None
    """Score threshold with the best F1, at which errors are counted; None: there are panoptic maps alone."""
    errors: dict[str, int]
    """Number of missed objects, wrong classes and false alarms at that threshold."""


@dataclass(frozen=True)
class Difference:
    """The difference of one metric between a detector and the first one."""

    metric: str
    baseline: str
    """Letter of the detector that is subtracted."""
    model: str
    """Letter of the other one."""
    class_id: int | None
    """Category id; None: all classes."""
    class_name: str
    """Empty: all classes."""
    images: int
    """Number of images, with an object of the class."""
    baseline_value: float
    value: float
    interval: Pair
    """Low and high end of the 95 % interval of the difference; None: the images are too few for one."""

    @property
    def difference(self) -> float:
        """Value of the model less that of the baseline."""
        return self.value - self.baseline_value

    @property
    def outcome(self) -> Outcome:
        """Whether the model is higher or lower than the baseline by more than chance explains."""
        if self.interval is None:
            return "too few images"
        low, high = self.interval
        return "higher" if low > 0 else "lower" if high < 0 else "no difference shown"

    @property
    def images_needed(self) -> int | None:
        """About how many images would show a difference of this size; None where this many do, or where there is none.

        The width of an interval goes with the root of the number of images.
        """
        if self.outcome != "no difference shown" or self.interval is None or abs(self.difference) < 1e-6:
            return None
        half = (self.interval[1] - self.interval[0]) / 2
        return max(self.images + 1, math.ceil(self.images * (half / abs(self.difference)) ** 2))

    def __str__(self) -> str:
        of = f" of {one_line(self.class_name)}" if self.class_name else ""
        name = self.metric.replace("_", " ")
        values = f"{name}{of}: {self.model} {self.value:.3f}, {self.baseline} {self.baseline_value:.3f}"
        if self.interval is None:
            return f"{values}, {self.difference:+.3f}; no interval from fewer than {LEAST_IMAGES} images"
        interval = f"{self.difference:+.3f}, 95 % interval {self.interval[0]:+.3f} to {self.interval[1]:+.3f}"
        if self.outcome != "no difference shown":
            return f"{values}: {self.model} is {self.outcome} ({interval})"
        needed = self.images_needed
        more = f"; one of this size takes about {needed:,} images" if needed and needed <= 100 * self.images else ""
        return f"{values}: {NO_DIFFERENCE} ({interval}{more})"

    def to_plain(self) -> dict[str, Any]:
        """Convert to JSON-like data."""
        derived = {name: getattr(self, name) for name in ("difference", "outcome", "images_needed")}
        return asdict(self) | {"interval": self.interval and list(self.interval)} | derived


@dataclass(frozen=True)
class ImageDifference:
    """An image on which the detectors differ."""

    image_id: int
    file: str
    """Name of the image in the data set."""
    errors: dict[str, dict[str, int]]
    """Letter -> number of missed objects, wrong classes and false alarms in the image."""
    drawing: str = ""
    """Drawn image, relative to the output folder; empty: it is not drawn."""

    @property
    def totals(self) -> dict[str, int]:
        """Letter -> number of errors."""
        return {letter: sum(kinds.values()) for letter, kinds in self.errors.items()}

    @property
    def spread(self) -> int:
        """Most errors of a detector less fewest."""
        return max(self.totals.values()) - min(self.totals.values())


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison of detectors on the same images. Printed, it is a sentence per detector and main metric."""

    data: str
    split: str
    image_count: int
    resamples: int
    level: float
    """Probability that an interval is meant to hold the difference on all images that could have been drawn."""
    models: list[ComparedModel]
    differences: list[Difference]
    """Of each detector but the first, each metric, all classes together and each class."""
    images: list[ImageDifference]
    """Images with unequal numbers of errors, those of the largest spread first."""
    output_dir: Path

    def difference(self, metric: str = "AP", model: str = "B", class_name: str = "") -> Difference:
        """One of the differences.

        Args:
            metric: name of the metric.
            model: letter of the detector.
            class_name: name of the class; empty: all classes.

        Raises:
            KeyError: there is none of that kind.
        """
        for each in self.differences:
            if (each.metric, each.model, each.class_name) == (metric, model, class_name):
                return each
        raise KeyError(f"no difference of {metric} of {class_name or 'all classes'} for {model}")

    def of_model(self, letter: str) -> tuple[list[Difference], list[Difference]]:
        """The differences of a detector: of all classes together, and of single classes."""
        mine = [each for each in self.differences if each.model == letter]
        return [each for each in mine if each.class_id is None], [each for each in mine if each.class_id is not None]

    def sentences(self) -> list[str]:
        """The main metrics and the time per image, in words."""
        lines = [str(each) for each in self.differences if each.class_id is None and each.metric in MAIN_METRICS]
        if not self.differences:
            lines.append("No metric can be compared, since there is no object in these images")
        times = {model.letter: model.ms_per_image for model in self.models if model.ms_per_image is not None}
        if times:
            each = ", ".join(f"{letter} {ms:.1f} ms" for letter, ms in times.items())
            lines.append(f"Time per image, one at a time: {each}")
        return lines

    def __str__(self) -> str:
        return "\n".join([*(f"{model.letter}: {model.source}" for model in self.models), *self.sentences()])

    def to_plain(self) -> dict[str, Any]:
        """Convert to JSON-like data, the content of `comparison.json`."""
        return {
            "data": self.data,
            "split": self.split,
            "images": self.image_count,
            "resamples": self.resamples,
            "level": self.level,
            "models": [asdict(model) for model in self.models],
            "differences": [each.to_plain() for each in self.differences],
            "images_that_differ": [asdict(image) for image in self.images],
        }


def paired_differences(models: Sequence[ComparedModel], samples: Sequence[MetricSamples]) -> list[Difference]:
    """Compare every model with the first, metric by metric.

    Args:
        models: the models.
        samples: their metrics in the same resamples of the same images.
    """
    return [
        each
        for model, theirs in zip(models[1:], samples[1:], strict=True)
        for each in _differences(models[0], model, samples[0], theirs)
    ]


def _differences(
    baseline: ComparedModel, model: ComparedModel, ours: MetricSamples, theirs: MetricSamples
) -> Iterator[Difference]:
    """The differences of two models: all classes, then class by class."""
    letters = baseline.letter, model.letter
    for name in (name for name in ours.metrics if name in theirs.metrics):
        values = baseline.metrics[name], model.metrics[name]
        if -1 not in values:
            interval = _interval(theirs.metrics[name] - ours.metrics[name], ours.images)
            yield Difference(name, *letters, None, "", ours.images, *values, interval)
    for class_id, row in ours.per_class.items():
        other = theirs.per_class[class_id]
        for name in (name for name in row.metrics if name in other.metrics):
            values = baseline.per_class[class_id][name], model.per_class[class_id][name]
            if row.images and -1 not in values:
                interval = _interval(other.metrics[name] - row.metrics[name], row.images)
                yield Difference(name, *letters, class_id, row.name, row.images, *values, interval)


def _interval(samples: Floats, images: int) -> Pair:
    return None if images < LEAST_IMAGES else percentile_interval(samples, LEVEL)


def comparison_tables(result: ComparisonResult) -> list[Any]:
    """The differences as `rich` tables of 80 characters, one per detector but the first."""
    return [_table(result, model.letter) for model in result.models[1:] if result.differences]


def _table(result: ComparisonResult, letter: str) -> Any:
    from rich import box
    from rich.table import Table

    baseline = result.models[0].letter
    whole, single = result.of_model(letter)
    single = [each for each in single if each.metric in MAIN_METRICS]
    single.sort(key=lambda each: (each.outcome in ("no difference shown", "too few images"), -abs(each.difference)))
    shown = single[:CLASSES_SHOWN]
    caption = (
        f"95 % intervals of the difference: {result.resamples} paired resamples of {result.image_count} images;\n"
        f"without an outcome: {NO_DIFFERENCE}"
    )
    if len(shown) < len(single):
        caption += f"\n{len(single) - len(shown)} more classes in comparison.json"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("", overflow="fold", min_width=12)
    for head in ("images", baseline, letter, f"{letter} - {baseline}", "interval", "outcome"):
        table.add_column(head, justify="left" if head == "outcome" else "right", no_wrap=True)
    for each in whole:
        table.add_row(each.metric.replace("_", " "), *_cells(each), style="bold")
    table.add_section()
    for each in shown:
        table.add_row(f"{each.metric.replace('_', ' ')} of {one_line(each.class_name)}", *_cells(each))
    return table


def _cells(each: Difference) -> Sequence[str]:
    interval = "–" if each.interval is None else f"{each.interval[0]:+.3f} to {each.interval[1]:+.3f}"
    outcome = each.outcome if each.outcome in ("higher", "lower") else ""
    values = f"{each.baseline_value:.3f}", f"{each.value:.3f}", f"{each.difference:+.3f}"
    return (str(each.images), *values, interval, outcome)


def class_values(coco: Mapping[IouType, CocoMetrics], panoptic: PanopticMetrics | None) -> dict[int, dict[str, float]]:
    """The metrics of each class by category id, see `ComparedModel.per_class`."""
    values: dict[int, dict[str, float]] = {}
    for iou_type, result in coco.items():
        for row in result.per_class:
            metrics = {PREFIXES[iou_type] + name: getattr(row, name) for name in ("AP", "AP50", "AP75")}
            values.setdefault(row.id, {}).update(metrics)
    for part in panoptic.per_class if panoptic else ():
        values.setdefault(part.id, {}).update(PQ=part.pq, SQ=part.sq, RQ=part.rq)
    return values
