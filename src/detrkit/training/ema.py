"""A moving average of the weights, which is what gets evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class Ema(pl.Callback):
    """Exponential moving average of the weights, a step: average <- d * average + (1 - d) * weights.

    d is min(decay, (1 + n) / (10 + n)) at step n, so that the random start is forgotten soon. Buffers (batch norm
    statistics) are averaged as well; counters are copied. The average is the checkpoint's "model".
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """How many steps went in."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.updates = int(state_dict["updates"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the average up; a run without one begins it at its weights."""
        self.average = {name: value.clone() for name, value in checkpoint["model"].items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin at the weights, on their device."""
        assert isinstance(pl_module.model, nn.Module)
        weights = pl_module.model.state_dict()
        begun = self.average or weights
        self.average = {name: begun[name].detach().to(weights[name].device, copy=True) for name in weights}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights = model.state_dict()
        averaged = [name for name, value in weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in averaged], [weights[n] for n in averaged], 1 - decay)
        for name in weights.keys() - set(averaged):
            self.average[name].copy_(weights[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The average in place of the weights, for the length of a `with`."""
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(kept)
