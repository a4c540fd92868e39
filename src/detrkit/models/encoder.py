"""The encoder of DETR: self-attention over the tokens of the image (paper, section 3.2 and figure 10).

Position encodings are added to queries and keys, never to values. Shapes: B batch, S tokens of all feature levels, D
channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from detrkit.models.layers.attention import MultiheadAttention, padding_to_attn_mask
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten
from detrkit.models.layers.feed_forward import FeedForward, LayerList, initialise


class Encoder(nn.Module):
    """Self-attention over the places of the image, of all levels together."""

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.LayerNorm | None, level_embed: Tensor | None) -> None:
        """Prepare.

        Args:
            layers: dense or deformable.
            norm: at the end, or None.
            level_embed: [L, D], what tells the levels apart, learned (Deformable DETR, section 4.1); None for one.
        """
        super().__init__()
        self.layers = LayerList(layers)
        self.norm = norm
        self.level_embed = None if level_embed is None else nn.Parameter(level_embed)

    def forward(self, levels: Sequence[Level]) -> Memory:
        """Feature levels, finest first -> Memory."""
        if self.level_embed is not None:
            which = self.level_embed[:, :, None, None]
            levels = [replace(level, position=level.position + e) for level, e in zip(levels, which, strict=True)]
        memory = flatten(levels)
        for layer in self.layers:
            memory = replace(memory, tokens=self.layers.run(layer, memory))
        return memory if self.norm is None else replace(memory, tokens=self.norm(memory.tokens))


class EncoderLayer(FeedForward):
    """Self-attention and feed-forward, each with a residual connection and a norm after (or before) it."""

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
        initialise(self)

    def forward(self, memory: Memory) -> Tensor:
        """The image -> its tokens after this layer, [B, S, D]."""
        x = memory.tokens
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), memory)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, memory))
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, memory: Memory) -> Tensor:
        located = x + memory.position.to(x.dtype)
        if isinstance(self.self_attn, DeformableAttention):
            found = self.self_attn(located, memory.locations.centers, replace(memory, tokens=x))
        else:
            found = self.self_attn(located, located, x, padding_to_attn_mask(memory.padding))
        out: Tensor = self.dropout(found)
        return out
