"""The transformer of DETR: its encoder looks over the picture, its decoder turns queries into objects at once.

Paper, section 3.2 and figure 10. Position encodings are added to queries and keys at every attention, never to
values. Shapes: B batch, S = H * W places in the picture, Q object queries, D channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.attention import MultiheadAttention, keys_to_keep

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


class Transformer(nn.Module):
    """Encoder and decoder; the output of every decoder layer is kept."""

    def __init__(
        self,
        dim: int = 256,
        heads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        layer = (dim, heads, dim_feedforward, dropout, activation, pre_norm)
        self.encoder = Encoder(
            [EncoderLayer(*layer) for _ in range(enc_layers)], nn.LayerNorm(dim) if pre_norm else None
        )
        self.decoder = Decoder([DecoderLayer(*layer) for _ in range(dec_layers)], nn.LayerNorm(dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, padding: Tensor, queries: Tensor, position: Tensor) -> Tensor:
        """Features and position [B, D, H, W], padding bool [B, H, W], queries [Q, D] -> [layers, B, Q, D]."""
        pictures = features.flatten(2).transpose(1, 2)  # [B, S, D]
        places = position.flatten(2).transpose(1, 2).to(pictures.dtype)
        keep = keys_to_keep(padding.flatten(1))
        memory = self.encoder(pictures, places, keep)
        objects: Tensor = self.decoder(queries.expand(features.shape[0], -1, -1), memory, places, keep)
        return objects


class Encoder(nn.Module):
    """Self-attention over the places of the picture."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, pictures: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Features and their position encoding [B, S, D], keys to keep [B, 1, 1, S] -> [B, S, D]."""
        for layer in self.layers:
            pictures = layer(pictures, places, keep)
        return pictures if self.norm is None else self.norm(pictures)


class Decoder(nn.Module):
    """Queries that talk to each other and look at the picture."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, queries: Tensor, memory: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Queries [B, Q, D], encoded picture and its position encoding [B, S, D] -> [layers, B, Q, D]."""
        objects, outputs = torch.zeros_like(queries), []
        for layer in self.layers:
            objects = layer(objects, queries, memory, places, keep)
            outputs.append(self.norm(objects))
        return torch.stack(outputs)


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


class EncoderLayer(FeedForward):
    """Self-attention and feed-forward, each with a residual connection and a norm after (or before) it."""

    def __init__(
        self, dim: int, heads: int, dim_feedforward: int, dropout: float, activation: str, pre_norm: bool
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Features and position encoding [B, S, D], keys to keep [B, 1, 1, S] -> [B, S, D]."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), places, keep)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, places, keep))
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        located = x + places
        out: Tensor = self.dropout(self.self_attn(located, located, x, keep))
        return out


class DecoderLayer(FeedForward):
    """Self-attention among the queries, cross-attention into the picture, feed-forward."""

    def __init__(
        self, dim: int, heads: int, dim_feedforward: int, dropout: float, activation: str, pre_norm: bool
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, heads, dropout)
        self.multihead_attn = MultiheadAttention(dim, heads, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Objects so far and queries [B, Q, D], encoded picture and its position encoding [B, S, D] -> [B, Q, D]."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), queries)
            x = x + self._look(self.norm2(x), queries, memory, places, keep)
            return x + self.feed_forward(self.norm3(x))
        x = self.norm1(x + self._attend(x, queries))
        x = self.norm2(x + self._look(x, queries, memory, places, keep))
        out: Tensor = self.norm3(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, queries: Tensor) -> Tensor:
        asking = x + queries
        out: Tensor = self.dropout(self.self_attn(asking, asking, x))
        return out

    def _look(self, x: Tensor, queries: Tensor, memory: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.multihead_attn(x + queries, memory + places, memory, keep))
        return out
