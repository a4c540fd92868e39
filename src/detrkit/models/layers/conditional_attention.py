"""Conditional attention: cross-attention that keeps what a query looks for apart from where it looks for it.

Meng et al. 2021, "Conditional DETR", section 3.2, with the width- and height-modulated positions of Liu et al. 2022,
"DAB-DETR", section 4.4 (eq. 5 and 6).

Shapes: B batch, Q queries, S places of all levels, D channels, M heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.attention import padding_to_attn_mask
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import MLP
from detrkit.models.layers.position_encoding import sine_of_boxes


class ConditionalAttention(nn.Module):
    """Queries about anchor boxes look at all places. `dim` is a multiple of 4 and of `heads`.

    In each head, queries and keys are a content part and a position part side by side, so the score of a place is the
    sum of how well its content fits and how well it lies.
    """

    MIN_SIDE = 0.01
    """Anchors thinner than this, relative to the image, look as if they were as thick: sharper than one place is
    no use, and the quotient would grow without bound."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content, self.query_position = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_content, self.key_position = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value_proj, self.output_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.query_scale = MLP(dim, dim, dim, 2)  # lambda in Conditional DETR
        self.reference_size = MLP(dim, dim, 2, 2)  # w_ref, h_ref in DAB-DETR
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with positions that mean something: every head prefers places near the anchor's centre.

        For that, queries and keys begin with the same projection of positions, which deals the waves out so that each
        head has slow and fast ones of both y and x, and no content scales them yet. Call this after whatever
        initialises a whole model.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        dim = self.query_position.in_features
        waves = torch.arange(dim).view(2, -1, 2).transpose(0, 1).reshape(-1, 2)  # sine and cosine of y, x, y, x, ...
        head = torch.arange(dim // 2) // 2 % self.heads
        dealt = torch.eye(dim)[waves[head.argsort(stable=True)].flatten()]
        with torch.no_grad():
            self.query_position.weight.copy_(dealt)
            self.key_position.weight.copy_(dealt)
        for mlp in (self.query_scale, self.reference_size):
            nn.init.zeros_(mlp.layers[-1].get_parameter("weight"))
        nn.init.ones_(self.query_scale.layers[-1].get_parameter("bias"))

    def forward(self, content: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """What each query reads from the places that fit it: [B, Q, D].

        `content` [B, Q, D], without position; `reference` [B, Q, 4], its anchor cx, cy, w, h in 0..1, relative to the
        image without its padding. Padding is not looked at, except in an image that is padding throughout.
        """
        query, key = self._queries_and_keys(content, reference, memory)
        value = self._split(self.value_proj(memory.tokens))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=padding_to_attn_mask(memory.padding), dropout_p=dropout
        )
        out: Tensor = self.output_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, content: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """How much each query looks at each place: [B, M, Q, S], rows summing to 1. For images, not for training.

        Arguments as in `forward`.
        """
        query, key = self._queries_and_keys(content, reference, memory)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.masked_fill(~padding_to_attn_mask(memory.padding), -math.inf).softmax(-1)

    def positions(self, content: Tensor, reference: Tensor) -> Tensor:
        """Where queries look, comparable with the position of the places: [B, Q, D]; arguments as in `forward`.

        The encoding of the anchor's centre, scaled by the content channel by channel (Conditional DETR, eq. 4), and
        the more the thinner the anchor (DAB-DETR, eq. 6): the y half by h_ref / h, the x half by w_ref / w.
        """
        center_x, center_y, *_ = reference.unbind(-1)
        encoding = sine_of_boxes(torch.stack([center_y, center_x], dim=-1), content.shape[-1] // 2)
        scaled = encoding * self.query_scale(content)
        size = reference[..., 2:].to(encoding.dtype).clamp(min=self.MIN_SIDE)
        wide, high = (self.reference_size(content).sigmoid() / size).unbind(-1)
        y, x = scaled.chunk(2, dim=-1)
        return torch.cat([y * high[..., None], x * wide[..., None]], dim=-1).to(content.dtype)

    def _queries_and_keys(self, content: Tensor, reference: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Content and position of queries, [B, M, Q, 2 * D / M], and of places, [B, M, S, 2 * D / M]."""
        position = self.positions(content, reference)
        query = self._side_by_side(self.query_content(content), self.query_position(position))
        key = self._side_by_side(
            self.key_content(memory.tokens), self.key_position(memory.position.to(memory.tokens.dtype))
        )
        return query, key

    def _side_by_side(self, content: Tensor, position: Tensor) -> Tensor:
        """Two parts [B, Q, D] -> [B, M, Q, 2 * D / M]."""
        return torch.cat([self._split(content), self._split(position)], dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        """[B, Q, D] -> [B, M, Q, D / M]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
