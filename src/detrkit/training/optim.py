"""The optimiser of the original (AdamW in two groups), and learning rates as a function of where training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW


def build_optimizer(model: nn.Module, *, lr: float, lr_backbone: float, weight_decay: float) -> AdamW:
    """AdamW over two groups, as in the original's main.py.

    Group 0 is everything whose name lacks "backbone", at `lr`; group 1 is the rest, at `lr_backbone`. As in the
    original, learned position encodings live under "backbone.1" and so belong to group 1. `lr_backbone` 0 freezes the
    feature extractor ("backbone.0", whose parameters stop requiring gradients); learned positions then join group 0.
    Both groups follow the order of `named_parameters`, so that optimiser states of the original fit by position.
    """
    if lr_backbone == 0:
        for name, parameter in model.named_parameters():
            if name.startswith("backbone.0."):
                parameter.requires_grad_(False)
    marker = "backbone" if lr_backbone > 0 else "backbone.0."
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in learning if marker not in name], "lr": lr},
        {"params": [p for name, p in learning if marker in name], "lr": lr_backbone},
    ]
    return AdamW(groups, lr=lr, weight_decay=weight_decay)


@dataclass(frozen=True)
class Schedule:
    """Learning rates of the groups, a pure function of the point reached.

    Nothing of it is kept in checkpoints: a resumed run computes the same rates, and rates given anew are honoured.
    """

    base: tuple[float, ...]
    """Rate of each group, a step."""
    kind: Literal["step", "cosine"]
    epochs: int
    """Where the cosine reaches 0."""
    lr_drop: int
    """Epochs between drops to a tenth, for "step"."""
    warmup_steps: int
    """Optimiser steps of linear warm-up; 0: none."""

    def factor(self, epoch: int, fraction: float, step: int) -> float:
        """What the base rates are multiplied by, in 0..1.

        Args:
            epoch: epochs finished.
            fraction: share of the current epoch that is done, 0..1.
            step: optimiser steps taken in all.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.kind == "cosine":
            return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch + fraction) / self.epochs)))
        return warmup * 0.1 ** (epoch // self.lr_drop)

    def rates(self, epoch: int, fraction: float, step: int) -> list[float]:
        """Learning rate of each group; see `factor`."""
        factor = self.factor(epoch, fraction, step)
        return [lr * factor for lr in self.base]
