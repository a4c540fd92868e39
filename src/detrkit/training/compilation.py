"""`--compile`: the parts of a model that see images, compiled, and batches of few shapes for them.

A graph is compiled anew for every shape that it meets. So batches are padded up to multiples of `SIDE`, which leaves so
few that each is met again soon. Padding is what batches have anyway: an image gives what it gives beside a larger one.
Images resized to squares have few shapes by themselves, and are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.models import DetectionModel

SIDE = 128
"""Pixels. Images of at most 1333 x 1333 come in at most 11 x 11 shapes, those of one aspect in about 7."""


def compile_parts(model: DetectionModel, backend: str = "inductor") -> None:
    """Compile the parts of a model that see images alone, in place; keys stay what they are.

    Nothing is compiled before the first step.

    Args:
        model: any.
        backend: of `torch.compile`.
    """
    # one graph a shape, in training and evaluation; beyond this many, parts would silently go on uncompiled
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    for part in model.compiled_parts:
        part.compile(backend=backend)


def fill_up(images: Tensor, padding_mask: Tensor, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] and their padding bool [B, H, W], padded at the right and bottom to multiples of `side`."""
    height, width = padding_mask.shape[1:]
    missing = (0, -width % side, 0, -height % side)
    return F.pad(images, missing), F.pad(padding_mask, missing, value=True)
