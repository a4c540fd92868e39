"""Prediction heads, shared by all decoder layers (paper, section 3.2: prediction feed-forward networks)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLU between them: [..., D] -> [..., out]."""

    def __init__(self, dim: int, hidden: int, out: int, num_layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (num_layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., out]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


def run_in_float32(head: nn.Module, x: Tensor) -> Tensor:
    """What a head says of x, in float32 also under autocast: boxes and the ranks of places need more than bf16's 8 bits
    (half a point of AP on the demo's images), and heads cost next to nothing."""
    out: Tensor
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            out = head(x.float())
    else:  # exporters do not know autocast, even to turn it off
        out = head(x)
    return out
