"""Models: images to `Output`. `build_model` is the door; each noun of the paper has the file of its name."""

from __future__ import annotations

from detrkit.models.backbone import Backbone, resnet
from detrkit.models.detr import DETR
from detrkit.models.position import build_position
from detrkit.models.transformer import Transformer

__all__ = ["DETR", "build_model"]


def build_model(
    num_classes: int = 91,
    backbone: str = "resnet50",
    dilation: bool = False,
    position_embedding: str = "sine",
    hidden_dim: int = 256,
    enc_layers: int = 6,
    dec_layers: int = 6,
    dim_feedforward: int = 2048,
    dropout: float = 0.1,
    nheads: int = 8,
    num_queries: int = 100,
    pre_norm: bool = False,
    aux_loss: bool = True,
    masks: bool = False,
    backbone_norm: str = "frozen",
    *,
    activation: str = "relu",
    backbone_weights: str | None = None,
) -> DETR:
    """A DETR with the original's names and defaults."""
    return DETR(
        Backbone(resnet(backbone, backbone_norm, dilation), build_position(position_embedding, hidden_dim)),
        Transformer(hidden_dim, nheads, enc_layers, dec_layers, dim_feedforward, dropout, activation, pre_norm),
        dim=hidden_dim,
        num_classes=num_classes,
        num_queries=num_queries,
        aux_loss=aux_loss,
    )
