"""The mask head of the classic model (Carion et al. 2020, section 4.4 and figure 8; appendix A.3, "Panoptic
segmentation"): where each query looks in the encoder's memory, made finer by convolutions in the manner of a feature
pyramid (Lin et al. 2017, "Feature Pyramid Networks for Object Detection").

A mask is made for one query alone: nothing in it, its norms included, sees another query. So masks of chosen queries
are the same as those among the masks of all, and no more are made than somebody asks for.

Shapes: B batch, Q queries, D channels, h x w places of the coarsest map, N chosen pairs of an image and a query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.attention import keys_to_keep


class AttentionMap(nn.Module):
    """Where each query looks: attention weights without values, under the original's keys.

    The softmax over heads and places together that makes weights of them is left to `MaskHead`, which takes it for the
    chosen queries alone.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear, self.k_linear = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, objects: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """The logits of the weights, for all queries; -inf at padded places.

        Args:
            objects: of the last decoder layer, [B, Q, D].
            memory: the encoder's, [B, D, h, w].
            padding: bool [B, h, w], True = padding.

        Returns:
            float32 [B, Q, heads, h, w].
        """
        shape = memory.shape[2:]
        q = self.q_linear(objects).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, Q, D/heads]
        k = self.k_linear(memory.flatten(2).transpose(1, 2)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        logits = _exact(q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2))
        keep = keys_to_keep(padding.flatten(1))
        return logits.masked_fill(~keep, -math.inf).transpose(1, 2).reshape(*objects.shape[:2], self.heads, *shape)


class MaskHead(nn.Module):
    """Attention maps and the image to masks at stride 4, under the original's keys."""

    def __init__(self, dim: int, heads: int, channels: Sequence[int]) -> None:
        """Prepare.

        Args:
            dim: D.
            heads: of the attention maps.
            channels: of the three high-resolution maps of the backbone, finest first.
        """
        super().__init__()
        half, quarter, eighth, sixteenth = (max(1, dim // k) for k in (2, 4, 8, 16))
        self.lay1, self.gn1 = _conv(dim + heads, dim + heads, 3), _norm(dim + heads)
        self.lay2, self.gn2 = _conv(dim + heads, half, 3), _norm(half)
        self.lay3, self.gn3 = _conv(half, quarter, 3), _norm(quarter)
        self.lay4, self.gn4 = _conv(quarter, eighth, 3), _norm(eighth)
        self.lay5, self.gn5 = _conv(eighth, sixteenth, 3), _norm(sixteenth)
        self.out_lay = _conv(sixteenth, 1, 3)
        self.adapter1, self.adapter2, self.adapter3 = (
            _conv(before, after, 1) for before, after in zip(reversed(channels), (half, quarter, eighth), strict=True)
        )

    def forward(
        self, projected: Tensor, high_res_features: Sequence[Tensor], images: Tensor, attention: Tensor
    ) -> Tensor:
        """Masks of N pairs. What is of the image alone is computed once per image.

        Args:
            projected: the coarsest map as the encoder gets it, [B, D, h, w].
            high_res_features: the backbone's maps at high resolution, [B, C, h, w], finest first.
            images: which image of the batch, int64 [N].
            attention: logits of where the query looks, [N, heads, h, w].

        Returns:
            Logits [N, h, w] at the size of the finest map.
        """
        # over heads and places together, as the original
        weights = attention.flatten(1).softmax(-1).view_as(attention).to(projected.dtype)
        dim = projected.shape[1]
        lay1 = self.lay1
        image = F.conv2d(projected, lay1.weight[:, :dim], lay1.bias, padding=1)
        x = image.index_select(0, images) + F.conv2d(weights, lay1.weight[:, dim:], padding=1)
        x = self.lay2(self.gn1(x).relu())
        for features, adapter, norm, conv in zip(
            reversed(high_res_features),
            (self.adapter1, self.adapter2, self.adapter3),
            (self.gn2, self.gn3, self.gn4),
            (self.lay3, self.lay4, self.lay5),
            strict=True,
        ):
            wide = F.interpolate(norm(x).relu(), size=features.shape[-2:])
            x = conv(wide + adapter(features).index_select(0, images))
        logits: Tensor = self.out_lay(self.gn5(x).relu())
        return logits[:, 0]


def _conv(channels: int, out: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _norm(channels: int) -> nn.GroupNorm:
    """With the 8 groups of the original, or as many of these as divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Segmenter:
    """Masks of chosen queries: (images [N], queries [N]) -> logits [N, h, w]; see `structures.MaskPredictor`.

    Asked at any later time, it computes in the precision that the model ran in.
    """

    def __init__(self, make: Callable[[Tensor, Tensor], Tensor], size: tuple[int, int], device: str) -> None:
        """Prepare, under the autocast of the model.

        Args:
            make: (images [N], queries [N]) -> logits [N, h, w], or larger, of a backbone that pads images.
            size: (H, W) of the batch in pixels; h and w are a quarter, rounded up.
            device: type of the device that the model runs on.
        """
        self.make, self.shape = make, ((size[0] + 3) // 4, (size[1] + 3) // 4)
        self.device = device
        self.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        """Which image of the batch, int64 [N], and which query of it, int64 [N] -> mask logits, float32 [N, h, w]."""
        with torch.autocast(self.device, self.precision, enabled=self.precision is not None):
            masks = self.make(images, queries)[:, : self.shape[0], : self.shape[1]]
        return _exact(masks)


def _exact(x: Tensor) -> Tensor:
    """In float32 where it was less exact."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def all_queries(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs (image, query) of all boxes [B, Q, 4], int64 [B * Q] each."""
    batch, count = boxes.shape[:2]
    images = torch.arange(batch, device=boxes.device)[:, None].expand(-1, count)
    queries = torch.arange(count, device=boxes.device).expand(batch, -1)
    return images.reshape(-1), queries.reshape(-1)


def add_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """State-dict hook: everything but the mask head is called `detr.`, as in the original's files."""
    for key in list(state_dict):
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not name.startswith(MASK_PARTS):
            name = f"detr.{name}"
        if key.startswith(prefix):  # taken out and put in even where the name stays, which keeps the order
            state_dict[prefix + name] = state_dict.pop(key)


def remove_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Hook before loading: the inverse of `add_prefix`; names without the prefix are fine too."""
    for key in list(state_dict):
        if key.startswith(f"{prefix}detr."):
            state_dict[prefix + key.removeprefix(f"{prefix}detr.")] = state_dict.pop(key)


MASK_PARTS = ("bbox_attention", "mask_head")
