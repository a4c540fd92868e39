"""Models: images to `Output`. `build_model` is the door; each noun of the paper has the file of its name."""

from __future__ import annotations

from detrkit.errors import ConfigError
from detrkit.models.backbone import Backbone, build_features
from detrkit.models.detr import DETR
from detrkit.models.features import NORMS
from detrkit.models.position import build_position
from detrkit.models.transformer import ACTIVATIONS, Transformer

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
    """A DETR with the original's names and defaults, and random weights.

    Args:
        num_classes: C; the model has one class more, the last, for "no object".
        backbone: resnet18, resnet34, resnet50, resnet101, resnet152, or timm:NAME (with the timm extra).
        dilation: the last stage of the backbone dilated instead of strided (DC5).
        position_embedding: sine or learned.
        hidden_dim: channels D of the transformer, a multiple of `nheads`.
        enc_layers: encoder layers.
        dec_layers: decoder layers, at least 1.
        dim_feedforward: width of the feed-forward blocks.
        dropout: in the transformer, in 0..1.
        nheads: attention heads.
        num_queries: Q, the most objects that can be found in one picture.
        pre_norm: norms before the blocks instead of after.
        aux_loss: whether the output has the earlier decoder layers, as `aux`.
        masks: a segmentation head; not available yet.
        backbone_norm: frozen (batch norm with fixed statistics, stem and layer1 without gradient, as the original),
            batch or group (nothing is frozen). Frozen statistics that were never measured cannot learn: without
            `backbone_weights` or a checkpoint to come, train with one of the others.
        activation: relu, gelu or glu, of the feed-forward blocks.
        backbone_weights: None or "none" for random ones, "imagenet" for the published ones (may download), or a file.

    Raises:
        ConfigError: a setting does not exist or does not fit the others.
        WeightsError: the backbone's weights cannot be had or do not fit.
        MissingExtraError: a timm backbone without timm.
    """
    for fine, expected in (
        (num_classes >= 1, f"num_classes of at least 1, found {num_classes}"),
        (num_queries >= 1, f"num_queries of at least 1, found {num_queries}"),
        (enc_layers >= 0, f"enc_layers of at least 0, found {enc_layers}"),
        (dec_layers >= 1, f"dec_layers of at least 1, found {dec_layers}"),
        (dim_feedforward >= 1, f"dim_feedforward of at least 1, found {dim_feedforward}"),
        (0 <= dropout <= 1, f"dropout in 0..1, found {dropout}"),
        (nheads >= 1, f"nheads of at least 1, found {nheads}"),
        (
            nheads >= 1 and hidden_dim >= 4 and hidden_dim % nheads == 0 and hidden_dim % 4 == 0,
            f"hidden_dim to be a multiple of 4 (for the position encoding) and of nheads={nheads}, found {hidden_dim}",
        ),
        (
            position_embedding in ("sine", "learned"),
            f"position_embedding sine or learned, found {position_embedding!r}",
        ),
        (activation in ACTIVATIONS, f"activation {', '.join(ACTIVATIONS)}, found {activation!r}"),
        (backbone_norm in NORMS, f"backbone_norm {', '.join(NORMS)}, found {backbone_norm!r}"),
        (not masks, "masks=False, found True: the segmentation head is not available yet; leave --masks out"),
    ):
        if not fine:
            raise ConfigError(f"expected {expected}")
    return DETR(
        Backbone(
            build_features(backbone, backbone_norm, dilation, backbone_weights),
            build_position(position_embedding, hidden_dim),
        ),
        Transformer(hidden_dim, nheads, enc_layers, dec_layers, dim_feedforward, dropout, activation, pre_norm),
        dim=hidden_dim,
        num_classes=num_classes,
        num_queries=num_queries,
        aux_loss=aux_loss,
    )
