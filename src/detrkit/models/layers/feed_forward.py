"""Common parts of encoder and decoder layers: feed-forward network, initialization, activation checkpointing."""

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
    """Layers of an encoder or decoder, with optional activation checkpointing.

    Checkpointed layers store their inputs alone and run again in the backward pass, with the same dropout (Chen et al.
    2016, "Training Deep Nets with Sublinear Memory Cost"): the same gradient for less memory and more time.
    """

    checkpointed = False
    """Whether layers are checkpointed."""

    def run(self, layer: nn.Module, *args: object) -> Tensor:
        """Call one of the layers."""
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


class FeedForward(nn.Module):
    """Feed-forward network: linear2(dropout(activation(linear1(x)))) (paper, appendix A.4, figure 10).

    A base class of encoder and decoder layers, since checkpoints of the reference DETR have its parameters directly in
    the layer.

    Args:
        dim: D.
        dim_feedforward: number of channels between the two linear layers.
        dropout: probability, 0..1.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        # glu halves its input, so that gets twice the width
        self.linear1 = nn.Linear(dim, dim_feedforward * (2 if activation == "glu" else 1))
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], with dropout inside and after."""
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def initialize(layer: nn.Module) -> None:
    """Initialize each matrix of a layer by Xavier uniform, but those of deformable and conditional attention."""
    children = (
        child for child in layer.children() if not isinstance(child, DeformableAttention | ConditionalAttention)
    )
    for module in (m for child in children for m in child.modules()):
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
