"""Convert Deformable DETR (Zhu et al. 2021) of transformers to detrkit's keys and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.checkpoints.architecture import resnet_of
from detrkit.models.checkpoints.hf_files import UnsupportedError, dilated, one_value
from detrkit.models.checkpoints.hf_keys import BODY, HF_BODY, from_theirs, layer_names, resnet_names


def _names(enc_layers: int, dec_layers: int) -> Iterator[tuple[str, str]]:
    """Pairs (our name, theirs) of all parts except full attention and the backbone's layers."""
    for stack, layers, attention in (
        ("encoder", enc_layers, ("self_attn", "self_attn")),
        ("decoder", dec_layers, ("multihead_attn", "encoder_attn")),
    ):
        for layer in range(layers):
            ours, theirs = f"transformer.{stack}.layers.{layer}", f"model.{stack}.layers.{layer}"
            yield from layer_names(stack, ours, theirs)
            yield f"{ours}.{attention[0]}", f"{theirs}.{attention[1]}"
    yield "transformer.encoder.level_embed", "model.level_embed"
    yield "input_proj", "model.input_proj"
    yield "class_embed", "class_embed"
    yield "bbox_embed", "bbox_embed"
    yield "query_embed.query", "model.query_position_embeddings"
    yield "query_embed.reference_points", "model.reference_points"
    yield "query_embed.enc_output", "model.enc_output"
    yield "query_embed.enc_norm", "model.enc_output_norm"
    yield "query_embed.box_trans", "model.pos_trans"
    yield "query_embed.box_norm", "model.pos_trans_norm"
    yield "backbone.1.row_embed", "model.position_embedding.row_embeddings"
    yield "backbone.1.col_embed", "model.position_embedding.column_embeddings"
    yield BODY, HF_BODY  # backbones of timm have torchvision's names


def read_deformable(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Convert a `DeformableDetrForObjectDetection`.

    Returns:
        The state dict under our keys, the keywords of `build_model`, and notes for the user.

    Raises:
        WeightsError: the model has parts that detrkit lacks.
        KeyError: the tensors are not those that `config` describes.
    """
    layers = config.get("encoder_layers", 6), config.get("decoder_layers", 6)
    names = [*_names(*layers), *resnet_names("resnet34"), *resnet_names("resnet152")]
    attentions = [
        (f"transformer.decoder.layers.{layer}.self_attn", f"model.decoder.layers.{layer}.self_attn")
        for layer in range(layers[1])
    ]
    renamed = from_theirs(tensors, names, attentions)
    refine, two_stage = bool(config.get("with_box_refine")), bool(config.get("two_stage"))
    state_dict = _with_our_heads(renamed, layers[1], refine, two_stage, folder)
    backbone = resnet_of(state_dict)
    if backbone is None:
        raise UnsupportedError(
            f"expected a ResNet of torchvision's layout in {folder}, found another backbone; it cannot be loaded"
        )
    dilation = dilated(config, folder)
    model_args = {
        "num_classes": len(state_dict["class_embed.0.bias" if refine else "class_embed.bias"]),
        "backbone": backbone,
        "backbone_norm": "frozen",
        "dilation": dilation,
        "position_embedding": config.get("position_embedding_type", "sine"),
        "hidden_dim": config.get("d_model", 256),
        "enc_layers": layers[0],
        "dec_layers": layers[1],
        "dim_feedforward": one_value(config, folder, ("encoder_ffn_dim", "decoder_ffn_dim"), 1024),
        "nheads": one_value(config, folder, ("encoder_attention_heads", "decoder_attention_heads"), 8),
        "dropout": config.get("dropout", 0.1),
        "activation": config.get("activation_function", "relu"),
        "sigmoid": True,
        "feature_levels": _levels(renamed, config.get("num_feature_levels", 4), dilation, folder),
        "encoder": "deformable",
        "decoder": "deformable",
        "num_points": one_value(config, folder, ("encoder_n_points", "decoder_n_points"), 4),
        "query_init": "two_stage" if two_stage else "learned",
        # the published models rank tokens by the score of the first class, whichever class it is
        "class_agnostic": two_stage,
        "num_queries": config.get("two_stage_num_proposals" if two_stage else "num_queries", 300),
        "box_refine": refine,
    }
    return state_dict, model_args, ()


def _levels(tensors: Mapping[str, Tensor], levels: int, dilation: bool, folder: Path) -> str:
    """The strides of the feature levels; levels with 1x1 projections come from the last stages of the backbone.

    Raises:
        WeightsError: detrkit cannot build such levels.
    """
    kernels = [tensors[f"input_proj.{level}.0.weight"].shape[-1] for level in range(levels)]
    own = kernels.count(1)
    if not 1 <= own <= 4 or (dilation and (own, levels) != (1, 1)):
        raise UnsupportedError(
            f"expected 1 to 4 levels from the backbone in {folder}, or one with dilation, found {own} of {levels}"
            f"{' with dilation' if dilation else ''}; other models cannot be loaded"
        )
    finest = 16 if dilation else 2 ** (6 - own)
    return ",".join(str(finest * 2**level) for level in range(levels))


def _with_our_heads(
    tensors: Mapping[str, Tensor], layers: int, refine: bool, two_stage: bool, folder: Path
) -> dict[str, Tensor]:
    """Replace the heads by ours: one for all decoder layers or, with `refine`, one per layer, and one of the encoder.

    transformers stores tied heads once, and ties the heads of all layers by default.

    Raises:
        WeightsError: the heads of the layers differ without `refine`.
    """
    state_dict = {key: value for key, value in tensors.items() if not key.startswith(("class_embed.", "bbox_embed."))}
    leaves = {
        "class_embed": ["weight", "bias"],
        "bbox_embed": [f"layers.{k}.{leaf}" for k in range(3) for leaf in ("weight", "bias")],
    }
    for head, names in leaves.items():
        for leaf in names:
            first = tensors[f"{head}.0.{leaf}"]
            values = [tensors.get(f"{head}.{k}.{leaf}", first) for k in range(layers + two_stage)]
            if two_stage:
                state_dict[f"query_embed.enc_{head.removesuffix('_embed')}.{leaf}"] = values.pop()
            if refine:
                state_dict |= {f"{head}.{k}.{leaf}": value.clone() for k, value in enumerate(values)}
            elif all(torch.equal(value, values[0]) for value in values):
                state_dict[f"{head}.{leaf}"] = values[0]
            else:
                raise WeightsError(
                    f"expected one head for all decoder layers in {folder}, which has no with_box_refine, found "
                    f"several {head}; save the model again with with_box_refine in its config.json"
                )
    return state_dict
