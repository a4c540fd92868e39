"""Compile the parts of a model that process images (`--compile`), and pad batches to few shapes.

A graph is compiled for each shape of its input. So batches are padded to multiples of `SIDE`, which leaves few shapes.
Padding an image gives the same result as batching it with a larger one. Images resized to squares have few shapes
already, and are not padded.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.models import DetectionModel

SIDE = 128
"""Sides of batches are padded to multiples of this, in pixels. Images of at most 1333 x 1333 then have at most 11 x 11
shapes, those of one aspect ratio about 7."""


def compile_parts(model: DetectionModel, backend: str = "inductor") -> None:
    """Compile the parts of a model that process images, in place; the keys of the state dict stay the same.

    Compilation happens in the first steps.

    Args:
        model: detector to compile.
        backend: backend of `torch.compile`.
    """
    # one graph per shape, in training and evaluation; beyond this limit, parts would silently run uncompiled
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    for part in model.compiled_parts:
        part.compile(backend=backend)


def fill_up(images: Tensor, padding_mask: Tensor, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Pad images [B, 3, H, W] and their padding mask bool [B, H, W] at the right and bottom to multiples of `side`."""
    height, width = padding_mask.shape[1:]
    missing = (0, -width % side, 0, -height % side)
    return F.pad(images, missing), F.pad(padding_mask, missing, value=True)
