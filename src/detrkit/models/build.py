"""The door to the models: settings in, a DETR of finished parts out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from detrkit.errors import ConfigError
from detrkit.models.backbones.base import NORM_LAYERS
from detrkit.models.backbones.resnet import Backbone, build_features
from detrkit.models.decoder import Decoder, DecoderLayer
from detrkit.models.denoising import Denoising
from detrkit.models.dense_head import PRIOR, DenseHead
from detrkit.models.detr import DETR, QuerySource
from detrkit.models.dynamic_mask_head import DynamicMaskHead
from detrkit.models.encoder import Encoder, EncoderLayer
from detrkit.models.hybrid_encoder import HybridEncoder
from detrkit.models.layers.attention import MultiheadAttention
from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feed_forward import ACTIVATIONS
from detrkit.models.layers.input_proj import ChannelMapper, SingleLevelProj
from detrkit.models.layers.mlp import MLP
from detrkit.models.layers.position_encoding import build_position
from detrkit.models.mask_head import AttentionMap, MaskHead
from detrkit.models.queries import (
    AnchorQueries,
    Counts,
    LearnedQueries,
    PlainBoxPosition,
    PointQueries,
    SineBoxPosition,
)
from detrkit.models.transformer import Transformer
from detrkit.models.two_stage import SelectedQueries

SELECTED = ("two_stage", "topk_features", "mixed_selection")
"""Kinds of queries that come from places of the image."""
_BACKBONE_COARSEST = 32


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
    sigmoid: bool = False,
    feature_levels: str = "",
    encoder: str = "full",
    encoder_expansion: float = 1.0,
    decoder: str = "full",
    num_points: int = 4,
    query_init: str = "learned",
    two_stage_head: str = "encoder",
    class_agnostic: bool = False,
    query_nms_iou: float = 0.0,
    box_refine: bool = False,
    look_forward_twice: bool = False,
    score_refine: bool = False,
    dense_head: str = "none",
    dense_convs: int = 2,
    query_groups: int = 1,
    num_queries_one2many: int = 0,
    k_one2many: int = 6,
    denoising: str = "none",
    dn_queries: int = 100,
    dn_label_noise: float = 0.5,
    dn_box_noise: float = 0.4,
    input_mean: tuple[float, float, float] | None = None,
    input_std: tuple[float, float, float] | None = None,
    square_resize: bool = False,
    backbone_weights: str | None = None,
) -> DETR:
    """A DETR with random weights. By default it is the original's, under the original's names and values.

    Args:
        num_classes: C.
        backbone: resnet18, resnet34, resnet50, resnet101, resnet152, resnet18vd, resnet34vd, resnet50vd, resnet101vd,
            nano, or timm:NAME (with the timm extra).
        dilation: the last stage of the backbone dilated instead of strided (DC5).
        position_embedding: sine or learned.
        hidden_dim: channels D of the transformer, a multiple of `nheads`.
        enc_layers: encoder layers.
        dec_layers: decoder layers, at least 1.
        dim_feedforward: width of the feed-forward blocks.
        dropout: in the transformer, in 0..1.
        nheads: attention heads.
        num_queries: Q, the most objects that can be found in one image.
        pre_norm: norms before the blocks instead of after.
        aux_loss: whether the output has the earlier decoder layers, as `aux`.
        masks: a head that makes a mask of each query, at stride 4. The state dict then has the original's prefix,
            `detr.`, for all else.
        backbone_norm: frozen (batch norm with fixed statistics, stem and layer1 without gradient, as the original),
            batch or group (nothing is frozen). Frozen statistics that were never measured cannot learn: without
            `backbone_weights` or a checkpoint to come, train with one of the others.
        activation: relu, gelu or glu, of the feed-forward blocks.
        sigmoid: C logits with an independent sigmoid per class (for focal loss and its kin), instead of C + 1 with "no
            object" last.
        feature_levels: strides of the feature levels, "8,16,32"; those beyond 32 are made by convolutions. Empty: the
            last map of the backbone alone.
        encoder: full, deformable or hybrid.
        encoder_expansion: width of the hybrid encoder's fusion blocks, relative to D.
        decoder: full, conditional or deformable.
        num_points: sampled points a head and level of deformable attention.
        query_init: learned, anchors, two_stage, topk_features or mixed_selection.
        two_stage_head: encoder or dense, the head that ranks locations for the last three.
        class_agnostic: the encoder's own head, which picks them, tells only that there is something (the original
            two-stage Deformable DETR), not what.
        query_nms_iou: IoU above which the lesser of two picked places is no query; 0: off.
        box_refine: each decoder layer corrects the boxes of the one before.
        look_forward_twice: with `box_refine`, a layer's boxes also teach the layer before.
        score_refine: each decoder layer corrects the scores of the one before.
        dense_head: none, or a head on the encoder's levels, whatever the name: it says how the criterion teaches it.
        dense_convs: convolutions before that head's predictions.
        query_groups: groups of queries in training.
        num_queries_one2many: further queries in training, for one-to-many matching.
        k_one2many: how many of them each object is matched with.
        denoising: none, plain or contrastive.
        dn_queries: the most denoising queries per image.
        dn_label_noise: twice the chance that one starts from a random class.
        dn_box_noise: how far its box is moved, relative to its size.
        input_mean: mean of each colour channel (RGB, in 0..1) that images are normalised by; None: the backbone's.
        input_std: standard deviation, likewise.
        square_resize: images are resized to squares, whatever their shape; the model itself takes any.
        backbone_weights: None or "none" for random ones, "imagenet" for the published ones (may download), or a file.

    Raises:
        ConfigError: a setting does not exist or does not fit the others.
        WeightsError: the backbone's weights cannot be had or do not fit.
        MissingExtraError: a timm backbone without timm.
    """
    model_args = dict(locals())
    chosen = query_init in SELECTED
    read = decoder != "deformable" or (encoder != "hybrid" and enc_layers > 0)  # whether anything reads positions
    _check(
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
        _one_of("position_embedding", position_embedding, ("sine", "learned")),
        _one_of("activation", activation, tuple(ACTIVATIONS)),
        _one_of("backbone_norm", backbone_norm, tuple(NORM_LAYERS)),
        _one_of("encoder", encoder, ("full", "deformable", "hybrid")),
        (
            encoder != "hybrid" or hidden_dim * encoder_expansion >= 1,
            f"encoder_expansion of at least {1 / max(1, hidden_dim):g} (one channel of hidden_dim={hidden_dim}), "
            f"found {encoder_expansion}",
        ),
        _one_of("decoder", decoder, ("full", "conditional", "deformable")),
        _one_of("query_init", query_init, ("learned", "anchors", *SELECTED)),
        _one_of("two_stage_head", two_stage_head, ("encoder", "dense")),
        _one_of("denoising", denoising, ("none", "plain", "contrastive")),
        (num_points >= 1, f"num_points of at least 1, found {num_points}"),
        (query_groups >= 1, f"query_groups of at least 1, found {query_groups}"),
        (num_queries_one2many >= 0, f"num_queries_one2many of at least 0, found {num_queries_one2many}"),
        (k_one2many >= 1, f"k_one2many of at least 1, found {k_one2many}"),
        (
            decoder != "conditional" or query_init != "learned",
            "queries with boxes for decoder conditional, found learned ones; use --query_init anchors, for example",
        ),
        (
            denoising == "none" or query_init != "learned",
            "queries with boxes for denoising, found learned ones; use --query_init anchors, for example",
        ),
        (box_refine or not look_forward_twice, "box_refine with look_forward_twice, found it off; add --box_refine"),
        (
            aux_loss or not (box_refine or score_refine),
            "auxiliary losses with box_refine or score_refine, since each layer's heads are taught by them alone, "
            "found none; leave out --no_aux_loss",
        ),
        (
            position_embedding == "sine" or read,
            "position_embedding sine where nothing would read learned ones, as with encoder hybrid (or no encoder "
            "layers) and decoder deformable, found learned",
        ),
        (
            sigmoid or (dense_head == "none" and not score_refine),
            "a class loss of focal, varifocal or matchability with dense_head or score_refine, found softmax; "
            "use --class_loss varifocal, for example (in Python: sigmoid=True)",
        ),
        (
            not chosen or two_stage_head != "dense" or dense_head != "none",
            "a dense head for --two_stage_head dense, found none; use --two_stage_head encoder, or --dense_head tood",
        ),
        (
            query_groups == 1 or query_init not in ("two_stage", "topk_features"),
            f"queries with learned contents for query_groups, found {query_init}; use --query_init "
            "mixed_selection, for example",
        ),
    )
    strides, further = _levels(feature_levels)
    levels = len(strides) + further or 1
    finer = tuple(stride for stride in (4, 8, 16) if masks and (not strides or stride < strides[0]))
    features = build_features(backbone, backbone_norm, dilation, backbone_weights, strides, finer)
    features.mean, features.std = input_mean or features.mean, input_std or features.std
    input_proj: SingleLevelProj | ChannelMapper = SingleLevelProj(features.channels[-1], hidden_dim)
    if strides:
        norm = "batch" if encoder == "hybrid" else "group"
        input_proj = ChannelMapper(features.channels[len(finer) :], hidden_dim, further, norm)

    def cross_attention() -> MultiheadAttention | ConditionalAttention | DeformableAttention:
        if decoder == "deformable":
            return DeformableAttention(hidden_dim, nheads, levels, num_points)
        kind = ConditionalAttention if decoder == "conditional" else MultiheadAttention
        return kind(hidden_dim, nheads, dropout)

    def self_attention() -> MultiheadAttention | DeformableAttention:
        if encoder == "deformable":
            return DeformableAttention(hidden_dim, nheads, levels, num_points)
        return MultiheadAttention(hidden_dim, nheads, dropout)

    block = (hidden_dim, dim_feedforward, dropout, activation, pre_norm)
    if encoder == "hybrid":
        looking: nn.Module = HybridEncoder(
            hidden_dim,
            nheads,
            levels,
            dim_feedforward,
            dropout,
            enc_layers=enc_layers,
            expansion=encoder_expansion,
        )
    else:
        looking = Encoder(
            [EncoderLayer(self_attention(), *block) for _ in range(enc_layers)],
            nn.LayerNorm(hidden_dim) if pre_norm else None,
            torch.randn(levels, hidden_dim) if strides and read else None,
        )
    # Deformable DETR and RT-DETR have no norm between a post-norm decoder and its heads, the classic has one.
    last_norm = nn.LayerNorm(hidden_dim) if pre_norm or decoder != "deformable" else None
    position = {"topk_features": PlainBoxPosition, "mixed_selection": SineBoxPosition, "anchors": SineBoxPosition}.get(
        query_init
    )
    transformer = Transformer(
        looking,
        Decoder(
            [
                DecoderLayer(MultiheadAttention(hidden_dim, nheads, dropout), cross_attention(), *block)
                for _ in range(dec_layers)
            ],
            last_norm,
            position(hidden_dim) if position else None,
            box_refine=box_refine,
            look_forward_twice=look_forward_twice,
            score_refine=score_refine,
        ),
    )

    rows = num_classes + (not sigmoid)
    counts = Counts(num_queries, query_groups, num_queries_one2many)
    source: QuerySource
    if chosen:
        source = SelectedQueries(
            counts,
            hidden_dim,
            rows,
            query_init,
            sigmoid=sigmoid,
            own_head=two_stage_head == "encoder",
            query_nms_iou=query_nms_iou,
            class_agnostic=class_agnostic,
        )
    elif query_init == "anchors":
        source = AnchorQueries(counts, hidden_dim)
    elif decoder == "deformable":
        source = PointQueries(counts, hidden_dim)
    else:
        source = LearnedQueries(counts, hidden_dim)
    class_embed, bbox_embed = _heads(
        hidden_dim,
        rows,
        dec_layers if box_refine or score_refine else 0,
        prior=PRIOR if sigmoid else 0.0,
        refines_boxes=box_refine,
        has_boxes=query_init != "learned",
        refines_scores=score_refine,
        has_scores=chosen,
    )
    finer_channels = features.channels[: len(finer)]
    mask_head: MaskHead | DynamicMaskHead | None = None
    if masks and strides:
        mask_head = DynamicMaskHead(hidden_dim, (*finer_channels, *[hidden_dim] * levels))
    elif masks:
        mask_head = MaskHead(hidden_dim, nheads, finer_channels)
    model = DETR(
        Backbone(features, build_position(position_embedding, hidden_dim, centered=bool(strides))),
        input_proj,
        transformer,
        source,
        class_embed,
        bbox_embed,
        sigmoid=sigmoid,
        aux_loss=aux_loss,
        dense_head=None if dense_head == "none" else DenseHead(hidden_dim, num_classes, levels, dense_convs),
        denoising=None
        if denoising == "none"
        else Denoising(hidden_dim, num_classes, dn_queries, denoising == "contrastive", dn_label_noise, dn_box_noise),
        k_one2many=k_one2many,
        square_resize=square_resize,
        bbox_attention=AttentionMap(hidden_dim, nheads) if masks and not strides else None,
        mask_head=mask_head,
    )
    model.model_args = {name: value for name, value in model_args.items() if name != "backbone_weights"}
    return model


def _heads(
    dim: int,
    rows: int,
    layers: int,
    *,
    prior: float,
    refines_boxes: bool,
    has_boxes: bool,
    refines_scores: bool,
    has_scores: bool,
) -> tuple[nn.Module, nn.Module]:
    """The class and box heads: one of each for all decoder layers, or, where layers refine, one of each a layer.

    A head that says how something has to change starts at zero: no change.
    """

    def class_head(layer: int) -> nn.Linear:
        head = nn.Linear(dim, rows)
        corrects = refines_scores and (has_scores or layer > 0)
        if refines_scores:
            nn.init.zeros_(head.weight)
        if prior:
            nn.init.constant_(head.bias, 0.0 if corrects else prior)
        return head

    def box_head(layer: int) -> MLP:
        head = MLP(dim, dim, 4, num_layers=3)
        if has_boxes or (refines_boxes and layer > 0):
            for parameter in head.layers[-1].parameters():
                nn.init.zeros_(parameter)
        return head

    if not layers:
        return class_head(0), box_head(0)
    return nn.ModuleList(map(class_head, range(layers))), nn.ModuleList(map(box_head, range(layers)))


def _levels(feature_levels: str) -> tuple[tuple[int, ...], int]:
    """The strides taken from the backbone, and how many further levels there are: "8,16,32,64" -> (8, 16, 32), 1.

    Raises:
        ConfigError: the text is something else than strides that double.
    """
    if not feature_levels:
        return (), 0
    try:
        strides = [int(part) for part in feature_levels.split(",")]
    except ValueError:
        strides = []
    doubling = all(b == 2 * a for a, b in pairwise(strides))
    own = tuple(stride for stride in strides if stride <= _BACKBONE_COARSEST)
    if not strides or strides[0] not in (4, 8, 16, 32) or not doubling:
        raise ConfigError(
            "expected feature_levels as strides that begin with 4, 8, 16 or 32 and double, such as 8,16,32,64, "
            f"found {feature_levels!r}"
        )
    return own, len(strides) - len(own)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> tuple[bool, str]:
    return value in choices, f"{name} {', '.join(choices[:-1])} or {choices[-1]}, found {value!r}"


def _check(*rules: tuple[bool, str]) -> None:
    for fine, expected in rules:
        if not fine:
            raise ConfigError(f"expected {expected}")
