"""Multi-layer perceptrons of the prediction heads (paper, section 3.2: prediction feed-forward networks)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        dim: D, channels of the input.
        hidden: channels between the layers.
        out: channels of the output.
        num_layers: number of linear layers.
    """

    def __init__(self, dim: int, hidden: int, out: int, num_layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (num_layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., out]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def run_in_float32(head: nn.Module, x: Tensor) -> Tensor:
    """Run a prediction head in float32, also under autocast.

    Boxes and the ranks of tokens need more than the 8 bits of bfloat16 (half a point of AP on the demo's images), and
    heads cost next to nothing.
    """
    if not torch.is_autocast_enabled(x.device.type):  # exporters do not support autocast, even to disable it
        return head(x)
    with torch.autocast(x.device.type, enabled=False):
        return head(x.float())
