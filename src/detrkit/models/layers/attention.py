"""Multi-head attention (Vaswani et al. 2017, section 3.2) over `scaled_dot_product_attention`.

The fast path never forms the attention weights. To see them, wrap a forward pass:

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
    """softmax(q k^T / sqrt(D / h)) v in each of h heads; parameters as in `torch.nn.MultiheadAttention`, batch first.

    Args:
        dim: D, a multiple of `heads`.
        heads: h.
        dropout: probability to drop an attention weight, 0..1.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend from `query` [B, L, D] to `key` and `value` [B, S, D] -> [B, L, D].

        `attn_mask`, as in `scaled_dot_product_attention`, is bool, True = attend, [B, 1, 1, S] (see
        `padding_to_attn_mask`) or [B, 1, L, S].
        """
        q, k, v = (self._project(i, x) for i, x in enumerate((query, key, value)))  # [B, h, L or S, D / h]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)  # [B, h, L, D / h]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attention weights [B, h, L, S], rows summing to 1; to draw attention maps, not for training."""
        q, k = self._project(0, query), self._project(1, key)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, h, L, S]
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        return scores.softmax(-1)

    def _project(self, part: int, x: Tensor) -> Tensor:
        """One of the three input projections, split into heads: [B, L, D] -> [B, h, L, D / h]."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def padding_to_attn_mask(key_padding_mask: Tensor) -> Tensor:
    """Turn a padding mask [B, S] (True = padding) into an attention mask [B, 1, 1, S] (True = attend).

    An image that is padding throughout keeps all its keys: a softmax over nothing would be NaN.
    """
    return (~key_padding_mask | key_padding_mask.all(-1, keepdim=True))[:, None, None, :]


@contextlib.contextmanager
def record_attention(attentions: Sequence[MultiheadAttention]) -> Iterator[list[Tensor]]:
    """Record the weights [B, h, L, S] of the given modules, in order of their calls, while the block runs a model."""
    recorded: list[Tensor] = []

    def record(module: MultiheadAttention, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        query, key = args[:2]
        attn_mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        with torch.no_grad():
            recorded.append(module.weights(query, key, attn_mask))

    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in attentions]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
