"""DETR in Hugging Face format: a folder with config.json, model.safetensors and preprocessor_config.json.

Neither `transformers` nor `timm` is needed here. The keys written are those that `transformers` itself writes for
`DetrForObjectDetection`, which all its versions read. A backbone without dilation is written in the layout of its own
ResNet; a dilated one in that of timm, since its own ResNet cannot dilate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.files import write_atomic
from detrkit.models import build_model
from detrkit.models.weights.architecture import RESNET_BLOCKS, Weights, check_keys, infer_model_args
from detrkit.models.weights.published import COCO_CATEGORIES
from detrkit.models.weights.safe import read_checkpoint
from detrkit.structures import Categories

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_BODY, _HF_BODY = "backbone.0.body.", "model.backbone.conv_encoder.model."
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

# Names that versions of transformers have used for the same part, and the one used here.
_OTHER_NAMES = (
    (re.compile(r"^model\.backbone\.model\."), _HF_BODY),
    (re.compile(r"^model\.backbone\.position_embedding\."), "model.position_embedding."),
    (re.compile(r"\.o_proj\."), ".out_proj."),
    (re.compile(r"\.mlp\.(fc[12])\."), r".\1."),
)


def is_huggingface_folder(folder: Path) -> bool:
    """Whether a folder has the config.json of a Hugging Face model."""
    return (folder / "config.json").is_file()


def _modules(enc_layers: int, dec_layers: int) -> Iterator[tuple[str, str]]:
    """Pairs (module of the original, module of transformers) outside the backbone."""
    norms = {
        "encoder": ("self_attn_layer_norm", "final_layer_norm"),
        "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    }
    for stack, layers in (("encoder", enc_layers), ("decoder", dec_layers)):
        for layer in range(layers):
            ours, theirs = f"transformer.{stack}.layers.{layer}", f"model.{stack}.layers.{layer}"
            for number in (1, 2):
                yield f"{ours}.linear{number}", f"{theirs}.fc{number}"
            for number, norm in enumerate(norms[stack], start=1):
                yield f"{ours}.norm{number}", f"{theirs}.{norm}"
            for attention, their_attention in _attentions(stack):
                yield f"{ours}.{attention}.out_proj", f"{theirs}.{their_attention}.out_proj"
    yield "transformer.decoder.norm", "model.decoder.layernorm"
    yield "query_embed", "model.query_position_embeddings"
    yield "input_proj", "model.input_projection"
    yield "class_embed", "class_labels_classifier"
    for layer in range(3):
        yield f"bbox_embed.layers.{layer}", f"bbox_predictor.layers.{layer}"
    yield "backbone.1.row_embed", "model.position_embedding.row_embeddings"
    yield "backbone.1.col_embed", "model.position_embedding.column_embeddings"


def _attentions(stack: str) -> list[tuple[str, str]]:
    """Names of the attention modules of a layer: the original's, transformers'."""
    cross = [("multihead_attn", "encoder_attn")] if stack == "decoder" else []
    return [("self_attn", "self_attn"), *cross]


def _body_modules(backbone: str) -> Iterator[tuple[str, str]]:
    """Pairs (module of torchvision's ResNet, module of transformers' ResNet)."""
    blocks, bottleneck = RESNET_BLOCKS[backbone]
    yield "conv1", "embedder.embedder.convolution"
    yield "bn1", "embedder.embedder.normalization"
    for stage, depth in enumerate(blocks):
        for block in range(depth):
            ours, theirs = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            yield f"{ours}.downsample.0", f"{theirs}.shortcut.convolution"
            yield f"{ours}.downsample.1", f"{theirs}.shortcut.normalization"
            for conv in range(3 if bottleneck else 2):
                yield f"{ours}.conv{conv + 1}", f"{theirs}.layer.{conv}.convolution"
                yield f"{ours}.bn{conv + 1}", f"{theirs}.layer.{conv}.normalization"


def to_huggingface_keys(state_dict: Mapping[str, Tensor], model_args: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict under the keys of `DetrForObjectDetection`: queries, keys and values apart, no batch counters."""
    names = dict(_modules(model_args["enc_layers"], model_args["dec_layers"]))
    if not model_args.get("dilation", False):
        names |= {_BODY + ours: _HF_BODY + theirs for ours, theirs in _body_modules(model_args["backbone"])}
    renamed: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf.startswith("in_proj_"):
            stack_and_layer, _, attention = module.removeprefix("transformer.").rpartition(".")
            theirs = dict(_attentions("decoder"))[attention]
            for name, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                renamed[f"model.{stack_and_layer}.{theirs}.{name}.{leaf.removeprefix('in_proj_')}"] = part.clone()
        elif module in names:
            renamed[f"{names[module]}.{leaf}"] = value.contiguous()
        else:
            renamed[_HF_BODY + key.removeprefix(_BODY)] = value.contiguous()
    return renamed


def from_huggingface_keys(state_dict: Mapping[str, Tensor], enc_layers: int, dec_layers: int) -> dict[str, Tensor]:
    """The inverse of `to_huggingface_keys`, for the names of all versions and both layouts of the backbone.

    Raises:
        KeyError: a key that belongs to no part of DETR, or an attention without its three projections.
    """
    names = {theirs: ours for ours, theirs in _modules(enc_layers, dec_layers)}
    for backbone in ("resnet34", "resnet152"):  # between them, every block of every ResNet
        names |= {_HF_BODY + theirs: _BODY + ours for ours, theirs in _body_modules(backbone)}
    tensors: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        for pattern, name in _OTHER_NAMES:
            key = pattern.sub(name, key)
        tensors[key] = value
    renamed: dict[str, Tensor] = {}
    for stack, layers in (("encoder", enc_layers), ("decoder", dec_layers)):
        for layer in range(layers):
            for ours, theirs in _attentions(stack):
                for leaf in ("weight", "bias"):
                    place = f"model.{stack}.layers.{layer}.{theirs}"
                    parts = [tensors.pop(f"{place}.{name}.{leaf}") for name in _PROJECTIONS]
                    renamed[f"transformer.{stack}.layers.{layer}.{ours}.in_proj_{leaf}"] = torch.cat(parts)
    for key, value in tensors.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if module in names:
            renamed[f"{names[module]}.{leaf}"] = value
        elif key.startswith(_HF_BODY):
            renamed[_BODY + key.removeprefix(_HF_BODY)] = value
        else:
            raise KeyError(key)
    return renamed


def read_huggingface(folder: str | Path) -> Weights:
    """A Hugging Face DETR folder, in the layout of any version of transformers, read without it.

    Raises:
        WeightsError: a file is missing or broken, or the model is not a DETR for detection on a plain ResNet.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    kind = (config.get("architectures") or ["DetrForObjectDetection"])[0]
    if config.get("model_type") != "detr" or kind != "DetrForObjectDetection":
        raise WeightsError(
            f"expected a DETR for detection (DetrForObjectDetection) in {folder}, found {kind} of type "
            f"{config.get('model_type')}; other models cannot be loaded"
        )
    for name in ("ffn_dim", "attention_heads"):
        pair = [config.get(f"{stack}_{name}", 2048 if name == "ffn_dim" else 8) for stack in ("encoder", "decoder")]
        if pair[0] != pair[1]:
            raise WeightsError(f"expected encoder and decoder of {folder} to have one {name}, found {pair}")
    try:
        state_dict = from_huggingface_keys(
            _read_tensors(folder), config.get("encoder_layers", 6), config.get("decoder_layers", 6)
        )
    except KeyError as problem:
        raise WeightsError(
            f"expected the weights of the model that {folder / 'config.json'} describes, stumbled over {problem}"
        ) from problem
    check_keys(state_dict, str(folder))
    model_args = infer_model_args(state_dict) | {
        "dilation": _dilation(config),
        "nheads": config.get("encoder_attention_heads", 8),
        "dropout": config.get("dropout", 0.1),
        "activation": config.get("activation_function", "relu"),
    }
    if "backbone" not in model_args or (config.get("backbone_config") or {}).get("downsample_in_bottleneck"):
        raise WeightsError(f"expected a ResNet as torchvision has it under {folder}, found another backbone")
    notes = (
        f"{folder} was made with auxiliary_loss on, by which transformers also normalises between the decoder layers; "
        "this model does not, as the original, and gives other results",
    )
    return Weights(
        state_dict,
        model_args,
        _categories(config, model_args["num_classes"]),
        _image_size(folder / "preprocessor_config.json"),
        str(folder),
        notes if config.get("auxiliary_loss") else (),
    )


def write_huggingface(weights: Weights, folder: str | Path) -> None:
    """Write a folder that `transformers.DetrForObjectDetection.from_pretrained` loads, each file whole or not at all.

    Raises:
        WeightsError: the format has no place for something in this model.
    """
    folder, args = Path(folder), _with_defaults(weights.model_args)
    for name, expected in (
        ("pre_norm", (False,)),
        ("activation", ("relu", "gelu")),
        ("backbone", tuple(RESNET_BLOCKS)),
    ):
        if args[name] not in expected:
            raise WeightsError(
                f"Hugging Face's DETR has {name} {' or '.join(map(str, expected))}, found {args[name]} in "
                f"{weights.source}; write a .pth file instead"
            )
    if args["backbone_norm"] == "group":
        raise WeightsError(
            f"Hugging Face's DETR has frozen batch norms, found group norms in {weights.source}; write a .pth instead"
        )
    tensors = to_huggingface_keys(weights.state_dict, args)
    write_atomic(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    processor = {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": weights.image_size, "longest_edge": round(weights.image_size * 1333 / 800)},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _STD,
        "do_pad": True,
    }
    write_atomic(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    write_atomic(folder / "config.json", json.dumps(_config(weights.categories, args), indent=2) + "\n")


def _config(categories: Categories, args: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a DETR for detection."""
    blocks, bottleneck = RESNET_BLOCKS[args["backbone"]]
    widths = [64, 128, 256, 512]
    backbone: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    backbone["backbone_config"] = {
        "model_type": "resnet",
        "depths": list(blocks),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "embedding_size": 64,
        "hidden_sizes": [4 * width for width in widths] if bottleneck else widths,
        "out_features": ["stage4"],
    }
    if args["dilation"]:
        backbone |= {"use_timm_backbone": True, "backbone": args["backbone"], "backbone_config": None}
    names = dict(enumerate(categories.names))
    return {
        "architectures": ["DetrForObjectDetection"],
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
        "auxiliary_loss": False,  # where it is on, transformers normalises between decoder layers: another model
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
        "category_ids": list(categories.ids),  # ours: the ids of the data set; transformers keeps it and ignores it
    }


def _with_defaults(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `build_model` with its defaults for those that are absent."""
    return {name: each.default for name, each in signature(build_model).parameters.items()} | dict(model_args)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"expected JSON in {path}, found something else ({problem})") from problem
    if not isinstance(content, dict):
        raise WeightsError(f"expected a JSON object in {path}, found a {type(content).__name__}")
    return content


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: safetensors, in one file or several, else pytorch_model.bin."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({str(name) for name in _read_json(index).get("weight_map", {}).values()})
        return {key: value for shard in shards for key, value in _read_safetensors(folder / Path(shard).name).items()}
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_checkpoint(folder / "pytorch_model.bin")
    raise WeightsError(f"expected model.safetensors or pytorch_model.bin in {folder}, found neither")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise WeightsError(f"{path} cannot be read ({problem}); copy or download it again") from problem
    return tensors


def _dilation(config: Mapping[str, Any]) -> bool:
    """Whether the last stage is dilated, which older configs say themselves and newer ones in the backbone's."""
    return bool(config.get("dilation")) or (config.get("backbone_config") or {}).get("output_stride") == 16


def _categories(config: Mapping[str, Any], num_classes: int) -> Categories:
    """Names from id2label, ids as `write_huggingface` keeps them, else the class indices."""
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if any(name.startswith("LABEL_") for name in labels.values()) or sorted(labels) != list(range(num_classes)):
        return COCO_CATEGORIES if num_classes == len(COCO_CATEGORIES) else Categories.unnamed(num_classes)
    names = [f"N/A {index}" if labels[index] == "N/A" else labels[index] for index in range(num_classes)]
    ids = config.get("category_ids")
    return Categories(tuple(ids) if ids and len(ids) == num_classes else tuple(range(num_classes)), tuple(names))


def _image_size(path: Path) -> int:
    """Shorter side in pixels, 800 where there is no preprocessor."""
    size = _read_json(path).get("size", 800) if path.is_file() else 800
    return int(size.get("shortest_edge", 800)) if isinstance(size, dict) else int(size)
