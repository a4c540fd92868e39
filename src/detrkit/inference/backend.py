"""What runs inside a `Detector`: images of one padded batch in, `Output` out.

A detector prepares images before and makes detections after. Between the two is a `Backend`: a model in PyTorch, as
it is or made fast, or a file that was exported.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from detrkit.models import DETR
from detrkit.structures import Output


class Backend(Protocol):
    """The part of a detector that an exported file can be, instead of a model."""

    device: torch.device
    """Where outputs are; those of exported files are on the CPU."""
    sigmoid: bool
    """See `Output.sigmoid`."""
    makes_masks: bool
    """Whether outputs have `masks` or `predict_masks`."""
    num_queries: int
    """Q, the most objects that can be found in one image."""

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Predict a batch; called without gradients.

        Args:
            images: [B, 3, H, W] on any device, uint8 RGB pixels, or float32 that is normalised already; 0 where padded.
            padding_mask: bool [B, H, W], True = padding.

        Returns:
            On `device`, float32, without `aux`; masks as `masks` or, better, as `predict_masks`.
        """
        ...


class PlainBackend:
    """A model as it is: float32, the same operations as in training."""

    def __init__(self, model: DETR, device: torch.device | str = "cpu") -> None:
        """Take over a model: it is moved to `device` and put into evaluation mode."""
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.sigmoid, self.num_queries = model.sigmoid, model.num_queries
        self.makes_masks = model.mask_head is not None

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """See `Backend.forward_detection`."""
        return self.model.forward_detection(images.to(self.device), padding_mask.to(self.device))
