"""Read and write the classic DETR in Hugging Face's format.

The keys written are those of `DetrForObjectDetection` and, with masks, `DetrForSegmentation` in transformers, which all
its versions read. A backbone without dilation is written in the layout of transformers' ResNet, a dilated one in that
of timm, since transformers' ResNet cannot be dilated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.files import write_atomic
from detrkit.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detrkit.models.checkpoints.architecture import (
    RESNET_BLOCKS,
    Weights,
    check_keys,
    infer_model_args,
    with_defaults,
    with_prefix,
    without_prefix,
)
from detrkit.models.checkpoints.hf_files import UnsupportedError, dilated, one_value
from detrkit.models.checkpoints.hf_keys import BODY, HF_BODY, from_theirs, layer_names, resnet_names, to_theirs
from detrkit.structures import Categories


def _names(enc_layers: int, dec_layers: int) -> Iterator[tuple[str, str]]:
    """Pairs (our name, theirs) of all parts except attention and the backbone's layers."""
    for stack, layers in (("encoder", enc_layers), ("decoder", dec_layers)):
        for layer in range(layers):
            yield from layer_names(stack, f"transformer.{stack}.layers.{layer}", f"model.{stack}.layers.{layer}")
    yield "transformer.decoder.norm", "model.decoder.layernorm"
    yield "query_embed", "model.query_position_embeddings"
    yield "input_proj", "model.input_projection"
    yield "class_embed", "class_labels_classifier"
    yield "bbox_embed", "bbox_predictor"
    yield "backbone.1.row_embed", "model.position_embedding.row_embeddings"
    yield "backbone.1.col_embed", "model.position_embedding.column_embeddings"
    yield BODY, HF_BODY  # backbones of timm have torchvision's names
    for part in ("mask_head", "bbox_attention"):  # named as in the reference DETR
        yield part, part


def _attentions(enc_layers: int, dec_layers: int) -> Iterator[tuple[str, str]]:
    """Pairs (our name, theirs) of the attention modules of all layers."""
    for layer in range(enc_layers):
        yield f"transformer.encoder.layers.{layer}.self_attn", f"model.encoder.layers.{layer}.self_attn"
    for layer in range(dec_layers):
        yield f"transformer.decoder.layers.{layer}.self_attn", f"model.decoder.layers.{layer}.self_attn"
        yield f"transformer.decoder.layers.{layer}.multihead_attn", f"model.decoder.layers.{layer}.encoder_attn"


def read_detr(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Convert a `DetrForObjectDetection` or `DetrForSegmentation`.

    Returns:
        The state dict under our keys, the keywords of `build_model`, and notes for the user.

    Raises:
        WeightsError: the model is no DETR on a ResNet of torchvision's layout.
        KeyError: the tensors are not those that `config` describes.
    """
    one_value(config, folder, ("encoder_ffn_dim", "decoder_ffn_dim"), 2048)
    nheads = one_value(config, folder, ("encoder_attention_heads", "decoder_attention_heads"), 8)
    layers = config.get("encoder_layers", 6), config.get("decoder_layers", 6)
    # together, these two have the names of all blocks of all ResNets
    names = [*_names(*layers), *resnet_names("resnet34"), *resnet_names("resnet152")]
    state_dict = from_theirs(without_prefix(tensors), names, _attentions(*layers))
    check_keys(state_dict, str(folder))
    model_args = infer_model_args(state_dict) | {
        "dilation": dilated(config, folder),
        "nheads": nheads,
        "dropout": config.get("dropout", 0.1),
        "activation": config.get("activation_function", "relu"),
    }
    if "backbone" not in model_args:
        raise UnsupportedError(
            f"expected a ResNet of torchvision's layout in {folder}, found another backbone; it cannot be loaded"
        )
    notes = (
        f"{folder} has auxiliary_loss on, by which transformers also normalizes between the decoder layers; detrkit, "
        "as the reference DETR, does not, and gives other results",
    )
    return state_dict, model_args, notes if config.get("auxiliary_loss") else ()


_WRITTEN = {
    "pre_norm": (False,), "activation": ("relu", "gelu"), "backbone": tuple(RESNET_BLOCKS), "sigmoid": (False,),
    "feature_levels": ("",), "encoder": ("full",), "decoder": ("full",), "query_init": ("learned",),
    "box_refine": (False,), "score_refine": (False,), "dense_head": ("none",), "query_groups": (1,),
    "num_queries_one2many": (0,),
}  # fmt: skip
"""Setting -> its values that Hugging Face's format can represent."""


def write_huggingface(weights: Weights, folder: str | Path) -> None:
    """Write a Hugging Face folder for `DetrForObjectDetection` or, with masks, `DetrForSegmentation` of transformers.

    `from_pretrained` loads the folder. Files are written atomically.

    Raises:
        WeightsError: the format cannot represent this model.
    """
    folder, args, images = Path(folder), with_defaults(weights.model_args), weights.preprocessing
    for name, expected in _WRITTEN.items():
        if args[name] not in expected:
            raise WeightsError(
                f"Hugging Face's DETR has {name} {' or '.join(map(str, expected)) or 'empty'}, found {args[name]} in "
                f"{weights.source}; write a .pth file instead"
            )
    if args["backbone_norm"] == "group":
        raise WeightsError(
            f"Hugging Face's DETR has frozen batch norms, found group norms in {weights.source}; write a .pth instead"
        )
    layers = args["enc_layers"], args["dec_layers"]
    names = [*_names(*layers), *([] if args["dilation"] else resnet_names(args["backbone"]))]
    tensors = with_prefix(to_theirs(weights.state_dict, names, _attentions(*layers)))
    write_atomic(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    processor = {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_panoptic" if weights.categories.isthing else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": images.image_size, "longest_edge": round(images.image_size * 1333 / 800)},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean or IMAGENET_MEAN),
        "image_std": list(images.std or IMAGENET_STD),
        "do_pad": True,
    }
    if images.value_range:
        processor["value_range"] = images.value_range.to_plain()
    if images.tiling:
        processor["tiling"] = images.tiling.to_plain()
    write_atomic(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    write_atomic(folder / "config.json", json.dumps(_config(weights.categories, args), indent=2) + "\n")


def _config(categories: Categories, args: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a DETR."""
    blocks, bottleneck = RESNET_BLOCKS[args["backbone"]]
    widths = [64, 128, 256, 512]
    backbone: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    backbone["backbone_config"] = {
        "model_type": "resnet",
        "depths": list(blocks),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "embedding_size": 64,
        "hidden_sizes": [4 * width for width in widths] if bottleneck else widths,
        "out_features": ["stage1", "stage2", "stage3", "stage4"] if args["masks"] else ["stage4"],
    }
    if args["dilation"]:
        backbone |= {"use_timm_backbone": True, "backbone": args["backbone"], "backbone_config": None}
    names = dict(enumerate(categories.names))
    return {
        "architectures": ["DetrForSegmentation" if args["masks"] else "DetrForObjectDetection"],
        "model_type": "detr",
        "is_encoder_decoder": True,
        **backbone,
        "dilation": args["dilation"],
        "position_embedding_type": args["position_embedding"],
        "num_queries": args["num_queries"],
        "d_model": args["hidden_dim"],
        "encoder_layers": args["enc_layers"],
        "decoder_layers": args["dec_layers"],
        "encoder_ffn_dim": args["dim_feedforward"],
        "decoder_ffn_dim": args["dim_feedforward"],
        "encoder_attention_heads": args["nheads"],
        "decoder_attention_heads": args["nheads"],
        "activation_function": args["activation"],
        "dropout": args["dropout"],
        "auxiliary_loss": False,  # if on, transformers normalizes between decoder layers, which detrkit does not
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
        # of detrkit alone, ignored by transformers: category ids of the data set, and which classes are things
        "category_ids": list(categories.ids),
        **({"category_isthing": list(categories.isthing)} if categories.isthing else {}),
    }
