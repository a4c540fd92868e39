"""Backends of a `Detector`: a padded batch of images in, `Output` out.

A detector prepares images before the backend and makes detections after it. The backend is a PyTorch model, plain or
optimized, or an exported file.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from detrkit.errors import ConfigError
from detrkit.models import DetectionModel
from detrkit.structures import Output


class Backend(Protocol):
    """Anything that makes an `Output` of a batch: a plain model, an optimized one or an exported file."""

    device: torch.device
    """The device of outputs; those of exported files are on the CPU."""
    sigmoid: bool
    """See `Output.sigmoid`."""
    makes_masks: bool
    """Whether outputs have `masks` or `predict_masks`."""
    num_queries: int
    """Q, the number of object queries, which is the most objects that can be detected in one image."""

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Predict a batch; called without gradients.

        Args:
            images: [B, 3, H, W] on any device, uint8 RGB pixels, or normalized float32; 0 where padded.
            padding_mask: bool [B, H, W], True = padding.

        Returns:
            On `device`, float32, without `aux`; masks as `masks` or, better, as `predict_masks`.
        """
        ...


class PlainBackend:
    """A plain model: float32, the same operations as in training.

    Args:
        model: is moved to `device` and put into evaluation mode.
        device: where the model runs.
    """

    def __init__(self, model: DetectionModel, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.sigmoid, self.num_queries = model.sigmoid, model.num_queries
        self.makes_masks = model.makes_masks

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Predict a batch, see `Backend.forward_detection`."""
        return self.model.forward_detection(images.to(self.device), padding_mask.to(self.device))


def torch_model(backend: Backend) -> DetectionModel:
    """The PyTorch model of a backend.

    Raises:
        ConfigError: the backend is an exported file, which has no modules.
    """
    model = getattr(backend, "model", None)
    if not isinstance(model, DetectionModel):
        raise ConfigError(
            "expected a detector whose model runs in PyTorch, found that of an exported file; load the checkpoint "
            "that it was exported from"
        )
    return model
