"""From settings to a detector: one builder per part.

Modules draw their random weights when they are made, so the order of the builders is part of what a seed means.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from detrkit.config.model import ModelConfig
from detrkit.config.options import config_from_options
from detrkit.errors import ConfigError
from detrkit.models.backbones.base import Backbone, Features
from detrkit.models.backbones.families import build_features
from detrkit.models.decoder import Decoder, DecoderLayer
from detrkit.models.denoising import Denoising
from detrkit.models.dense_head import PRIOR, DenseHead
from detrkit.models.detection_model import Color
from detrkit.models.detr import DETR, QuerySource
from detrkit.models.dynamic_mask_head import DynamicMaskHead
from detrkit.models.encoder import Encoder, EncoderLayer
from detrkit.models.hybrid_encoder import HybridEncoder
from detrkit.models.layers.attention import MultiheadAttention
from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.input_proj import ChannelMapper, SingleLevelProj
from detrkit.models.layers.mlp import MLP
from detrkit.models.layers.position_encoding import build_position
from detrkit.models.mask_head import AttentionMap, MaskHead
from detrkit.models.queries import (
    AnchorQueries,
    LearnedQueries,
    PlainBoxPosition,
    PointQueries,
    QueryLayout,
    SineBoxPosition,
)
from detrkit.models.transformer import Transformer
from detrkit.models.two_stage import SelectedQueries

_COARSEST = 32
"""Stride of the backbone's last feature map, without dilation."""


def build_model(
    num_classes: int = 91,
    *,
    backbone_weights: str | None = None,
    image_mean: Color | None = None,
    image_std: Color | None = None,
    **settings: Any,
) -> DETR:
    """A DETR with random weights. By default it is the reference DETR, under its names and values.

        model = build_model(num_classes=91, backbone="resnet101", dilation=True)

    Args:
        num_classes: C.
        backbone_weights: None or "none" for random weights, "imagenet" for the published ones (may download), or the
            path of a file. Statistics of `backbone_norm="frozen"` (the default) that were never measured cannot be
            trained: without weights, or a checkpoint to come, train with "batch" or "group".
        image_mean: mean of each color channel (RGB in 0..1) by which pixels are normalized; None: the backbone's.
        image_std: standard deviation, likewise.
        settings: fields of `ModelConfig`, which lists them with their ranges.

    Raises:
        ConfigError: a setting does not exist, is out of its range or does not fit the others.
        WeightsError: the backbone's weights cannot be loaded or do not fit.
        MissingExtraError: a timm backbone without timm.
    """
    config = config_from_options(ModelConfig, num_classes=num_classes, **settings)
    if config.num_queries == "auto":
        raise ConfigError("num_queries must be a whole number, found 'auto', which works in training only")
    if config.backbone_norm == "auto":
        config = replace(config, backbone_norm="frozen")
    model = _build(config, backbone_weights, image_mean, image_std)
    model.model_args = asdict(config)
    return model


def default_model_args() -> dict[str, Any]:
    """The keywords of `build_model` with their defaults, in the form of `DETR.model_args`."""
    return asdict(ModelConfig(backbone_norm="frozen"))


def _build(config: ModelConfig, backbone_weights: str | None, mean: Color | None, std: Color | None) -> DETR:
    """Build the parts in a fixed order, on which the meaning of a seed depends, and put them together."""
    levels = _parse_levels(config)
    features = build_features(
        config.backbone, config.backbone_norm, config.dilation, backbone_weights, levels.strides, levels.mask_strides
    )
    features.mean, features.std = mean or features.mean, std or features.std
    input_proj = _build_input_proj(config, levels, features)
    transformer = Transformer(_build_encoder(config, levels), _build_decoder(config, levels))
    query_embed = _build_queries(config)
    class_embed, bbox_embed = _build_heads(config)
    mask_head = _build_mask_head(config, levels, features)
    return DETR(
        Backbone(
            features, build_position(config.position_embedding, config.hidden_dim, centered=levels.uses_feature_levels)
        ),
        input_proj,
        transformer,
        query_embed,
        class_embed,
        bbox_embed,
        sigmoid=config.sigmoid,
        aux_loss=config.aux_loss,
        dense_head=_build_dense_head(config, levels),
        denoising=_build_denoising(config),
        k_one2many=config.k_one2many,
        bbox_attention=AttentionMap(config.hidden_dim, config.nheads) if isinstance(mask_head, MaskHead) else None,
        mask_head=mask_head,
    )


@dataclass(frozen=True)
class _Levels:
    """The feature levels of a model."""

    strides: tuple[int, ...]
    """Strides of the maps that the backbone returns; empty: the last map alone, as in the reference DETR."""
    extra: int
    """Number of levels beyond the backbone's last stride, made by strided convolutions."""
    mask_strides: tuple[int, ...]
    """Strides of the finer maps that the backbone returns for the mask head alone."""

    @property
    def uses_feature_levels(self) -> bool:
        """Whether `feature_levels` is set."""
        return bool(self.strides)

    @property
    def count(self) -> int:
        """Number L of levels."""
        return max(1, len(self.strides) + self.extra)


def _parse_levels(config: ModelConfig) -> _Levels:
    """Divide the strides of `feature_levels`: those of the backbone, and levels beyond its last stride."""
    from_backbone = tuple(stride for stride in config.strides if stride <= _COARSEST)
    finest = from_backbone[0] if from_backbone else _COARSEST
    mask_strides = tuple(stride for stride in (4, 8, 16) if stride < finest) if config.masks else ()
    return _Levels(from_backbone, len(config.strides) - len(from_backbone), mask_strides)


def _build_input_proj(config: ModelConfig, levels: _Levels, features: Features) -> SingleLevelProj | ChannelMapper:
    """The projection of each feature map to D channels."""
    if not levels.uses_feature_levels:
        return SingleLevelProj(features.channels[-1], config.hidden_dim)
    norm = "batch" if config.encoder == "hybrid" else "group"
    return ChannelMapper(features.channels[len(levels.mask_strides) :], config.hidden_dim, levels.extra, norm)


def _build_encoder(config: ModelConfig, levels: _Levels) -> Encoder | HybridEncoder:
    if config.encoder == "hybrid":
        return HybridEncoder(
            config.hidden_dim,
            config.nheads,
            levels.count,
            config.dim_feedforward,
            config.dropout,
            enc_layers=config.enc_layers,
            expansion=config.encoder_expansion,
            blocks=config.encoder_blocks,
            separable=config.separable_convs,
        )

    def self_attention() -> MultiheadAttention | DeformableAttention:
        if config.encoder == "deformable":
            return DeformableAttention(config.hidden_dim, config.nheads, levels.count, config.num_points)
        return MultiheadAttention(config.hidden_dim, config.nheads, config.dropout)

    return Encoder(
        [EncoderLayer(self_attention(), *_block(config)) for _ in range(config.enc_layers)],
        nn.LayerNorm(config.hidden_dim) if config.pre_norm else None,
        torch.randn(levels.count, config.hidden_dim) if levels.uses_feature_levels and config.reads_positions else None,
    )


def _build_decoder(config: ModelConfig, levels: _Levels) -> Decoder:
    dim, heads, dropout = config.hidden_dim, config.nheads, config.dropout

    def cross_attention() -> MultiheadAttention | ConditionalAttention | DeformableAttention:
        if config.decoder == "deformable":
            return DeformableAttention(dim, heads, levels.count, config.num_points)
        kind = ConditionalAttention if config.decoder == "conditional" else MultiheadAttention
        return kind(dim, heads, dropout)

    # Deformable DETR and RT-DETR have no norm between a post-norm decoder and its heads, the reference DETR has one.
    last_norm = nn.LayerNorm(dim) if config.pre_norm or config.decoder != "deformable" else None
    position = {"topk_features": PlainBoxPosition, "mixed_selection": SineBoxPosition, "anchors": SineBoxPosition}.get(
        config.query_init
    )
    return Decoder(
        [
            DecoderLayer(MultiheadAttention(dim, heads, dropout), cross_attention(), *_block(config))
            for _ in range(config.dec_layers)
        ],
        last_norm,
        position(dim) if position else None,
        box_refine=config.box_refine,
        look_forward_twice=config.look_forward_twice,
        score_refine=config.score_refine,
    )


def _block(config: ModelConfig) -> tuple[int, int, float, str, bool]:
    """The arguments that encoder and decoder layers share."""
    return config.hidden_dim, config.dim_feedforward, config.dropout, config.activation, config.pre_norm


def _build_queries(config: ModelConfig) -> QuerySource:
    assert config.num_queries != "auto"
    layout = QueryLayout(config.num_queries, config.query_groups, config.num_queries_one2many)
    if config.selects_queries:
        return SelectedQueries(
            layout,
            config.hidden_dim,
            _class_rows(config),
            config.query_init,
            sigmoid=config.sigmoid,
            own_head=config.two_stage_head == "encoder",
            query_nms_iou=config.query_nms_iou,
            class_agnostic=config.class_agnostic,
        )
    if config.query_init == "anchors":
        return AnchorQueries(layout, config.hidden_dim)
    if config.decoder == "deformable":
        return PointQueries(layout, config.hidden_dim)
    return LearnedQueries(layout, config.hidden_dim)


def _class_rows(config: ModelConfig) -> int:
    """Number of class logits: C, and one for "no object" under a softmax."""
    return config.num_classes + (not config.sigmoid)


def _build_heads(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """The class and box heads: one of each shared by all decoder layers, or one per layer where layers refine.

    A head that predicts a change, of a box or of a score, starts at zero: no change.
    """
    dim, has_boxes = config.hidden_dim, config.query_init != "learned"

    def class_head(layer: int) -> nn.Linear:
        head = nn.Linear(dim, _class_rows(config))
        if config.score_refine:
            nn.init.zeros_(head.weight)
        if config.sigmoid:
            refines = config.score_refine and (config.selects_queries or layer > 0)
            nn.init.constant_(head.bias, 0.0 if refines else PRIOR)
        return head

    def box_head(layer: int) -> MLP:
        head = MLP(dim, dim, 4, num_layers=3)
        if has_boxes or (config.box_refine and layer > 0):
            for parameter in head.layers[-1].parameters():
                nn.init.zeros_(parameter)
        return head

    if not (config.box_refine or config.score_refine):
        return class_head(0), box_head(0)
    layers = range(config.dec_layers)
    return nn.ModuleList(map(class_head, layers)), nn.ModuleList(map(box_head, layers))


def _build_mask_head(config: ModelConfig, levels: _Levels, features: Features) -> MaskHead | DynamicMaskHead | None:
    if not config.masks:
        return None
    high_res_channels = features.channels[: len(levels.mask_strides)]
    if levels.uses_feature_levels:
        return DynamicMaskHead(config.hidden_dim, (*high_res_channels, *[config.hidden_dim] * levels.count))
    return MaskHead(config.hidden_dim, config.nheads, high_res_channels)


def _build_dense_head(config: ModelConfig, levels: _Levels) -> DenseHead | None:
    if config.dense_head == "none":
        return None
    return DenseHead(
        config.hidden_dim, config.num_classes, levels.count, config.dense_convs, separable=config.separable_convs
    )


def _build_denoising(config: ModelConfig) -> Denoising | None:
    if config.denoising == "none":
        return None
    return Denoising(
        config.hidden_dim,
        config.num_classes,
        config.dn_queries,
        config.denoising == "contrastive",
        config.dn_label_noise,
        config.dn_box_noise,
    )
