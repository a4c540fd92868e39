"""DETR: backbone, transformer and heads put together (Carion et al. 2020, "End-to-End Object Detection with
Transformers", figure 2).

Shapes: B images a batch, H x W pixels, Q queries, C classes, D channels of the transformer.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from detrkit.models.backbone import Backbone
from detrkit.models.heads import MLP
from detrkit.models.mapper import LastLevel
from detrkit.models.transformer import Transformer
from detrkit.structures import Output


class DETR(nn.Module):
    """Images in, a set of objects out. Its state-dict keys are those of the original's checkpoints."""

    def __init__(
        self,
        backbone: Backbone,
        transformer: Transformer,
        *,
        dim: int,
        num_classes: int,
        num_queries: int,
        aux_loss: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.class_embed = nn.Linear(dim, num_classes + 1)  # the last one is "no object"
        self.bbox_embed = MLP(dim, dim, 4, num_layers=3)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.input_proj = LastLevel(backbone.channels[-1], dim)
        self.backbone = backbone
        self.aux_loss = aux_loss

    def forward(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Normalised images [B, 3, H, W] and their padding [B, H, W] (bool, True = padding) -> Output."""
        maps = self.input_proj(self.backbone(images))
        level = self.backbone.place(maps, padding_mask)[0]
        objects = self.transformer(level.features, level.padding, self.query_embed.weight, level.position)
        if not self.aux_loss:
            objects = objects[-1:]  # [layers, B, Q, D]
        logits, boxes = self.class_embed(objects), self.bbox_embed(objects).sigmoid()
        *earlier, last = [Output(*layer) for layer in zip(logits, boxes, strict=True)]
        return replace(last, aux=earlier)

    @property
    def input_mean(self) -> tuple[float, float, float]:
        """Mean of each colour channel (RGB, in 0..1) to subtract from an image."""
        return self.backbone.input_mean

    @property
    def input_std(self) -> tuple[float, float, float]:
        """Standard deviation of each colour channel (RGB, in 0..1) to divide by afterwards."""
        return self.backbone.input_std

    @property
    def stride(self) -> int:
        """Pixels of the image, in each direction, that one feature stands for."""
        return self.backbone.stride
