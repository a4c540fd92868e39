"""Settings of the architecture of a detector.

`ModelFlags` has the settings that a person chooses. `ModelConfig` adds those that follow from the data, the losses and
the weights; `build_model` builds from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import lcm
from typing import Annotated, Literal

from detrkit.config.fields import (
    Fraction,
    NamesOf,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Settings,
    StoredAs,
    import_object,
)
from detrkit.errors import ConfigError

BACKBONES = "detrkit.models.backbones.families:FAMILIES"
"""Table of the backbones: rows of the names that one function builds."""

SELECTED = ("two_stage", "topk_features", "mixed_selection")
"""Values of `query_init` with which queries come from tokens of the encoder."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags(Settings):
    """Model."""

    backbone: Annotated[str, StoredAs.SETTING, NamesOf(BACKBONES, prefix="timm:")] = "resnet50"
    """Feature extractor: resnet18, resnet34, resnet50, resnet101, resnet152, resnet18vd, resnet34vd, resnet50vd,
    resnet101vd, nano and micro (for CPUs), or timm:NAME for any timm model with feature outputs (needs the timm
    extra)."""
    backbone_norm: Literal["auto", "frozen", "batch", "group"] = "auto"
    """Normalization layers of the backbone. frozen: batch norm with fixed statistics, stem and layer1 without
    gradient, as in the reference DETR; batch or group: nothing is frozen. auto: frozen if weights are loaded, else
    batch with the whole backbone trained at --lr, since statistics that were never measured cannot be frozen."""
    dilation: Annotated[bool, StoredAs.SETTING] = False
    """Dilate the last stage instead of striding it (DC5): features at 1/16 instead of 1/32 of the image size."""
    position_embedding: Annotated[Literal["sine", "learned"], StoredAs.SHAPE] = "sine"
    """Position encoding added to the features."""
    enc_layers: Annotated[NonNegativeInt, StoredAs.SHAPE] = 6
    """Encoder layers."""
    dec_layers: Annotated[PositiveInt, StoredAs.SHAPE] = 6
    """Decoder layers."""
    dim_feedforward: Annotated[PositiveInt, StoredAs.SHAPE] = 2048
    """Width of the feed-forward blocks."""
    hidden_dim: Annotated[PositiveInt, StoredAs.SHAPE] = 256
    """Width D of the transformer: a multiple of 4 and of nheads."""
    dropout: Fraction = 0.1
    """Dropout in the transformer, 0..1."""
    nheads: Annotated[PositiveInt, StoredAs.ARCHITECTURE] = 8
    """Attention heads; must divide hidden_dim."""
    num_queries: Annotated[PositiveInt | Literal["auto"], StoredAs.SETTING] = 100
    """Object queries per image: the largest number of objects that can be detected in an image. auto: chosen from the
    training images."""
    pre_norm: Annotated[bool, StoredAs.SHAPE] = False
    """Normalize before each block instead of after it."""
    activation: Annotated[Literal["relu", "gelu", "glu"], StoredAs.ARCHITECTURE] = "relu"
    """Activation of the feed-forward blocks."""
    masks: bool = False
    """Add the mask head. --task instance and --task panoptic imply it; --masks alone means --task instance."""
    feature_levels: Annotated[str, StoredAs.SHAPE] = ""
    """Strides of the feature levels, for example 8,16,32 or 8,16,32,64 (levels beyond stride 32 are made by
    convolutions). Empty: the last feature map alone, as in the reference DETR."""
    encoder: Annotated[Literal["full", "deformable", "hybrid"], StoredAs.SHAPE] = "full"
    """full: self-attention over all tokens; deformable: over a few sampled points of each level; hybrid: attention on
    the coarsest level and convolutions across levels (RT-DETR)."""
    encoder_expansion: Annotated[NonNegativeFloat, StoredAs.SHAPE] = 1.0
    """Width of the hybrid encoder's fusion blocks, relative to hidden_dim."""
    encoder_blocks: Annotated[PositiveInt, StoredAs.SHAPE] = 3
    """Convolutions in each fusion block of the hybrid encoder."""
    separable_convs: Annotated[bool, StoredAs.SHAPE] = False
    """Depthwise and pointwise convolutions in the dense head and between the levels of the hybrid encoder, instead of
    full 3x3 ones, which cost several times as much (MobileNets)."""
    decoder: Annotated[Literal["full", "conditional", "deformable"], StoredAs.SHAPE] = "full"
    """Cross-attention of the decoder. full: over all tokens; conditional: over all tokens, with the position of the
    query's anchor beside its content; deformable: over a few sampled points of each level."""
    num_points: Annotated[PositiveInt, StoredAs.SHAPE] = 4
    """Points that each head of deformable attention samples on each level."""
    query_init: Annotated[
        Literal["learned", "anchors", "two_stage", "topk_features", "mixed_selection"], StoredAs.SHAPE
    ] = "learned"
    """Initial queries. learned: vectors; anchors: learned boxes; others: the boxes of the best encoder tokens, with
    content from these boxes (two_stage), from the features of the tokens (topk_features), or learned
    (mixed_selection)."""
    two_stage_head: Annotated[Literal["encoder", "dense"], StoredAs.SHAPE] = "encoder"
    """Head that ranks the encoder tokens: encoder, a separate head; dense, the --dense_head."""
    query_nms_iou: Annotated[Fraction, StoredAs.SETTING] = 0.0
    """For queries from encoder tokens: of two tokens whose boxes overlap by more than this IoU, the one with the lower
    score becomes a query only if too few others are left. 0: off."""
    box_refine: Annotated[bool, StoredAs.SHAPE] = False
    """Let each decoder layer refine the boxes of the layer before."""
    look_forward_twice: Annotated[bool, StoredAs.SETTING] = False
    """With box_refine: let the gradient of each layer's box loss also reach the layer before (DINO)."""
    score_refine: Annotated[bool, StoredAs.ARCHITECTURE] = False
    """Let each decoder layer refine the class scores of the layer before, and the first layer those of the encoder."""
    dense_head: Annotated[Literal["none", "fcos", "atss", "tood"], StoredAs.TRAINING_ONLY] = "none"
    """Head on the encoder's levels that supervises many locations per object, assigned as in FCOS, ATSS or TOOD. It is
    used in training only, unless --two_stage_head dense selects queries with it."""
    dense_convs: Annotated[NonNegativeInt, StoredAs.SETTING] = 2
    """Convolutions of the dense head before its predictions."""
    query_groups: Annotated[PositiveInt, StoredAs.TRAINING_ONLY] = 1
    """Groups of queries in training, each matched with the objects independently (Group DETR). 1: off."""
    num_queries_one2many: Annotated[NonNegativeInt, StoredAs.TRAINING_ONLY] = 0
    """Further queries in training that are matched one-to-many (H-DETR). 0: off."""
    k_one2many: Annotated[PositiveInt, StoredAs.TRAINING_ONLY] = 6
    """Queries of num_queries_one2many that each object is matched with."""
    denoising: Annotated[Literal["none", "plain", "contrastive"], StoredAs.TRAINING_ONLY] = "none"
    """Further queries in training that start from noised ground truth (DN-DETR). contrastive: also from boxes with more
    noise, whose class is no object (DINO)."""
    dn_queries: Annotated[NonNegativeInt, StoredAs.TRAINING_ONLY] = 100
    """Largest number of denoising queries per image."""
    dn_label_noise: Annotated[Fraction, StoredAs.TRAINING_ONLY] = 0.5
    """Twice the probability that a denoising query starts from a random class (as DN-DETR counts it)."""
    dn_box_noise: Annotated[NonNegativeFloat, StoredAs.TRAINING_ONLY] = 0.4
    """Size of the noise of denoising boxes, relative to the sides of the boxes."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelFlags):
    """All settings that a detector is built from.

    Raises:
        ConfigError: a value is out of range, or does not fit the others (see `RULES`).
    """

    num_classes: PositiveInt = 91
    """Number C of classes."""
    sigmoid: bool = False
    """Predict C class logits with an independent sigmoid per class (focal losses), instead of C + 1 with a softmax over
    the classes and "no object"."""
    aux_loss: bool = True
    """Also return the outputs of the earlier decoder layers, as `Output.aux`."""
    class_agnostic: bool = False
    """Rank the encoder tokens by one score for any object, as in the published two-stage Deformable DETR, instead of
    one score per class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for breaks, expected in RULES:
            if breaks(self):
                width = lcm(4, self.nheads)
                nearest, smallest = width * max(1, round(self.hidden_dim / width)), 1 / self.hidden_dim
                raise ConfigError("expected " + expected.format(nearest=nearest, smallest=smallest, **asdict(self)))

    @property
    def selects_queries(self) -> bool:
        """Whether queries come from tokens of the encoder."""
        return self.query_init in SELECTED

    @property
    def reads_positions(self) -> bool:
        """Whether any attention reads the position encoding; deformable attention does not."""
        return self.decoder != "deformable" or (self.encoder != "hybrid" and self.enc_layers > 0)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of `feature_levels`, for example (8, 16, 32); empty: none are set."""
        return tuple(map(int, self.feature_levels.split(","))) if self.feature_levels else ()


def _has_levels_that_double(config: ModelConfig) -> bool:
    try:
        strides = config.strides
    except ValueError:
        return False
    return not strides or (strides[0] in (4, 8, 16, 32) and all(b == 2 * a for a, b in pairwise(strides)))


def has_dilation(backbone: str) -> bool:
    """Whether a backbone can be dilated; assumed of timm's models, since only timm knows."""
    rows = import_object(BACKBONES)
    return backbone.startswith("timm:") or any(backbone in row.names and row.dilated for row in rows)


def has_published_weights(backbone: str) -> bool:
    """Whether ImageNet weights of a backbone are published; assumed of timm's models, since only timm knows."""
    rows = import_object(BACKBONES)
    return backbone.startswith("timm:") or any(backbone in row.names and row.published for row in rows)


_LEARNED = "found --query_init learned; use --query_init anchors, for example"

RULES: tuple[tuple[Callable[[ModelConfig], bool], str], ...] = (
    (
        lambda m: m.hidden_dim < 4 or m.hidden_dim % m.nheads > 0 or m.hidden_dim % 4 > 0,
        "--hidden_dim to be a multiple of 4 (for the position encoding) and of --nheads {nheads}, found {hidden_dim}; "
        "try --hidden_dim {nearest}",
    ),
    (
        lambda m: not _has_levels_that_double(m),
        "--feature_levels as strides that begin with 4, 8, 16 or 32 and double, such as 8,16,32,64, found "
        "{feature_levels!r}",
    ),
    (
        lambda m: m.dilation and m.strides not in ((), (16,)),
        "no --dilation with --feature_levels other than 16, found {feature_levels}; leave out one of the two",
    ),
    (
        lambda m: m.dilation and not has_dilation(m.backbone),
        "a --backbone that can be dilated, such as resnet50, with --dilation, found {backbone}; leave out --dilation "
        "or choose another backbone",
    ),
    (
        lambda m: m.backbone_norm == "group" and m.backbone.startswith("timm:"),
        "--backbone_norm frozen or batch with --backbone {backbone}, found group, which is for ResNets only",
    ),
    (
        lambda m: m.encoder == "hybrid" and m.hidden_dim * m.encoder_expansion < 1,
        "--encoder_expansion of at least {smallest:g} (one channel of --hidden_dim {hidden_dim}), found "
        "{encoder_expansion}",
    ),
    (
        lambda m: m.decoder == "conditional" and m.query_init == "learned",
        f"queries with boxes for --decoder conditional, {_LEARNED}",
    ),
    (
        lambda m: m.denoising != "none" and m.query_init == "learned",
        f"queries with boxes for --denoising {{denoising}}, {_LEARNED}",
    ),
    (
        lambda m: m.dn_queries < {"none": 0, "plain": 1, "contrastive": 2}[m.denoising],
        "--dn_queries of at least 1, or 2 with --denoising contrastive, found {dn_queries} with {denoising}",
    ),
    (
        lambda m: m.look_forward_twice and not m.box_refine,
        "--box_refine with --look_forward_twice, found it off; add --box_refine",
    ),
    (
        lambda m: (m.box_refine or m.score_refine) and not m.aux_loss,
        "auxiliary losses with --box_refine or --score_refine, since they alone train the heads of earlier layers, "
        "found none; leave out --no_aux_loss",
    ),
    (
        lambda m: m.position_embedding != "sine" and not m.reads_positions,
        "--position_embedding sine if no attention reads the encoding, as with --encoder hybrid (or no encoder layers) "
        "and --decoder deformable, found {position_embedding}",
    ),
    (
        lambda m: (m.dense_head != "none" or m.score_refine) and not m.sigmoid,
        "a --class_loss of focal, varifocal or matchability with --dense_head or --score_refine, found softmax; "
        "use --class_loss varifocal, for example (in build_model: sigmoid=True)",
    ),
    (
        lambda m: m.selects_queries and m.two_stage_head == "dense" and m.dense_head == "none",
        "a dense head for --two_stage_head dense, found none; use --two_stage_head encoder, or --dense_head tood",
    ),
    (
        lambda m: m.query_groups > 1 and m.query_init in ("two_stage", "topk_features"),
        "queries with learned content for --query_groups {query_groups}, found --query_init {query_init}; use "
        "--query_init mixed_selection, for example",
    ),
)
"""Rules between settings: a function that tells whether a config breaks the rule, and the message."""
