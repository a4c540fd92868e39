"""Reporters of a run: metrics.csv, loggers, and log.txt as the reference DETR writes it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detrkit.evaluation.coco_metrics import COCO_NAMES
from detrkit.files import write_atomic
from detrkit.training.loggers import Logger
from detrkit.training.monitor import is_of_a_class
from detrkit.training.state import Row, TrainingState
from detrkit.training.step import StepReport

STEPS_BETWEEN_LOGS = 50


class Reporter:
    """Base class of objects that show or record a run, on rank 0. The methods of this class do nothing."""

    def run_started(self, state: TrainingState, batches: int) -> None:
        """Handle the start of a run, with this number of batches per epoch."""

    def step_finished(self, state: TrainingState, report: StepReport) -> None:
        """Handle a finished batch, which the state counts already."""

    def evaluating(self, done: int, total: int) -> None:
        """Handle a finished batch of an evaluation."""

    def epoch_finished(self, history: list[Row]) -> None:
        """Handle a finished epoch, whose row is the last of the history."""

    def run_finished(self, *, failed: bool) -> None:
        """Handle the end of the run, by an error or without."""


def is_earlier_layer(column: str) -> bool:
    """Whether a column is the loss of an earlier decoder layer: `train/loss_ce_3`."""
    return column.rpartition("_")[2].isdecimal() and not is_of_a_class(column)


def tags(names: Iterable[str]) -> dict[str, str]:
    """Map metrics to names for loggers: without signs that MLflow or TensorBoard refuse, and no two alike."""
    tag_of: dict[str, str] = {}
    for name in names:
        tag = name
        if is_of_a_class(name):
            kind, _, of = name.removeprefix("val/").partition("/")
            tag = f"val/{kind}/{re.sub(r'[^A-Za-z0-9_. -]', '_', of)}"
        while tag in tag_of.values():
            tag += "_"
        tag_of[name] = tag
    return tag_of


class MetricsFile(Reporter):
    """metrics.csv: one row per epoch.

    The file is rewritten from the history, which checkpoints store, so that a killed run leaves neither gaps nor
    duplicates. It has no losses of earlier decoder layers; the other logs have them.

    Args:
        path: path of metrics.csv.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def epoch_finished(self, history: list[Row]) -> None:
        """Write the file."""
        columns: dict[str, None] = {}
        for row in history:
            columns |= dict.fromkeys(name for name in row if not is_earlier_layer(name))
        # a stable sort: the rest keeps its order
        ordered = sorted(columns, key=lambda name: (name.startswith("val/"), is_of_a_class(name)))
        text = io.StringIO()
        writer = csv.DictWriter(text, ordered, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomic(self.path, text.getvalue())


class ClassicLog(Reporter):
    """log.txt: one JSON object per line and epoch, with the keys of the reference DETR.

    `train_*` and `test_*` losses are weighted, those ending in `_unscaled` are not; `test_coco_eval_bbox` and `_masks`
    have the twelve COCO metrics, `test_PQ_all`, `_th` (things) and `_st` (stuff) panoptic quality; epochs count from 0.
    Lines of epochs before the first of this run are kept.

    Args:
        path: path of log.txt.
        weights: weight of each loss term; 0 for terms that are only logged.
        n_parameters: number of trained parameters.
    """

    def __init__(self, path: Path, weights: Mapping[str, float], n_parameters: int) -> None:
        self.path, self.weights, self.n_parameters = path, weights, n_parameters

    def epoch_finished(self, history: list[Row]) -> None:
        """Write the file."""
        first = int(history[0]["epoch"]) - 1
        old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in old if line.strip() and json.loads(line)["epoch"] < first]
        lines = [*kept, *(json.dumps(self._line(row)) for row in history)]
        write_atomic(self.path, "".join(line + "\n" for line in lines))

    def _line(self, row: Row) -> dict[str, object]:
        line: dict[str, object] = {"train_lr": row["lr"], **self._losses(row, "train/", "train_")}
        if "val/AP" in row:
            line |= self._losses(row, "val/", "test_")
            line["test_coco_eval_bbox"] = [row[f"val/{name}"] for name in COCO_NAMES]
        if "val/mask_AP" in row:
            line["test_coco_eval_masks"] = [row[f"val/mask_{name}"] for name in COCO_NAMES]
        if "val/PQ" in row:
            for group, ending in (("all", ""), ("th", "_things"), ("st", "_stuff")):
                line[f"test_PQ_{group}"] = {name.lower(): row[f"val/{name}{ending}"] for name in ("PQ", "SQ", "RQ")}
        return line | {"epoch": int(row["epoch"]) - 1, "n_parameters": self.n_parameters}

    def _losses(self, row: Row, prefix: str, new: str) -> dict[str, float]:
        values = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        line = {f"{new}{name}": values[name] for name in ("class_error", "loss") if name in values}
        for name, value in values.items():
            term = name.rpartition("_")[0] if is_earlier_layer(name) else name
            if term not in self.weights:
                continue
            if self.weights[term]:
                line[f"{new}{name}"] = value * self.weights[term]
            line[f"{new}{name}_unscaled"] = value
        return line


class LoggerRows(Reporter):
    """Send the rows of epochs, and every 50th step, to loggers.

    Args:
        loggers: loggers to write to.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers

    def step_finished(self, state: TrainingState, report: StepReport) -> None:
        """Log the first step of an epoch, and every 50th after it."""
        if (state.batch - 1) % STEPS_BETWEEN_LOGS == 0:
            metrics = {"now/loss": report.losses["loss"]}
            if report.grad_norm is not None:
                metrics["now/grad_norm"] = report.grad_norm
            for logger in self.loggers:
                logger.log_metrics(metrics, state.step)

    def epoch_finished(self, history: list[Row]) -> None:
        """Log the new row at its step."""
        row = history[-1]
        names = tags(row)
        for logger in self.loggers:
            logger.log_metrics({names[name]: value for name, value in row.items()}, int(row["step"]))

    def run_finished(self, *, failed: bool) -> None:
        """Close the loggers."""
        for logger in self.loggers:
            logger.close(failed=failed)
