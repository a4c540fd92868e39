"""The encoder of DETR: self-attention over the tokens of the image (paper, section 3.2 and figure 10).

Position encodings are added to queries and keys, never to values.

Shapes: B batch, S tokens of all feature levels, L levels, h x w tokens of one level, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from detrkit.models.layers.attention import MultiheadAttention, padding_to_attn_mask
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten
from detrkit.models.layers.feed_forward import FeedForward, LayerList, initialize


class Encoder(nn.Module):
    """Self-attention over the tokens of all feature levels together.

    Args:
        layers: encoder layers, with full or deformable attention.
        norm: norm after the last layer; None: there is none.
        level_embed: [L, D], initial value of a learned embedding of each level, added to the positions (Deformable
            DETR, section 4.1); None for a single level.
    """

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.LayerNorm | None, level_embed: Tensor | None) -> None:
        super().__init__()
        self.layers = LayerList(layers)
        self.norm = norm
        self.level_embed = None if level_embed is None else nn.Parameter(level_embed)

    def forward(self, levels: Sequence[Level]) -> Memory:
        """Encode feature levels, finest first."""
        if self.level_embed is not None:
            embeds = self.level_embed[:, :, None, None]  # [L, D, 1, 1]
            levels = [replace(level, position=level.position + e) for level, e in zip(levels, embeds, strict=True)]
        memory = flatten(levels)  # tokens and positions [B, S, D]
        for layer in self.layers:
            memory = replace(memory, tokens=self.layers.run(layer, memory))
        return memory if self.norm is None else replace(memory, tokens=self.norm(memory.tokens))


class EncoderLayer(FeedForward):
    """Self-attention and a feed-forward network, each with a residual connection and a norm after (or before) it.

    Args:
        self_attn: among the tokens.
        dim: D.
        dim_feedforward: width of the feed-forward network.
        dropout: probability, 0..1.
        activation: activation of the feed-forward network, one of `ACTIVATIONS`.
        pre_norm: whether norms come before the blocks instead of after.
    """

    def __init__(
        self,
        self_attn: MultiheadAttention | DeformableAttention,
        dim: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        pre_norm: bool,
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.pre_norm = pre_norm
        self.self_attn = self_attn
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        initialize(self)

    def forward(self, memory: Memory) -> Tensor:
        """Return the tokens after this layer, [B, S, D]."""
        x = memory.tokens
        if self.pre_norm:
            x = x + self._self_attention(self.norm1(x), memory)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self._self_attention(x, memory))
        return self.norm2(x + self.feed_forward(x))

    def _self_attention(self, x: Tensor, memory: Memory) -> Tensor:
        q = k = x + memory.position.to(x.dtype)  # [B, S, D]
        if isinstance(self.self_attn, DeformableAttention):  # each token samples around its own location
            out = self.self_attn(q, memory.locations.centers, replace(memory, tokens=x))
        else:
            out = self.self_attn(q, k, x, padding_to_attn_mask(memory.padding))
        return self.dropout(out)
