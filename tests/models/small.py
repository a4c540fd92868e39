"""A model, images and targets small enough for every test."""

from collections.abc import Sequence
from typing import Any

import torch

from detrkit import build_model
from detrkit.models import DETR

SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "hidden_dim": 32,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 48,
    "num_queries": 6,
    "dropout": 0.0,
}


def small_model(num_classes: int = 4, **settings: Any) -> DETR:
    torch.manual_seed(0)
    return build_model(num_classes, **{**SMALL, **settings})


def some_images(*sizes: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images of these (h, w), padded to one batch."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    images = torch.zeros(len(sizes), 3, height, width)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        padding[i, :h, :w] = False
    return images, padding


def some_targets(
    *counts: int, num_classes: int = 4, seed: int = 0, mask_sizes: Sequence[tuple[int, int]] = ()
) -> list[dict[str, torch.Tensor]]:
    """Random objects inside their images, `counts[i]` in image i; with `mask_sizes`, with the ellipses in their
    boxes as masks of these (h, w)."""
    generator = torch.Generator().manual_seed(seed)
    targets = [
        {
            "labels": torch.randint(0, num_classes, (n,), generator=generator),
            "boxes": torch.cat(
                [0.3 + 0.4 * torch.rand(n, 2, generator=generator), 0.1 + 0.4 * torch.rand(n, 2, generator=generator)],
                1,
            ),
        }
        for n in counts
    ]
    for target, (h, w) in zip(targets, mask_sizes, strict=bool(mask_sizes)):
        cx, cy, width, height = target["boxes"].T[..., None, None]
        y, x = (torch.arange(h)[:, None] + 0.5) / h, (torch.arange(w) + 0.5) / w
        target["masks"] = ((x - cx) / width) ** 2 + ((y - cy) / height) ** 2 <= 0.25
    return targets
