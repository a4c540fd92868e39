"""Convert RT-DETR (Zhao et al. 2024) and RT-DETRv2 of transformers to detrkit's keys and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.models.backbones.resnet_d import DESIGNS
from detrkit.models.checkpoints.hf_files import UnsupportedError, expect, one_value
from detrkit.models.checkpoints.hf_keys import from_theirs, layer_names, resnet_vd_names

_DEFAULT_WIDTHS = [256, 512, 1024, 2048]


def _names(enc_layers: int, dec_layers: int, levels: int) -> Iterator[tuple[str, str]]:
    """Pairs (our name, theirs) of all parts except self-attention and the backbone."""
    for layer in range(enc_layers):
        yield from layer_names("encoder", f"transformer.encoder.layers.{layer}", f"model.encoder.aifi.0.layers.{layer}")
    for layer in range(dec_layers):
        ours, theirs = f"transformer.decoder.layers.{layer}", f"model.decoder.layers.{layer}"
        yield from layer_names("decoder", ours, theirs)
        yield f"{ours}.multihead_attn", f"{theirs}.encoder_attn"
    for part in ("lateral_convs", "fpn_blocks", "downsample_convs", "pan_blocks"):
        yield f"transformer.encoder.{part}", f"model.encoder.{part}"
    for level in range(levels):
        yield f"transformer.encoder.out_projs.{level}.conv", f"model.decoder_input_proj.{level}.0"
        yield f"transformer.encoder.out_projs.{level}.norm", f"model.decoder_input_proj.{level}.1"
    yield "input_proj", "model.encoder_input_proj"
    yield "transformer.decoder.query_position.mlp", "model.decoder.query_pos_head"
    yield "query_embed.enc_output", "model.enc_output.0"
    yield "query_embed.enc_norm", "model.enc_output.1"
    yield "query_embed.enc_class", "model.enc_score_head"
    yield "query_embed.enc_bbox", "model.enc_bbox_head"
    yield "denoising.label_embed", "model.denoising_class_embed"
    yield "class_embed", "class_embed"
    yield "bbox_embed", "bbox_embed"


def read_rtdetr(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Convert an `RTDetrForObjectDetection` or `RTDetrV2ForObjectDetection`.

    Returns:
        The state dict under our keys, the keywords of `build_model`, and notes for the user.

    Raises:
        WeightsError: the model has parts that detrkit lacks.
        KeyError: the tensors are not those that `config` describes.
    """
    dim = config.get("d_model", 256)
    strides = list(config.get("feat_strides", (8, 16, 32)))
    expect(
        config,
        folder,
        encoder_hidden_dim=dim,
        decoder_in_channels=[dim] * len(strides),
        num_feature_levels=len(strides),
        encode_proj_layers=[len(strides) - 1],
        normalize_before=False,
        learn_initial_query=False,
        with_box_refine=True,
        activation_function="silu",
        encoder_activation_function="gelu",
        positional_encoding_temperature=10000,
        layer_norm_eps=1e-5,
        batch_norm_eps=1e-5,
        eval_size=None,
        decoder_method="default",
        decoder_offset_scale=0.5,
    )
    layers = config.get("encoder_layers", 1), config.get("decoder_layers", 6)
    backbone = _backbone(config.get("backbone_config") or {}, folder)
    design = DESIGNS[backbone]
    names = [*_names(*layers, len(strides)), *resnet_vd_names(design.depths, design.block.expansion > 1)]
    # n_points_scale is a constant of RT-DETRv2's attention
    learned = {key: value for key, value in tensors.items() if not key.endswith(".n_points_scale")}
    state_dict = from_theirs(learned, names, [*_attentions(*layers)])
    classes = len(state_dict["class_embed.0.bias"])
    model_args = {
        "num_classes": classes,
        "backbone": backbone,
        "backbone_norm": "frozen",
        "hidden_dim": dim,
        "enc_layers": layers[0],
        "dec_layers": layers[1],
        "dim_feedforward": one_value(config, folder, ("encoder_ffn_dim", "decoder_ffn_dim"), 1024),
        "nheads": one_value(config, folder, ("encoder_attention_heads", "decoder_attention_heads"), 8),
        "dropout": config.get("dropout", 0.0),
        "activation": config.get("decoder_activation_function", "relu"),
        "sigmoid": True,
        "feature_levels": ",".join(map(str, strides)),
        "encoder": "hybrid",
        "encoder_expansion": float(config.get("hidden_expansion", 1.0)),
        "decoder": "deformable",
        "num_points": config.get("decoder_n_points", 4),
        "query_init": "topk_features",
        "num_queries": config.get("num_queries", 300),
        "box_refine": True,
    }
    if "denoising.label_embed.weight" in state_dict:
        # the last row embeds padding, not a class
        state_dict["denoising.label_embed.weight"] = state_dict["denoising.label_embed.weight"][:classes].clone()
        model_args |= {
            "denoising": "contrastive",
            "dn_queries": 2 * config.get("num_denoising", 100),  # transformers counts pairs of queries
            "dn_label_noise": config.get("label_noise_ratio", 0.5),
            "dn_box_noise": config.get("box_noise_scale", 1.0),
        }
    return state_dict, model_args, ()


def _attentions(enc_layers: int, dec_layers: int) -> Iterator[tuple[str, str]]:
    """Pairs of keys of self-attention: detrkit's, Hugging Face's."""
    for k in range(enc_layers):
        yield f"transformer.encoder.layers.{k}.self_attn", f"model.encoder.aifi.0.layers.{k}.self_attn"
    for k in range(dec_layers):
        yield f"transformer.decoder.layers.{k}.self_attn", f"model.decoder.layers.{k}.self_attn"


def _backbone(config: Mapping[str, Any], folder: Path) -> str:
    """The name of the ResNet-D that a backbone_config describes.

    Raises:
        WeightsError: the backbone is another one.
    """
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    blocks, stem = tuple(config.get("depths", (3, 4, 6, 3))), config.get("embedding_size", 64)
    widths = [width * (4 if bottleneck else 1) for width in (stem, 2 * stem, 4 * stem, 8 * stem)]
    plain = (
        config.get("model_type", "rt_detr_resnet") == "rt_detr_resnet"
        and list(config.get("hidden_sizes", _DEFAULT_WIDTHS)) == widths
        and not config.get("downsample_in_first_stage")
        and not config.get("downsample_in_bottleneck")
        and config.get("hidden_act", "relu") == "relu"
    )
    for name, design in DESIGNS.items():
        same = (design.depths, design.width, design.block.expansion > 1) == (blocks, stem, bottleneck)
        if plain and same and not design.lean_stem:
            return name
    known = ", ".join(name for name, design in DESIGNS.items() if not design.lean_stem)
    raise UnsupportedError(f"expected one of the backbones {known} in {folder}, found another; it cannot be loaded")
