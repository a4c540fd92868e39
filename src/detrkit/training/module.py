"""The training step: what Lightning repeats.

Everything random in a step is drawn from (seed, epoch, batch, rank) and the learning rates are a function of the point
reached, so a step depends on the weights and on where it stands, never on how the process got there. That is what lets
a killed run continue bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from detrkit.errors import ConfigError, NonFiniteLossError
from detrkit.losses import Criterion
from detrkit.models import DETR
from detrkit.structures import Batch, Output, Target
from detrkit.training.compilation import compile_parts, fill_up
from detrkit.training.optim import Schedule

Sums = dict[str, float]
STOP_FLAGS = ("stop", "save", "out_of_time")


def seed_of(*key: int) -> int:
    """A seed that depends on every number of `key`, the same on every machine; in 0..2^63 - 1."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


class _Untold(NamedTuple):
    """What a batch came to, still on its device."""

    names: tuple[str, ...]
    """Of the losses."""
    row: Tensor
    """Whether the loss is not finite, the stop flags and the losses, summed over the ranks."""
    mine: Tensor
    """The loss of this rank, [1]."""
    batch: Batch
    batch_idx: int


class DetectionTraining(pl.LightningModule):
    """A model, its criterion and how they are optimised."""

    def __init__(
        self,
        model: DETR,
        criterion: Criterion,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        clip_max_norm: float,
        seed: int,
        compiled: bool = False,
        square_resize: bool = False,
    ) -> None:
        """Prepare.

        Args:
            model: to be trained.
            criterion: for it.
            optimizer: of its parameters.
            schedule: of the optimiser's rates.
            clip_max_norm: largest norm of the gradient; 0: any.
            seed: of what is random in a step.
            compiled: compile the model, and pad batches that are no squares to few shapes; see `training.compilation`.
            square_resize: batches are squares.
        """
        super().__init__()
        self.model, self.criterion, self.square_resize = model, criterion, square_resize
        self._optimizer, self._schedule = optimizer, schedule
        self.clip_max_norm, self.seed, self.compiled = clip_max_norm, seed, compiled
        if compiled:
            compile_parts(model)
        self.sums: Sums = {}
        """Sum of each loss over the steps of this epoch, averaged over the ranks; kept in checkpoints."""
        self.steps_summed = 0
        self.last_loss = 0.0
        """Loss of the last batch, averaged over the ranks."""
        self.grad_norm = 0.0
        """Norm of the last gradient, before clipping."""
        self._untold: _Untold | None = None
        self.stop_flags = dict.fromkeys(STOP_FLAGS, False)
        """Set one on any rank, and all ranks find it in `synced_flags` after the same step."""
        self.synced_flags = dict.fromkeys(STOP_FLAGS, False)

    def forward(self, images: Tensor, padding_mask: Tensor, targets: list[Target] | None = None) -> Output:
        """Images [B, 3, H, W], padding [B, H, W] and, for denoising, the objects -> Output."""
        if self.compiled and not self.square_resize:  # squares have few shapes as they are, and learn better unpadded
            images, padding_mask = fill_up(images, padding_mask)
        if torch.is_autocast_enabled(images.device.type):  # convolutions of half precision like their channels last
            images = images.contiguous(memory_format=torch.channels_last)
        out: Output = self.model(images, padding_mask, targets)
        return out

    def configure_optimizers(self) -> Optimizer:
        """The optimiser that was given."""
        return self._optimizer

    def rates(self, batch_idx: int) -> list[float]:
        """Learning rate of each group at a batch of the current epoch."""
        fraction = batch_idx / max(1, self.trainer.num_training_batches)
        return self._schedule.rates(self.current_epoch, fraction, self.global_step)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates and seed what is random in the step (dropout)."""
        for group, lr in zip(self._optimizer.param_groups, self.rates(batch_idx), strict=True):
            group["lr"] = lr
        torch.manual_seed(seed_of(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses of a batch.

        Raises:
            ConfigError: a norm would have a single value to learn from.
        """
        try:
            out = self(batch.images, batch.padding_mask, batch.targets)
        except ValueError as problem:
            if "more than 1 value per channel" not in str(problem):
                raise
            raise ConfigError(
                "expected more than one place for a norm to learn from, found a batch of one image whose coarsest "
                f"feature level has one place, at {' x '.join(map(str, batch.images.shape[:1:-1]))} pixels; "
                "use a larger --image_size or --batch_size"
            ) from problem
        losses = self.criterion(out, batch.targets)
        total = self.criterion.weighted_sum(losses)
        values = torch.stack([value.detach().float() for value in (total, *losses.values())])
        stop_flags = torch.tensor([float(self.stop_flags[name]) for name in STOP_FLAGS]).to(
            values.device, non_blocking=True
        )
        row = torch.cat([(~torch.isfinite(values[:1])).float(), stop_flags, values])
        if self.trainer.world_size > 1:
            dist.all_reduce(row)
        self._untold = _Untold(("loss", *losses), row, values[:1], batch, batch_idx)
        return total

    def _account(self, norm: Tensor) -> None:
        """Add the losses up, agree with the other ranks about stopping, and refuse a loss that is not finite.

        One reduction and one transfer from the device serve all three and the norm of the gradient. That transfer waits
        for the device, so it comes when all but the optimiser's step is under way; no later, since what is not finite
        must not reach the weights.

        Raises:
            NonFiniteLossError: on every rank, if the loss of any is NaN or infinite.
        """
        assert self._untold is not None
        names, row, mine, batch, batch_idx = self._untold
        self._untold = None
        self.grad_norm, loss, bad, *told = torch.cat([norm.detach().float()[None], mine, row]).tolist()
        if bad:
            self._refuse(None if math.isfinite(loss) else f"loss became {loss}", batch, batch_idx)
        flagged, summed = told[: len(STOP_FLAGS)], told[len(STOP_FLAGS) :]
        self.synced_flags = {name: count > 0 for name, count in zip(STOP_FLAGS, flagged, strict=True)}
        world = self.trainer.world_size
        for name, value in zip(names, summed, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value / world
        self.steps_summed += 1
        self.last_loss = summed[0] / world

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Account for a batch whose gradient was only gathered, so that no step has done so."""
        if self._untold:
            self._account(torch.zeros((), device=self._untold.mine.device))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient by its norm over all parameters, as the original does.

        A gradient that is not finite would turn every weight into NaN, and the next checkpoint with them. Under
        16-mixed it is expected now and then: the loss scaler skips that step.

        Raises:
            NonFiniteLossError: the gradient, or the loss, is NaN or infinite.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._account(torch.nn.utils.clip_grad_norm_(parameters, self.clip_max_norm or float("inf")))
        if not math.isfinite(self.grad_norm) and self.trainer.precision != "16-mixed":
            raise NonFiniteLossError(
                f"the gradient became {self.grad_norm} at step {self.global_step} (epoch {self.current_epoch + 1})"
            )

    def _refuse(self, fault: str | None, batch: Batch, batch_idx: int) -> None:
        """Raise the error that names the step and the images of every rank whose loss is not finite."""
        mine = (fault, [str(t.get("file", t.get("image_id", "?"))) for t in batch.targets]) if fault else None
        every: list[Any] = [mine]
        if self.trainer.world_size > 1:
            every = [None] * self.trainer.world_size
            dist.all_gather_object(every, mine)
        faults = [entry for entry in every if entry]
        files = ", ".join(file for _, names in faults for file in names)
        raise NonFiniteLossError(
            f"the {faults[0][0]} at step {self.global_step} (epoch {self.current_epoch + 1}, batch {batch_idx + 1}) "
            f"on {files}"
        )

    def means(self) -> Sums:
        """Mean of each loss over the steps of this epoch so far."""
        return {name: value / self.steps_summed for name, value in self.sums.items()}

    def forget_sums(self) -> None:
        """Begin an epoch's sums."""
        self.sums, self.steps_summed = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an unfinished epoch."""
        checkpoint["loss_sums"] = {"sums": dict(self.sums), "steps": self.steps_summed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the sums of an unfinished epoch."""
        kept = checkpoint["loss_sums"]
        self.sums, self.steps_summed = dict(kept["sums"]), int(kept["steps"])
