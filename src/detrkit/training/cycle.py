"""What happens around the steps: when to evaluate, what to keep, when to stop.

Lightning repeats the steps and counts them; this callback owns everything else that a run does over its epochs. All of
its state is plain data inside the checkpoint, and the files of the run folder are written from that state, so a
resumed run writes what an uninterrupted one would have written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl

from detrkit.data.loader import EpochLoader
from detrkit.files import BEST, LAST
from detrkit.structures import Batch
from detrkit.training.checkpoint import link
from detrkit.training.ema import Ema
from detrkit.training.evaluation import Validation
from detrkit.training.module import DetectionTraining
from detrkit.training.monitor import better, worst

Row = dict[str, float]
"""One finished epoch: "epoch" (from 1), "step", "lr", "lr_backbone", "seconds" (of the run so far), "loader_share" (of
the time of the epoch's steps, what rank 0 waited for images, 0..1), "train/..." means and, where it was evaluated,
"val/..." means, COCO numbers and those of classes. Loss terms are unweighted, "loss" is the weighted sum."""


@dataclass(frozen=True)
class RunSchedule:
    """How often things happen; 0 means never, where it is allowed."""

    epochs: int
    eval_every: int = 1
    checkpoint_every: int = 0
    save_minutes: float = 10.0
    max_minutes: float = 0.0
    patience: int = 0
    accumulate_grad_batches: int = 1


class Reporter(Protocol):
    """Shows or writes down how a run goes; lives on rank 0 only."""

    def epoch_finished(self, history: list[Row]) -> None:
        """An epoch is over (and evaluated, if its turn); the last row is new."""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation is at batch `done` of `total`."""


class EpochCycle(pl.Callback):
    """Evaluates, keeps checkpoints, stops.

    last.ckpt is where to go on: it is saved after every epoch, every `save_minutes` inside one, and when told to stop.
    best.ckpt is the one with the best of the monitored number; among equals the later. A best that was measured on
    other validation images, or by another number, is forgotten on resuming, since nothing can be compared with it.
    Saves inside an epoch happen only between optimiser steps, so that no half-gathered
    gradient is lost.
    """

    def __init__(
        self,
        run_dir: Path,
        habits: RunSchedule,
        metadata: dict[str, Any],
        validate: Callable[..., Validation | None],
        *,
        best_is_of: dict[str, str],
        ema: Ema | None = None,
        reporters: list[Reporter] | None = None,
    ) -> None:
        """Prepare.

        Args:
            run_dir: folder of the checkpoints.
            habits: how often.
            metadata: the "detrkit" entry of the checkpoints, without its metrics.
            validate: `(trainer, module, should_stop=, advance=) -> Validation | None`, over all ranks.
            best_is_of: `monitor`, which of its numbers tells the best checkpoint (see `training.monitor`), and `val`,
                the fingerprint of the validation images. Best values of others of either are not compared.
            ema: moving average of the weights, or None.
            reporters: told about each epoch, on rank 0.
        """
        self.run_dir, self.habits, self.metadata = run_dir, habits, metadata
        self.validate, self.ema, self.reporters = validate, ema, reporters or []
        self.best_is_of, self.monitor = best_is_of, best_is_of["monitor"]
        self.history: list[Row] = []
        self.best_value = worst(self.monitor)
        self.best_epoch = 0
        self.without_better = 0
        """Evaluations since the monitored number last was better than ever."""
        self.evaluation_due = False
        """The last finished epoch still has to be evaluated."""
        self.interrupted = False
        """Stopped by a signal; the run is not over."""
        self.out_of_time = False
        """Stopped by `max_minutes` before its last epoch was over."""
        self.stopped_early = False
        """Stopped by `patience` before its last epoch."""
        self.best: Validation | None = None
        """The best evaluation, if that was in this process."""
        self._spent = 0.0
        self._begun = self._saved = time.monotonic()
        self._stepped = 0

    @property
    def state_key(self) -> str:
        """Under which name checkpoints keep the state."""
        return "EpochCycle"

    @property
    def seconds(self) -> float:
        """Time spent on this run, including before it was resumed."""
        return self._spent + time.monotonic() - self._begun

    @property
    def metrics(self) -> dict[str, float]:
        """COCO numbers and losses of the last evaluated epoch."""
        return next((dict(row) for row in reversed(self.history) if "val/AP" in row), {})

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as plain data."""
        return {
            "history": self.history,
            "best_is_of": self.best_is_of,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "without_better": self.without_better,
            "evaluation_due": self.evaluation_due,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.history = [dict(row) for row in state_dict["history"]]
        self.evaluation_due = state_dict["evaluation_due"]
        if state_dict["best_is_of"] == self.best_is_of:
            self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
            self.without_better = state_dict["without_better"]
        self._spent, self._begun = state_dict["seconds"], time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what other programs read: the model under the original's keys, and the metadata."""
        checkpoint["model"] = dict(self.ema.average if self.ema else _ours(pl_module).model.state_dict())
        checkpoint["detrkit"] = {**self.metadata, "metrics": self.metrics}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make up for an evaluation that was cut short."""
        module = _ours(pl_module)
        module.model.train()
        self._stepped = trainer.global_step
        if self.evaluation_due:
            self._evaluate_and_save(trainer, module)
        if trainer.current_epoch >= self.habits.epochs:
            trainer.should_stop = True  # only that evaluation was missing

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """What this rank's clock says; the ranks agree during the step."""
        stop_flags = _ours(pl_module).stop_flags
        stop_flags["save"] = time.monotonic() - self._saved > 60 * self.habits.save_minutes
        stop_flags["out_of_time"] = 0 < 60 * self.habits.max_minutes <= self.seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Between optimiser steps: save, or stop."""
        module = _ours(pl_module)
        if trainer.global_step == self._stepped:
            return
        self._stepped = trainer.global_step
        if self.ema:
            self.ema.update(module.model)
        if batch_idx + 1 == trainer.num_training_batches:
            return  # the end of the epoch comes at once
        if module.synced_flags["stop"]:
            self._save(trainer, LAST)
            self.interrupted = trainer.should_stop = True
        elif module.synced_flags["out_of_time"]:
            self.out_of_time = trainer.should_stop = True
            self._add_row(trainer, module)
            self._evaluate_and_save(trainer, module)
        elif module.synced_flags["save"]:
            self._save(trainer, LAST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch: evaluate if its turn, save, and decide whether to stop."""
        if trainer.should_stop:
            return  # stopped inside the epoch, and all is saved
        module = _ours(pl_module)
        self._add_row(trainer, module)
        module.forget_sums()
        epoch = trainer.current_epoch + 1
        last = epoch == self.habits.epochs
        out_of_time = module.synced_flags["out_of_time"]
        self.evaluation_due = last or out_of_time or epoch % self.habits.eval_every == 0
        self.out_of_time = out_of_time and not last
        keep = self.habits.checkpoint_every and epoch % self.habits.checkpoint_every == 0
        extra = [f"epoch_{epoch:04d}.ckpt"] if keep else []
        if module.synced_flags["stop"]:
            self._save(trainer, *extra, LAST)
            self.interrupted = trainer.should_stop = True
        else:
            self._evaluate_and_save(trainer, module, *extra)
            trainer.should_stop = trainer.should_stop or out_of_time or last

    def _add_row(self, trainer: pl.Trainer, module: DetectionTraining) -> None:
        """A row for the epoch that has just ended, or was cut off; it replaces one written when it was cut off."""
        assert isinstance(trainer.train_dataloader, EpochLoader)
        lr, lr_backbone = (group["lr"] for group in trainer.optimizers[0].param_groups[:2])
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": lr,
            "lr_backbone": lr_backbone,
            "seconds": round(self.seconds, 2),
            "loader_share": round(trainer.train_dataloader.share, 4),
            **{f"train/{name}": value for name, value in module.means().items()},
        }
        self.history = [old for old in self.history if old["epoch"] < row["epoch"]] + [row]
        self.evaluation_due = True

    def _evaluate_and_save(self, trainer: pl.Trainer, module: DetectionTraining, *extra: str) -> None:
        """Evaluate the epoch of the last row if that is due, then save; or only save, if a signal comes first."""
        names = list(extra)
        if self.evaluation_due:
            with self.ema.applied(module.model) if self.ema else nullcontext():
                found = self.validate(
                    trainer, module, should_stop=lambda: module.stop_flags["stop"], advance=self._advance
                )
            if found is None:
                self._save(trainer, *extra, LAST)
                self.interrupted = trainer.should_stop = True
                return
            self.evaluation_due = False
            if self._take(found):
                names = [BEST, *names]
            if 0 < self.habits.patience <= self.without_better:
                self.stopped_early = trainer.current_epoch + 1 < self.habits.epochs and not self.out_of_time
                trainer.should_stop = True
        self.history[-1]["seconds"] = round(self.seconds, 2)
        self._save(trainer, *names, LAST)
        self._tell()

    def _take(self, found: Validation) -> bool:
        """Write an evaluation into the last row; whether it is the best so far."""
        row = self.history[-1]
        row.update({f"val/{name}": value for name, value in found.row.items()})
        reached = found.row[self.monitor]
        self.without_better = 0 if better(reached, self.best_value, self.monitor) else self.without_better + 1
        if better(self.best_value, reached, self.monitor):
            return False
        self.best_value, self.best_epoch, self.best = reached, int(row["epoch"]), found
        return True

    def _save(self, trainer: pl.Trainer, *names: str) -> None:
        """Write one checkpoint under several names. last.ckpt comes last: a kill in between repeats the whole epoch."""
        first, *others = (self.run_dir / name for name in names)
        trainer.save_checkpoint(first)
        if trainer.is_global_zero:
            for other in others:
                link(first, other)
        self._saved = time.monotonic()

    def _advance(self, done: int, total: int) -> None:
        for reporter in self.reporters:
            reporter.evaluating(done, total)

    def _tell(self) -> None:
        for reporter in self.reporters:
            reporter.epoch_finished(self.history)


def _ours(module: pl.LightningModule) -> DetectionTraining:
    assert isinstance(module, DetectionTraining)
    return module
