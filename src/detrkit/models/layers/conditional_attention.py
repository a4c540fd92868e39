"""Conditional attention: cross-attention that keeps the content and the position of queries and keys apart.

Meng et al. 2021, "Conditional DETR", section 3.2, with the width- and height-modulated positions of Liu et al. 2022,
"DAB-DETR", section 4.4 (equations 5 and 6).

Shapes: B batch, Q queries, S tokens of all levels, D channels, M heads.
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
    """Attention from queries with anchor boxes to all tokens.

    In each head, queries and keys are a content part and a position part side by side, so the attention logit of a
    query with content c_q and position p_q and a token with c_k and p_k is (Conditional DETR, equation 2)

        (c_q^T c_k + p_q^T p_k) / sqrt(2 D / M)

    with p_q of `query_pos`, which is for an anchor (x, y, w, h) (Conditional DETR, equation 4; DAB-DETR, equation 6)

        p_q = [PE(y) lambda_y h_ref / h, PE(x) lambda_x w_ref / w],    lambda, (w_ref, h_ref) = MLPs(c_q)

    `query_content`, `query_position`, `key_content` and `key_position` project c_q, p_q, c_k and p_k; `query_scale` is
    the MLP of lambda, `reference_size` that of w_ref and h_ref, followed by a sigmoid.

    Args:
        dim: D, a multiple of 4 and of `heads`.
        heads: M.
        dropout: probability to drop an attention weight, 0..1.
    """

    MIN_SIDE = 0.01
    """Smallest side of an anchor, relative to the image, in the quotients of equation 6, which would grow without
    bound; attention cannot be sharper than one token anyway."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content, self.query_position = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_content, self.key_position = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value_proj, self.output_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.query_scale = MLP(dim, dim, dim, 2)  # lambda (Conditional DETR)
        self.reference_size = MLP(dim, dim, 2, 2)  # w_ref, h_ref (DAB-DETR)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize such that every head prefers tokens near the center of the anchor.

        For that, queries and keys start with the same projection of positions, which distributes the sine waves so that
        each head has slow and fast ones of both y and x; and lambda starts at 1, w_ref and h_ref at 0.5. Call this
        after any initialization of a whole model.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        dim = self.query_position.in_features
        waves = torch.arange(dim).view(2, -1, 2).transpose(0, 1).reshape(-1, 2)  # sine and cosine of y, x, y, x, ...
        head = torch.arange(dim // 2) // 2 % self.heads  # of each pair of waves; y and x take turns
        permutation = torch.eye(dim)[waves[head.argsort(stable=True)].flatten()]  # [D, D]
        with torch.no_grad():
            self.query_position.weight.copy_(permutation)
            self.key_position.weight.copy_(permutation)
        for mlp in (self.query_scale, self.reference_size):
            nn.init.zeros_(mlp.layers[-1].get_parameter("weight"))
        nn.init.ones_(self.query_scale.layers[-1].get_parameter("bias"))

    def forward(self, content: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """Attend to all tokens but padding, except in an image that is padding throughout.

        Args:
            content: [B, Q, D], without position.
            reference: anchors, [B, Q, 4]; cx, cy, w, h in 0..1, relative to the image without padding.
            memory: output of the encoder.

        Returns:
            [B, Q, D].
        """
        query, key = self._queries_and_keys(content, reference, memory)  # [B, M, Q or S, 2 * D / M]
        value = self._split_heads(self.value_proj(memory.tokens))  # [B, M, S, D / M]
        attn_mask, dropout = padding_to_attn_mask(memory.padding), self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout)
        return self.output_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, content: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """Attention weights [B, M, Q, S], rows summing to 1; to draw attention maps, not for training.

        Arguments as in `forward`.
        """
        query, key = self._queries_and_keys(content, reference, memory)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.masked_fill(~padding_to_attn_mask(memory.padding), -math.inf).softmax(-1)

    def query_pos(self, content: Tensor, reference: Tensor) -> Tensor:
        """Position embeddings p_q of the queries, comparable with those of the tokens: [B, Q, D].

        Arguments as in `forward`. See the class for the formula.
        """
        center_x, center_y, *_ = reference.unbind(-1)
        encoding = sine_of_boxes(torch.stack([center_y, center_x], dim=-1), content.shape[-1] // 2)  # [B, Q, D]
        y, x = (encoding * self.query_scale(content)).chunk(2, dim=-1)  # [B, Q, D / 2] each
        size = reference[..., 2:].to(encoding.dtype).clamp(min=self.MIN_SIDE)  # [B, Q, 2], w and h
        width_ratio, height_ratio = (self.reference_size(content).sigmoid() / size).unbind(-1)  # [B, Q] each
        return torch.cat([y * height_ratio[..., None], x * width_ratio[..., None]], dim=-1).to(content.dtype)

    def _queries_and_keys(self, content: Tensor, reference: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Content and position side by side: of queries [B, M, Q, 2 * D / M], and of tokens [B, M, S, 2 * D / M]."""
        query_pos = self.query_position(self.query_pos(content, reference))  # [B, Q, D]
        key_pos = self.key_position(memory.position.to(memory.tokens.dtype))  # [B, S, D]
        query = self._side_by_side(self.query_content(content), query_pos)
        key = self._side_by_side(self.key_content(memory.tokens), key_pos)
        return query, key

    def _side_by_side(self, content: Tensor, position: Tensor) -> Tensor:
        """Two parts [B, Q, D] -> [B, M, Q, 2 * D / M]."""
        return torch.cat([self._split_heads(content), self._split_heads(position)], dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, Q, D] -> [B, M, Q, D / M]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
