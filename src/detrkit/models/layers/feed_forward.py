"""What encoder and decoder layers have in common: feed-forward network, initial values, recomputing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


class LayerList(nn.ModuleList):
    """Layers of an encoder or decoder, which may keep nothing of their insides for the backward pass.

    What they were given is kept, and they run again when their gradient is wanted (Chen et al. 2016, "Training Deep
    Nets with Sublinear Memory Cost"), with the same dropout: the same gradient for less memory and more time.
    """

    checkpointed = False

    def run(self, layer: nn.Module, *args: object) -> Tensor:
        """What one of the layers makes of its arguments."""
        out: Tensor
        if self.checkpointed and torch.is_grad_enabled():
            out = checkpoint(layer, *args, use_reentrant=False)
        else:
            out = layer(*args)
        return out


class FeedForward(nn.Module):
    """The two linear layers of a block. A base class, since the original's keys have them directly in the layer."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        # glu halves what it is given, so it is given twice as much
        self.linear1 = nn.Linear(dim, dim_feedforward * (2 if activation == "glu" else 1))
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], with dropout inside and after."""
        out: Tensor = self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return out


def initialise(layer: nn.Module) -> None:
    """Fill each matrix of a layer with Xavier's uniform; attention around reference points initialises itself."""
    children = (
        child for child in layer.children() if not isinstance(child, DeformableAttention | ConditionalAttention)
    )
    for module in (m for child in children for m in child.modules()):
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
