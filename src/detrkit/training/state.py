"""Position, results and schedule of a training run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrkit.training.monitor import better, worst

Row = dict[str, float]
"""Metrics of one epoch: "epoch" (from 1), "step", "lr", "lr_backbone", "seconds" (of the run so far), "loader_share"
(share of the time of the epoch's steps that rank 0 waited for images, 0..1), "train/..." means and, where the epoch was
evaluated, "val/..." means, COCO metrics and those of classes. Loss terms are unweighted, "loss" is the weighted sum."""


@dataclass(frozen=True)
class RunSchedule:
    """Length of a run, and how often it evaluates and saves; 0: never."""

    epochs: int
    eval_every: int = 1
    checkpoint_every: int = 0
    save_minutes: float = 10.0
    patience: int = 0
    accumulate_grad_batches: int = 1
    no_aug_epochs: int = 0
    """Epochs at the end without mosaic and its like, as a part of `epochs`."""


class TrainingState:
    """Position and results of a run: what a checkpoint keeps besides weights and the state of the optimizer.

    Args:
        monitored: name of the metric by which the best checkpoint is chosen, under "monitor" (see `training.monitor`),
            and fingerprint of the validation images, under "val". Best values compare only if both are equal.
        epoch: finished epochs.
        max_minutes: limit of time of the run; 0: none. A `time_share` compares only under the same limit.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the epoch after these.
        step: optimizer steps of the whole run.
        loss_sums: sum of each loss over the batches of the unfinished epoch, averaged over the ranks.
        batches_summed: number of batches in `loss_sums`.
        history: one row per epoch.
        best_value: the best value of the monitored metric.
        best_epoch: epoch of the best value, from 1; 0 before the first evaluation.
        evaluations_without_improvement: evaluations since the monitored metric last improved.
        evaluation_due: whether the last row of `history` still has to be evaluated.
        time_share: share of the time for training that is used, 0..1 or a little more; it never falls. All ranks have
            that of rank 0, as of the last step.
        no_aug_from: epoch and batch from which images are loaded without mosaic and its like, where the time has it so;
            None: as the epochs have it.
        evaluations: number of evaluations.
        evaluation_seconds: seconds that these took together.
        save_seconds: seconds that the last checkpoint took.
    """

    def __init__(self, monitored: Mapping[str, str], epoch: int = 0, max_minutes: float = 0.0) -> None:
        self.monitored, self.max_minutes = dict(monitored), max_minutes
        self.epoch, self.batch, self.step = epoch, 0, 0
        self.loss_sums: dict[str, float] = {}
        self.batches_summed = 0
        self.history: list[Row] = []
        self.best_value, self.best_epoch = worst(self.monitor), 0
        self.evaluations_without_improvement = 0
        self.evaluation_due = False
        self.time_share = 0.0
        self.no_aug_from: tuple[int, int] | None = None
        self.evaluations, self.evaluation_seconds, self.save_seconds = 0, 0.0, 0.0
        self._seconds_before, self._begun = 0.0, time.monotonic()

    @property
    def monitor(self) -> str:
        """Name of the metric by which the best checkpoint is chosen."""
        return self.monitored["monitor"]

    @property
    def seconds(self) -> float:
        """Time spent on this run, in all of its processes one after another."""
        return self._seconds_before + time.monotonic() - self._begun

    @property
    def metrics(self) -> dict[str, float]:
        """Row of the last evaluated epoch; empty before the first evaluation."""
        return next((dict(row) for row in reversed(self.history) if "val/AP" in row), {})

    def add_losses(self, losses: Mapping[str, float]) -> None:
        """Add the losses of one batch, averaged over the ranks."""
        for name, value in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value
        self.batches_summed += 1

    def add_row(self, *, lr: float, lr_backbone: float, loader_share: float) -> None:
        """Append the row of the current epoch, which ends here or is cut off; it replaces one of the same epoch."""
        row: Row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": lr,
            "lr_backbone": lr_backbone,
            "seconds": round(self.seconds, 2),
            "loader_share": round(loader_share, 4),
            **{f"train/{name}": value / self.batches_summed for name, value in self.loss_sums.items()},
        }
        self.history = [old for old in self.history if old["epoch"] < row["epoch"]] + [row]

    def next_epoch(self) -> None:
        """Move to the first batch of the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sums, self.batches_summed = {}, 0

    def add_evaluation(self, metrics: Mapping[str, float], seconds: float) -> bool:
        """Write the metrics of an evaluation, which took `seconds`, into the last row.

        Returns:
            Whether this is the best evaluation so far; among equals the later one.
        """
        row = self.history[-1]
        row.update({f"val/{name}": value for name, value in metrics.items()})
        self.evaluation_due = False
        self.evaluations, self.evaluation_seconds = self.evaluations + 1, self.evaluation_seconds + seconds
        value = metrics[self.monitor]
        improved = better(value, self.best_value, self.monitor)
        self.evaluations_without_improvement = 0 if improved else self.evaluations_without_improvement + 1
        if better(self.best_value, value, self.monitor):
            return False
        self.best_value, self.best_epoch = value, int(row["epoch"])
        return True

    def state_dict(self) -> dict[str, Any]:
        """The "progress" entry of a checkpoint, as plain data."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "loss_sums": self.loss_sums,
            "batches_summed": self.batches_summed,
            "history": self.history,
            "monitored": self.monitored,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "evaluations_without_improvement": self.evaluations_without_improvement,
            "evaluation_due": self.evaluation_due,
            "max_minutes": self.max_minutes,
            "time_share": self.time_share,
            "no_aug_from": self.no_aug_from,
            "evaluations": self.evaluations,
            "evaluation_seconds": self.evaluation_seconds,
            "save_seconds": self.save_seconds,
            "seconds": self.seconds,
        }

    def load_state_dict(self, progress: Mapping[str, Any]) -> None:
        """Continue where a checkpoint stands.

        A best value of another metric or of other validation images is left out, since nothing compares with it; so is
        the share of another limit of time.
        """
        self.epoch, self.batch, self.step = progress["epoch"], progress["batch"], progress["step"]
        self.loss_sums, self.batches_summed = dict(progress["loss_sums"]), progress["batches_summed"]
        self.history = [dict(row) for row in progress["history"]]
        self.evaluation_due = progress["evaluation_due"]
        self.evaluations, self.evaluation_seconds = progress["evaluations"], progress["evaluation_seconds"]
        self.save_seconds = progress["save_seconds"]
        if progress["max_minutes"] == self.max_minutes:
            self.time_share, self.no_aug_from = progress["time_share"], progress["no_aug_from"]
        if progress["monitored"] == self.monitored:
            self.best_value, self.best_epoch = progress["best_value"], progress["best_epoch"]
            self.evaluations_without_improvement = progress["evaluations_without_improvement"]
        self._seconds_before, self._begun = progress["seconds"], time.monotonic()
