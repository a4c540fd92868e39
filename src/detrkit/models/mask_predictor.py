"""Masks of chosen queries, predicted after the forward pass.

A mask costs far more than a box. So the model returns a `MaskPredictor`, and whoever knows which queries matter (the
criterion after matching, post-processing after the score threshold) calls it for these alone.

Shapes: B batch, Q queries, D channels, P pairs of an image and a query, h x w pixels of a mask, at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.models.dynamic_mask_head import DynamicMaskHead, PixelFeatures
from detrkit.models.mask_head import MaskHead


@dataclass(frozen=True, eq=False)  # compared by identity: it holds tensors
class MaskPredictor:
    """A mask head with its inputs of one batch; the two subclasses have those of the two kinds of head."""

    image_size: tuple[int, int]
    """(H, W) of the padded batch in pixels; masks have a quarter of it, rounded up."""
    device_type: str
    """Type of the device that the model ran on."""
    autocast_dtype: torch.dtype | None
    """Autocast precision that the model ran in, in which masks are computed too; None: without autocast."""

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        """Image indices int64 [P] and query indices int64 [P] -> mask logits, at least float32 [P, h, w]."""
        with torch.autocast(self.device_type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            logits = self.predict(images, queries)
        height, width = ((side + 3) // 4 for side in self.image_size)
        logits = logits[:, :height, :width]  # a backbone that pads images gives larger maps
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def predict(self, images: Tensor, queries: Tensor) -> Tensor:
        """As a call, in the current precision and possibly larger."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)  # compared by identity: it holds tensors
class AttentionMaskPredictor(MaskPredictor):
    """The classic head: a mask from the attention map of a query and the feature maps of its image."""

    head: MaskHead
    features: Tensor
    """float [B, D, h_c, w_c], the projected coarsest map, as the encoder gets it."""
    high_res_features: Sequence[Tensor]
    """float [B, C, h, w] each, maps of the backbone at strides 4, 8 and 16 (16 also for DC5), finest first."""
    attention: Tensor
    """float32 [B, Q, heads, h_c, w_c], attention logits of the queries; see `AttentionMap`."""

    def predict(self, images: Tensor, queries: Tensor) -> Tensor:
        """See `MaskPredictor`."""
        return self.head(self.features, self.high_res_features, images, self.attention[images, queries])


@dataclass(frozen=True, eq=False)  # compared by identity: it holds tensors
class DynamicMaskPredictor(MaskPredictor):
    """The dynamic head: each query makes a small network, which runs over features that all queries share."""

    head: DynamicMaskHead
    features: PixelFeatures
    hs: Tensor
    """float [B, Q, D], hidden states of the last decoder layer."""
    boxes: Tensor
    """float [B, Q, 4], boxes of the last decoder layer: cx, cy, w, h in 0..1."""

    def predict(self, images: Tensor, queries: Tensor) -> Tensor:
        """See `MaskPredictor`."""
        return self.head(self.features, images, self.hs[images, queries], self.boxes[images, queries])


def all_queries(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (image, query) of all boxes [B, Q, 4], int64 [B * Q] each, to be given to a `MaskPredictor`."""
    batch, count = boxes.shape[:2]
    images = torch.arange(batch, device=boxes.device)[:, None].expand(-1, count)
    queries = torch.arange(count, device=boxes.device).expand(batch, -1)
    return images.reshape(-1), queries.reshape(-1)
