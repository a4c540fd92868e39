"""The mask head of the classic model (Carion et al. 2020, section 4.4 and figure 8; appendix A.3, "Panoptic
segmentation"): attention maps of the queries, upsampled by convolutions in the manner of a feature pyramid network
(Lin et al. 2017, "Feature Pyramid Networks for Object Detection").

The mask of a query depends on no other query: neither the convolutions nor the norms mix them. So masks of chosen
queries equal those among the masks of all queries, and only the requested ones are computed.

Shapes: B batch, Q queries, D channels, H heads, h x w cells of the coarsest map, S = h * w, P pairs of an image and a
query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.attention import padding_to_attn_mask

MASK_PARTS = ("bbox_attention", "mask_head")
"""Attributes of a DETR that belong to its mask head."""


class AttentionMap(nn.Module):
    """Attention maps of the queries: the logits q k^T / sqrt(D / H) of each head, under the keys of the reference DETR.

    `MaskHead` takes the softmax of these, over heads and cells together, for the chosen queries alone.

    Args:
        dim: D.
        heads: H.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear, self.k_linear = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hs: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """Compute the attention logits of all queries; -inf at padded cells.

        Args:
            hs: hidden states of the last decoder layer, [B, Q, D].
            memory: output of the encoder as a map, [B, D, h, w].
            padding: bool [B, h, w], True = padding.

        Returns:
            At least float32 [B, Q, H, h, w].
        """
        tokens = memory.flatten(2).transpose(1, 2)  # [B, S, D]
        q = self.q_linear(hs).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, Q, D / H]
        k = self.k_linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, S, D / H]
        logits = q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2)  # [B, H, Q, S]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits.masked_fill(~padding_to_attn_mask(padding.flatten(1)), -math.inf)
        return logits.transpose(1, 2).reshape(*hs.shape[:2], self.heads, *memory.shape[2:])


class MaskHead(nn.Module):
    """Attention maps and feature maps to masks at stride 4, under the keys of the reference DETR.

    Args:
        dim: D.
        heads: H.
        high_res_channels: channels of the three high-resolution maps of the backbone, finest first.
    """

    def __init__(self, dim: int, heads: int, high_res_channels: Sequence[int]) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = (max(1, dim // k) for k in (2, 4, 8, 16))
        self.lay1, self.gn1 = _conv(dim + heads, dim + heads, 3), _norm(dim + heads)
        self.lay2, self.gn2 = _conv(dim + heads, half, 3), _norm(half)
        self.lay3, self.gn3 = _conv(half, quarter, 3), _norm(quarter)
        self.lay4, self.gn4 = _conv(quarter, eighth, 3), _norm(eighth)
        self.lay5, self.gn5 = _conv(eighth, sixteenth, 3), _norm(sixteenth)
        self.out_lay = _conv(sixteenth, 1, 3)
        coarsest_first = zip(reversed(high_res_channels), (half, quarter, eighth), strict=True)
        self.adapter1, self.adapter2, self.adapter3 = (_conv(before, after, 1) for before, after in coarsest_first)

    def forward(
        self, features: Tensor, high_res_features: Sequence[Tensor], images: Tensor, attention: Tensor
    ) -> Tensor:
        """Predict the masks of P pairs; the share of the image alone is computed once per image.

        Args:
            features: the projected coarsest map, as the encoder gets it, [B, D, h, w].
            high_res_features: high-resolution maps of the backbone, [B, C, h', w'] each, finest first.
            images: index of the image of each pair, int64 [P].
            attention: attention logits of each pair, [P, H, h, w].

        Returns:
            Logits [P, h', w'] at the size of the finest map.
        """
        # softmax over heads and cells together, as in the reference DETR
        weights = attention.flatten(1).softmax(-1).view_as(attention).to(features.dtype)  # [P, H, h, w]
        dim = features.shape[1]
        # lay1 of [features, weights] side by side is the sum of both halves, so the first runs once per image
        of_image = F.conv2d(features, self.lay1.weight[:, :dim], self.lay1.bias, padding=1)  # [B, D + H, h, w]
        of_query = F.conv2d(weights, self.lay1.weight[:, dim:], padding=1)  # [P, D + H, h, w]
        x = of_image.index_select(0, images) + of_query
        x = self.lay2(self.gn1(x).relu())  # [P, D / 2, h, w]
        for finer, adapter, norm, conv in zip(
            reversed(high_res_features),
            (self.adapter1, self.adapter2, self.adapter3),
            (self.gn2, self.gn3, self.gn4),
            (self.lay3, self.lay4, self.lay5),
            strict=True,
        ):
            x = F.interpolate(norm(x).relu(), size=finer.shape[-2:])  # nearest, to the next finer map
            x = conv(x + adapter(finer).index_select(0, images))  # half the channels
        return self.out_lay(self.gn5(x).relu())[:, 0]


def _conv(channels: int, out: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm with the 8 groups of the reference DETR, or as many of these as divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def add_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """State-dict hook: prefix everything but the mask head with `detr.`, as in the files of the reference DETR."""
    for key in list(state_dict):
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not name.startswith(MASK_PARTS):
            name = f"detr.{name}"
        if key.startswith(prefix):  # taken out and put in even where the name stays, which keeps the order
            state_dict[prefix + name] = state_dict.pop(key)


def remove_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Hook before loading: the inverse of `add_prefix`; names without the prefix are accepted too."""
    for key in list(state_dict):
        if key.startswith(f"{prefix}detr."):
            state_dict[prefix + key.removeprefix(f"{prefix}detr.")] = state_dict.pop(key)
