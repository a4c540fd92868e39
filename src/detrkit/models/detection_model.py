"""The interface of every detector: the parts of training, inference and export that hold for any architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from detrkit.models.frozen import frozen_parts
from detrkit.models.mask_predictor import all_queries
from detrkit.structures import Output, Target

Color = tuple[float, float, float]
"""A value for each channel: red, green, blue."""


def normalize(images: Tensor, padding_mask: Tensor, mean: Color, std: Color) -> Tensor:
    """Normalize pixels, see `DetectionModel.normalize`."""
    return images if images.dtype != torch.uint8 else normalize_pixels(images, padding_mask, mean, std)


def normalize_pixels(images: Tensor, padding_mask: Tensor, mean: Color, std: Color) -> Tensor:
    """Normalize pixels of 0..255, of any type, [B, 3, H, W] -> float32, 0 in the padding [B, H, W]."""
    means, deviations = (
        torch.tensor(values).mul_(255).view(3, 1, 1).to(images.device, non_blocking=True) for values in (mean, std)
    )  # [3, 1, 1] each, in 0..255
    return ((images.float() - means) / deviations).masked_fill(padding_mask[:, None], 0.0)


class DetectionModel(nn.Module, ABC):
    """Images to a set of objects, by any architecture: `DETR`, or a model of another library behind an adapter."""

    sigmoid: bool
    """Whether classes are independent sigmoids, without "no object"; see `Output.sigmoid`."""
    model_args: dict[str, Any]
    """Plain data from which `Weights.build_model` rebuilds the model; empty if its parts were put together by hand."""
    backbone_prefix = "backbone.0."
    """Prefix of the names of the feature extractor's parameters."""
    exports_any_size = True
    """Whether one graph serves images of any size; else a graph is for a single size."""
    has_idle_parts = False
    """Whether some trainable parameters may be without a gradient in some steps."""

    def forward(self, images: Tensor, padding_mask: Tensor, targets: Sequence[Target] | None = None) -> Output:
        """Detect the objects of images [B, 3, H, W] with padding [B, H, W] (bool, True = padding).

        Float images are already normalized. uint8 images are RGB pixels, which are normalized on the device of the
        model: the transfer to it is four times smaller. `targets` matter in training alone, for the denoising queries.
        In evaluation the output has the masks of all queries; in training those of matched queries are predicted later.
        """
        out = self.forward_detection(images, padding_mask, targets)
        if self.training or out.predict_masks is None:
            return out
        masks = out.predict_masks(*all_queries(out.boxes))  # [B * Q, H / 4, W / 4]
        return replace(out, masks=masks.view(*out.boxes.shape[:2], *masks.shape[1:]))

    @abstractmethod
    def forward_detection(
        self,
        images: Tensor,
        padding_mask: Tensor,
        targets: Sequence[Target] | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """Detect as `forward` does, but leave the masks to `Output.predict_masks`.

        With `last_only`, in evaluation, `aux` is empty and nothing is computed for it alone.
        """

    def normalize(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """Normalize pixels uint8 [B, 3, H, W] (RGB) by `mean` and `std` -> float32, 0 in the padding.

        Float images are taken to be normalized already, and are returned as they are.
        """
        return normalize(images, padding_mask, self.mean, self.std)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen parts stay in evaluation mode, see `models.frozen`."""
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        return self

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """C, the number of classes."""

    @property
    @abstractmethod
    def num_queries(self) -> int:
        """Q, the largest number of objects that can be detected in one image."""

    @property
    @abstractmethod
    def mean(self) -> Color:
        """Mean of each color channel (RGB in 0..1) by which pixels are normalized."""

    @property
    @abstractmethod
    def std(self) -> Color:
        """Standard deviation of each color channel (RGB in 0..1), likewise."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """A number of pixels such that images with sides of a few times this number suit the model."""

    @property
    @abstractmethod
    def float32_heads(self) -> list[nn.Module]:
        """Parts whose weights stay float32 in half precision."""

    @property
    @abstractmethod
    def compiled_parts(self) -> list[nn.Module]:
        """Parts that `torch.compile` gains on, which depend on images alone."""

    @property
    def makes_masks(self) -> bool:
        """Whether outputs have masks."""
        return False

    @abstractmethod
    def checkpoint_activations(self) -> None:
        """Recompute layers in the backward pass, for less memory."""
