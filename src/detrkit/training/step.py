"""Parts of a training step: the losses of a batch, their sum over the ranks, and the error for NaN."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detrkit.errors import ConfigError, NonFiniteLossError
from detrkit.losses import DetectionCriterion
from detrkit.models import DetectionModel
from detrkit.structures import Batch, Output, Target
from detrkit.training.compilation import compile_parts, fill_up


def seed_of(*key: int) -> int:
    """Hash of all numbers of `key` for use as a seed, the same on every machine; in 0..2^63 - 1."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


class BatchLosses(NamedTuple):
    """Losses of one batch on this rank, on its device."""

    total: Tensor
    """Weighted sum of the losses, with a gradient; scalar."""
    names: tuple[str, ...]
    """"loss", which is `total`, and the terms of the criterion."""
    values: Tensor
    """float32 [len(names)], without a gradient."""


class DetectionLoss(nn.Module):
    """Model and criterion as one module, which DDP and autocast wrap: from a batch to its losses.

    Args:
        model: detector to train.
        criterion: losses of the detector.
        compiled: whether to compile the model and pad batches to few shapes, see `training.compilation`.
        square_resize: whether all images are squares, which need no padding to few shapes.
    """

    def __init__(
        self,
        model: DetectionModel,
        criterion: DetectionCriterion,
        *,
        compiled: bool = False,
        square_resize: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.compiled, self.square_resize = model, criterion, compiled, square_resize
        if compiled:
            compile_parts(model)

    def forward(self, batch: Batch) -> BatchLosses:
        """Compute the losses of a batch.

        Raises:
            ConfigError: a normalization layer would have a single value per channel.
        """
        try:
            out = self.predict(batch.images, batch.padding_mask, batch.targets)
        except ValueError as problem:
            if "more than 1 value per channel" not in str(problem):
                raise
            raise ConfigError(
                "expected more than one location per channel for batch norm, found a batch of one image whose "
                f"coarsest feature level has one, at {' x '.join(map(str, batch.images.shape[:1:-1]))} pixels; "
                "use a larger --image_size or --batch_size"
            ) from problem
        losses = self.criterion(out, batch.targets)
        total = self.criterion.weighted_sum(losses)
        values = torch.stack([value.detach().float() for value in (total, *losses.values())])
        return BatchLosses(total, ("loss", *losses), values)

    def predict(self, images: Tensor, padding_mask: Tensor, targets: list[Target] | None = None) -> Output:
        """Run the model on images [B, 3, H, W] with padding [B, H, W] and, for denoising, the ground truth."""
        if self.compiled and not self.square_resize:  # squares have few shapes, and train better unpadded
            images, padding_mask = fill_up(images, padding_mask)
        if torch.is_autocast_enabled(images.device.type):  # convolutions of half precision are faster channels last
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images, padding_mask, targets)


class StepReport(NamedTuple):
    """Results of one batch; the same on every rank."""

    losses: dict[str, float]
    """"loss", the weighted sum, and each term; means over the ranks."""
    grad_norm: float | None
    """Norm of the gradient before clipping; None for a batch whose gradient was only accumulated."""
    flags: dict[str, bool]
    """Flags by name; true if any rank had set the flag."""
    time_share: float
    """Share of the time for training that is used, by the clock of rank 0."""


class SharedSums:
    """Losses and flags of one batch, summed over the ranks by one reduction and read by one transfer.

    The constructor starts the reduction. `read` waits for the device: call it when all but the optimizer step has been
    started, and not later, since a loss that is not finite must not reach the weights.

    Args:
        losses: losses of this rank's batch.
        flags: flags of this rank by name.
        time_share: see `StepReport`; 0 on all ranks but rank 0.
    """

    def __init__(self, losses: BatchLosses, flags: Mapping[str, bool], time_share: float) -> None:
        self._names, self._flags, self._loss = losses.names, tuple(flags), losses.values[:1]
        given = torch.tensor([time_share, *flags.values()], dtype=torch.float32)
        given = given.to(losses.values.device, non_blocking=True)
        self._sums = torch.cat([(~torch.isfinite(self._loss)).float(), given, losses.values])
        if _world_size() > 1:
            dist.all_reduce(self._sums)

    def read(self, grad_norm: Tensor | None, batch: Batch, place: str) -> StepReport:
        """Transfer the sums and the norm of the gradient from the device.

        Args:
            grad_norm: norm of the gradient, scalar; None if the gradient is only accumulated.
            batch: batch of this rank, for the error.
            place: step, epoch and batch in words, for the error.

        Raises:
            NonFiniteLossError: on every rank, if the loss of any rank is NaN or infinite; the message names the images.
        """
        norm = self._loss.new_zeros(1) if grad_norm is None else grad_norm.detach().float()[None]
        norm_value, loss, nonfinite, time_share, *sums = torch.cat([norm, self._loss, self._sums]).tolist()
        if nonfinite:
            _refuse(loss, batch, place)
        count, world_size = len(self._flags), _world_size()
        return StepReport(
            {name: value / world_size for name, value in zip(self._names, sums[count:], strict=True)},
            None if grad_norm is None else norm_value,
            {name: value > 0 for name, value in zip(self._flags, sums[:count], strict=True)},
            time_share,
        )


def _refuse(loss: float, batch: Batch, place: str) -> NoReturn:
    """Raise the error that names the images of all ranks whose loss is not finite; on every rank."""
    files = [str(target.get("file", target.get("image_id", "?"))) for target in batch.targets]
    own = None if math.isfinite(loss) else (loss, files)
    ranks: list[Any] = [own]
    if _world_size() > 1:
        ranks = [None] * _world_size()
        dist.all_gather_object(ranks, own)
    broken = [entry for entry in ranks if entry]
    names = ", ".join(name for _, files in broken for name in files)
    raise NonFiniteLossError(f"the loss became {broken[0][0]} {place} on {names}")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
