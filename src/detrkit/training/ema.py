"""A moving average of the weights, which is evaluated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of the weights, per step: average <- d * average + (1 - d) * weights.

    d is min(decay, (1 + n) / (10 + n)) at step n, so that the random start is forgotten soon. Buffers (batch norm
    statistics) are averaged as well; counters are copied.

    Args:
        decay: limit of d after many steps, 0..1.
        model: model with whose weights the average begins, on their device.

    Attributes:
        average: averaged state dict of the model.
        updates: number of averaged steps.
    """

    def __init__(self, decay: float, model: nn.Module) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.updates = 0

    def load(self, average: dict[str, Tensor], updates: int) -> None:
        """Continue with the average of a checkpoint."""
        for name, value in self.average.items():
            value.copy_(average[name])
        self.updates = updates

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights = model.state_dict()
        averaged = [name for name, value in weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in averaged], [weights[n] for n in averaged], 1 - decay)
        for name in weights.keys() - set(averaged):
            self.average[name].copy_(weights[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the average in place of the weights, for the length of a `with`."""
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(weights)
