"""The training loop: for each epoch, for each batch, a step; then evaluate if due, and save.

Everything random in a step is drawn from (seed, epoch, batch, rank), and the learning rates are a function of the
position in the run. So a step depends on the weights and its position, never on how the process got there, and a run
that was killed continues bit for bit. With a limit of time, the share of the time that is used is part of the position:
rank 0 reads it from its clock once per step, and the checkpoint keeps it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from detrkit.data.loader import EpochLoader
from detrkit.errors import NonFiniteLossError
from detrkit.files import BEST, LAST
from detrkit.structures import Batch
from detrkit.training.checkpoint import link, write_checkpoint
from detrkit.training.ema import Ema
from detrkit.training.evaluation import Validation
from detrkit.training.optim import LRSchedule
from detrkit.training.reporters import Reporter
from detrkit.training.state import RunSchedule, TrainingState
from detrkit.training.step import DetectionLoss, SharedSums, StepReport, seed_of
from detrkit.training.time_budget import TimeBudget

FLAGS = ("stop", "save")


class Validate(Protocol):
    """Function that evaluates the model on the validation images, on all ranks together."""

    def __call__(self, *, should_stop: Callable[[], bool], advance: Callable[[int, int], None]) -> Validation | None:
        """Evaluate the model.

        Args:
            should_stop: called before each batch; the evaluation is given up once it is true on any rank.
            advance: called with the number of finished batches and of all batches.

        Returns:
            The evaluation, or None if it was given up.
        """


class Trainer:
    """Trains a detector: steps, evaluations and checkpoints until the run ends.

    last.ckpt is where to resume: it is saved after every epoch, every `save_minutes` inside one, and before stopping.
    best.ckpt has the best value of the monitored metric; among equals the later. Inside an epoch a checkpoint is only
    saved after an optimizer step, so that no accumulated gradient is lost.

    Args:
        fabric: devices, precision and processes, launched.
        loss: model and criterion, on the device.
        optimizer: optimizer of the model's parameters.
        lr_schedule: learning rates of the optimizer's groups.
        loader: this rank's batches for training.
        validate: function that evaluates the model.
        state: position in the run, unless a checkpoint is loaded.
        schedule: numbers of epochs and minutes after which to evaluate, save and end.
        run_dir: folder of the checkpoints.
        metadata: "detrkit" entry of the checkpoints, without its metrics.
        clip_max_norm: largest norm of the gradient; 0: no clipping.
        seed: seed of the run, from which the random numbers of each step are derived.
        ema: moving average of the weights, or None.
        budget: limit of the time of the run, or None.
        reporters: objects that show and record the run; none on other ranks than 0.

    Attributes:
        flags: requests of this rank; if any rank sets one, all ranks find it in `synced_flags` after the step.
        synced_flags: requests of all ranks, as of the last step.
        end_reason: why the run ended before its last epoch: "signal" (resumable), "out_of_time" or "patience".
        best: the best evaluation of this process, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        loss: DetectionLoss,
        optimizer: Optimizer,
        lr_schedule: LRSchedule,
        loader: EpochLoader,
        validate: Validate,
        state: TrainingState,
        schedule: RunSchedule,
        *,
        run_dir: Path,
        metadata: Mapping[str, Any],
        clip_max_norm: float,
        seed: int,
        ema: Ema | None = None,
        budget: TimeBudget | None = None,
        reporters: Sequence[Reporter] = (),
    ) -> None:
        self.fabric, self.model = fabric, loss.model
        self.loss, self.optimizer = fabric.setup(loss, optimizer)
        self.lr_schedule, self.loader, self.validate = lr_schedule, loader, validate
        self.state, self.schedule, self.run_dir, self.metadata = state, schedule, run_dir, metadata
        self.clip_max_norm, self.seed, self.ema, self.reporters = clip_max_norm, seed, ema, reporters
        self.budget = budget
        self.flags = dict.fromkeys(FLAGS, False)
        self.synced_flags = dict.fromkeys(FLAGS, False)
        self.end_reason: Literal["signal", "out_of_time", "patience"] | None = None
        self.best: Validation | None = None
        self._saved = time.monotonic()

    def fit(self) -> None:
        """Train until all epochs are done, a limit is reached or a signal arrives."""
        self.model.train()
        with self._reported():
            if self.state.evaluation_due:  # a signal cut it short, before this run was resumed
                self.evaluate_and_save()
            while self.state.epoch < self.schedule.epochs and not self.end_reason:
                self.train_epoch()

    def train_epoch(self) -> None:
        """Train on the batches that are left of the current epoch, then evaluate it if due, and save."""
        self.loader.set_epoch(self.state.epoch, self.state.batch)
        self.loader.no_aug_from = self.no_aug_from()
        for batch in self.loader:
            stepped = self.train_step(batch)
            if stepped:
                self.update_end_reason()
            if self.end_reason:
                break
            if stepped and self.synced_flags["save"] and self.state.batch < len(self.loader):
                self.save()
        self.end_epoch()
        self.evaluate_and_save()

    def train_step(self, batch: Batch) -> bool:
        """Forward and backward of one batch and, once enough gradients are accumulated, a step of the optimizer.

        Returns:
            Whether the optimizer stepped.

        Raises:
            NonFiniteLossError: on every rank, if the loss or the gradient of any is NaN or infinite.
        """
        state, index = self.state, self.state.batch
        position = f"at step {state.step} (epoch {state.epoch + 1}, batch {index + 1})"
        last_of_step = (index + 1) % self.schedule.accumulate_grad_batches == 0 or index + 1 == len(self.loader)
        batch = batch.to(self.fabric.device, non_blocking=True)
        self.set_rates_and_seed(index)
        self.set_time_flags()

        with self.fabric.no_backward_sync(self.loss, enabled=not last_of_step):
            losses = self.loss(batch)
            sums = SharedSums(losses, self.flags, self.read_time_share())
            self.fabric.backward(losses.total / self.schedule.accumulate_grad_batches)
        norm = self.clip_gradients() if last_of_step else None
        report = sums.read(norm, batch, position)
        if last_of_step:
            self.check_gradient(report)
            self.optimizer.step()
            self.optimizer.zero_grad()
            state.step += 1
            if self.ema:
                self.ema.update(self.model)

        state.batch += 1
        state.add_losses(report.losses)
        self.synced_flags = report.flags
        state.time_share = max(state.time_share, report.time_share)
        if self.budget:
            self.end_augmentation_if_due()
        self._report(lambda reporter: reporter.step_finished(state, report))
        return last_of_step

    def update_end_reason(self) -> None:
        """Set `end_reason` if a signal or the time ends the run here, on all ranks."""
        if self.synced_flags["stop"]:
            self.end_reason = "signal"
        elif self.state.time_share >= 1:
            self.end_reason = "out_of_time"

    def end_epoch(self) -> None:
        """Add the row of an epoch that is finished, or ended by the time, and move on to the next."""
        state, finished = self.state, self.state.batch == len(self.loader)
        if self.end_reason == "signal" and not finished:
            return
        lr, lr_backbone = (group["lr"] for group in self.optimizer.param_groups[:2])
        state.add_row(lr=lr, lr_backbone=lr_backbone, loader_share=self.loader.waiting_share)
        if finished:
            state.next_epoch()
        last = state.epoch == self.schedule.epochs or self.end_reason == "out_of_time"
        state.evaluation_due = last or (state.epoch % self.schedule.eval_every == 0 and self.has_time_to_evaluate())

    def evaluate_and_save(self) -> None:
        """Evaluate the epoch of the last row if due, save, and report the row; after a signal, only save."""
        is_best = self.evaluate_if_due()
        if self.end_reason != "signal":
            self.state.history[-1]["seconds"] = round(self.state.seconds, 2)
        self.save(best=is_best)
        if self.end_reason != "signal":
            self._report(lambda reporter: reporter.epoch_finished(self.state.history))

    def evaluate_if_due(self) -> bool:
        """Evaluate the epoch of the last row, if that is due and no signal comes first.

        Returns:
            Whether it is the best evaluation so far.
        """
        if self.end_reason == "signal" or not self.state.evaluation_due:
            return False
        begun = self.state.seconds
        with self.ema.applied(self.model) if self.ema else nullcontext():
            validation = self.validate(
                should_stop=lambda: self.flags["stop"],
                advance=lambda done, total: self._report(lambda reporter: reporter.evaluating(done, total)),
            )
        if validation is None:
            self.end_reason = "signal"
            return False
        is_best = self.state.add_evaluation(validation.row, self.state.seconds - begun)
        if is_best:
            self.best = validation
        if 0 < self.schedule.patience <= self.state.evaluations_without_improvement and not self.end_reason:
            self.end_reason = "patience"
        return is_best

    def save(self, *, best: bool = False) -> None:
        """Write last.ckpt, and before it best.ckpt or epoch_NNNN.ckpt where the checkpoint is one of these too.

        Raises:
            TrainingError: the disk does not take it; the former checkpoint is still there.
        """
        epoch, every = self.state.epoch, self.schedule.checkpoint_every
        keep = self.state.batch == 0 and every and epoch % every == 0
        names = [*[BEST] * best, *[f"epoch_{epoch:04d}.ckpt"] * bool(keep), LAST]
        checkpoint, begun = self.state_dict(), self.state.seconds
        if self.fabric.is_global_zero:
            first, *others = (self.run_dir / name for name in names)
            write_checkpoint(checkpoint, first)
            for other in others:  # last.ckpt is the last: a kill in between repeats what came before
                link(first, other)
        self.fabric.barrier()
        self.state.save_seconds = self.state.seconds - begun
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint, of tensors and plain data; see `training.checkpoint`."""
        weights = dict(self.model.state_dict())
        return {
            "model": dict(self.ema.average) if self.ema else weights,
            "ema": {"updates": self.ema.updates, "raw_model": weights} if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "progress": self.state.state_dict(),
            "detrkit": {**self.metadata, "metrics": self.state.metrics},
        }

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue where a checkpoint stands; a moving average that it lacks begins at its weights."""
        ema = checkpoint["ema"]
        self.model.load_state_dict(ema["raw_model"] if ema else checkpoint["model"])
        if self.ema:
            self.ema.load(checkpoint["model"], ema["updates"] if ema else 0)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:
            self.fabric.strategy.precision.load_state_dict(checkpoint["scaler"])
        self.state.load_state_dict(checkpoint["progress"])
        if self.budget and not self.state.time_share:  # of another limit, or of none
            self.state.time_share = self.budget.share(self.state, checkpoint["progress"]["seconds"])

    def set_rates_and_seed(self, index: int) -> None:
        """Set the learning rates of the next step, and the seed of its random numbers (dropout)."""
        epoch, step = self.state.epoch, self.state.step
        rates = self.lr_schedule.rates(epoch, index / len(self.loader), step, self.state.time_share)
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        seed = seed_of(self.seed, epoch, index, self.fabric.global_rank)
        if self.fabric.device.type == "cpu":  # torch.manual_seed formats a stack trace while CUDA is uninitialized
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def set_time_flags(self) -> None:
        """Set the flags that depend on the clock of this rank; the step shares them with the other ranks."""
        self.flags["save"] = time.monotonic() - self._saved > 60 * self.schedule.save_minutes

    def read_time_share(self) -> float:
        """Share of the time for training that is used, by the clock; 0 without a limit, and on ranks other than 0."""
        if not self.budget or not self.fabric.is_global_zero:
            return 0.0
        return self.budget.share(self.state, self.state.seconds)

    def has_time_to_evaluate(self) -> bool:
        """Whether the time allows an evaluation before the last one, as rank 0 has it."""
        if not self.budget:
            return True
        return self.fabric.broadcast(self.budget.allows_evaluation(self.state, self.state.seconds))

    def no_aug_from(self) -> tuple[int, int]:
        """Epoch and batch from which images are loaded without mosaic and its like."""
        planned = (self.schedule.epochs - self.schedule.no_aug_epochs, 0)
        return min(planned, self.state.no_aug_from or planned)

    def end_augmentation_if_due(self) -> None:
        """End mosaic and its like once the share of the time reaches the last `no_aug_epochs`.

        Batches that loading processes may have begun stay as they are, so that it does not matter how far these are;
        only with a limit of time does a step depend on the number of these processes.
        """
        due = self.state.time_share >= 1 - self.schedule.no_aug_epochs / self.schedule.epochs
        if due and self.state.no_aug_from is None:
            self.state.no_aug_from = (self.state.epoch, self.state.batch + self.loader.batches_ahead)
            self.loader.no_aug_from = self.no_aug_from()

    def clip_gradients(self) -> Tensor:
        """Clip the gradient by its norm over all parameters, as the reference DETR does; the norm before."""
        largest = self.clip_max_norm or math.inf
        norm = self.fabric.clip_gradients(self.loss, self.optimizer, max_norm=largest, error_if_nonfinite=False)
        assert norm is not None
        return norm

    def check_gradient(self, report: StepReport) -> None:
        """Refuse a gradient that is not finite: it would turn every weight into NaN, and the next checkpoint with them.

        Under 16-mixed it is expected now and then; the loss scaler skips that step.

        Raises:
            NonFiniteLossError: it is NaN or infinite.
        """
        assert report.grad_norm is not None
        if not math.isfinite(report.grad_norm) and self.fabric.strategy.precision.precision != "16-mixed":
            raise NonFiniteLossError(
                f"the gradient became {report.grad_norm} at step {self.state.step} (epoch {self.state.epoch + 1})"
            )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Tell the reporters where a run begins, and how it ends."""
        failed = True
        try:
            self._report(lambda reporter: reporter.run_started(self.state, len(self.loader)))
            yield
            failed = False
        finally:
            self._report(lambda reporter: reporter.run_finished(failed=failed))

    def _report(self, tell: Callable[[Reporter], None]) -> None:
        for reporter in self.reporters:
            tell(reporter)
