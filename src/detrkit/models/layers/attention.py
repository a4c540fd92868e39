"""Multi-head attention (Vaswani et al. 2017, section 3.2) over `scaled_dot_product_attention`.

The fast path never forms the attention weights. Whoever wants to see them wraps a forward pass:

    with record_attention([layer.multihead_attn for layer in model.transformer.decoder.layers]) as weights:
        model(images, padding_mask)
    weights[-1]  # [B, heads, Q, H*W] of the last layer

Shapes: B batch, L queries, S keys, D channels, h heads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Attention with the parameter names of `torch.nn.MultiheadAttention`, batch first."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        """Query [B, L, D], key and value [B, S, D], `keep` bool [B, 1, 1, S] (see `keys_to_keep`) -> [B, L, D]."""
        q, k, v = (self._project(i, x) for i, x in enumerate((query, key, value)))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, query: Tensor, key: Tensor, keep: Tensor | None = None) -> Tensor:
        """How much each query looks at each key: [B, h, L, S], rows summing to 1. For images, not for training."""
        q, k = self._project(0, query), self._project(1, key)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if keep is not None:
            scores = scores.masked_fill(~keep, -math.inf)
        return scores.softmax(-1)

    def _project(self, part: int, x: Tensor) -> Tensor:
        """One of the three input projections, split into heads: [B, L, D] -> [B, h, L, D/h]."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def keys_to_keep(padding: Tensor) -> Tensor:
    """Padding [B, S] (True = padding) as a mask of keys to attend to, [B, 1, 1, S].

    An image that is padding throughout keeps all its keys: a softmax over nothing would be NaN.
    """
    return (~padding | padding.all(-1, keepdim=True))[:, None, None, :]


@contextlib.contextmanager
def record_attention(attentions: Sequence[MultiheadAttention]) -> Iterator[list[Tensor]]:
    """The weights [B, h, L, S] of the given modules, in order of their calls, while a model runs in this block."""
    recorded: list[Tensor] = []

    def record(module: MultiheadAttention, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        query, key = args[:2]
        keep = args[3] if len(args) > 3 else kwargs.get("keep")
        with torch.no_grad():
            recorded.append(module.weights(query, key, keep))

    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in attentions]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
