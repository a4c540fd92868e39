"""The names of transformers and ours for the same tensors, in both directions.

Names are pairs of parts: a key belongs to the longest part that it begins with, and what follows is alike on both
sides. Only attention differs in more than names: transformers has queries, keys and values apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from detrkit.models.checkpoints.architecture import RESNET_BLOCKS

Names = Iterable[tuple[str, str]]
"""Pairs (ours, that of transformers)."""

BODY = "backbone.0.body"
HF_BODY = "model.backbone.conv_encoder.model"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

# Names that versions of transformers have used for the same part, and the one used here.
_OTHER_NAMES = (
    (re.compile(r"^model\.backbone\.model\."), f"{HF_BODY}."),
    (re.compile(r"^model\.backbone\.position_embedding\."), "model.position_embedding."),
    (re.compile(r"^model\.encoder\.encoder\.(\d+)\.layers\."), r"model.encoder.aifi.\1.layers."),
    (re.compile(r"^model\.decoder\.(class|bbox)_embed\."), r"\1_embed."),
    (re.compile(r"^bbox_attention\.([qk])_proj\."), r"bbox_attention.\1_linear."),
    (re.compile(r"^mask_head\.conv([12])\.conv\."), r"mask_head.lay\1."),
    (re.compile(r"^mask_head\.conv([12])\.norm\."), r"mask_head.gn\1."),
    (re.compile(r"^mask_head\.output_conv\."), "mask_head.out_lay."),
    *((re.compile(rf"^mask_head\.fpn_stages\.{i}\.fpn_adapter\."), f"mask_head.adapter{i + 1}.") for i in range(3)),
    *((re.compile(rf"^mask_head\.fpn_stages\.{i}\.refine\.conv\."), f"mask_head.lay{i + 3}.") for i in range(3)),
    *((re.compile(rf"^mask_head\.fpn_stages\.{i}\.refine\.norm\."), f"mask_head.gn{i + 3}.") for i in range(3)),
    (re.compile(r"\.o_proj\."), ".out_proj."),
    (re.compile(r"\.mlp\.(fc[12])\."), r".\1."),
)


def layer_names(stack: str, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """The feed-forward block and the norms of one layer of the encoder or the decoder."""
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    for number in (1, 2):
        yield f"{ours}.linear{number}", f"{theirs}.fc{number}"
    for number, norm in enumerate(norms if stack == "decoder" else norms[::2], start=1):
        yield f"{ours}.norm{number}", f"{theirs}.{norm}"


def resnet_names(backbone: str) -> Iterator[tuple[str, str]]:
    """The parts of one of torchvision's ResNets, in the layout of transformers' own."""
    blocks, bottleneck = RESNET_BLOCKS[backbone]
    ours, theirs = BODY, HF_BODY
    yield f"{ours}.conv1", f"{theirs}.embedder.embedder.convolution"
    yield f"{ours}.bn1", f"{theirs}.embedder.embedder.normalization"
    for block, their_block in _blocks(blocks):
        yield f"{block}.downsample.0", f"{their_block}.shortcut.convolution"
        yield f"{block}.downsample.1", f"{their_block}.shortcut.normalization"
        yield from _convolutions(block, their_block, bottleneck)


def resnet_vd_names(blocks: tuple[int, ...], bottleneck: bool) -> Iterator[tuple[str, str]]:
    """The parts of one of our ResNet-Ds, in the layout of RT-DETR's backbone."""
    stem = {"conv1.0": "0.convolution", "conv1.1": "0.normalization", "conv1.3": "1.convolution"}
    stem |= {"conv1.4": "1.normalization", "conv1.6": "2.convolution", "bn1": "2.normalization"}
    for ours, theirs in stem.items():
        yield f"{BODY}.{ours}", f"{HF_BODY}.embedder.embedder.{theirs}"
    for block, their_block in _blocks(blocks):
        # where the resolution falls, a pooling comes first; also where a basic block only gets wider
        pooled = block.endswith(".0") and not block.endswith("layer1.0")
        shortcut = f"{their_block}.shortcut.1" if pooled else f"{their_block}.shortcut"
        yield f"{block}.downsample.1", f"{shortcut}.convolution"
        yield f"{block}.downsample.2", f"{shortcut}.normalization"
        yield from _convolutions(block, their_block, bottleneck)


def _blocks(blocks: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    for stage, depth in enumerate(blocks):
        for block in range(depth):
            yield f"{BODY}.layer{stage + 1}.{block}", f"{HF_BODY}.encoder.stages.{stage}.layers.{block}"


def _convolutions(block: str, their_block: str, bottleneck: bool) -> Iterator[tuple[str, str]]:
    for conv in range(3 if bottleneck else 2):
        yield f"{block}.conv{conv + 1}", f"{their_block}.layer.{conv}.convolution"
        yield f"{block}.bn{conv + 1}", f"{their_block}.layer.{conv}.normalization"


def from_theirs(tensors: Mapping[str, Tensor], names: Names, attentions: Names) -> dict[str, Tensor]:
    """A state dict of transformers, of any version, under our keys; without the batch counters of the backbone.

    Args:
        tensors: theirs.
        names: of all parts but dense attention.
        attentions: of dense attention.

    Raises:
        KeyError: a key that belongs to no part, or an attention without one of its projections.
    """
    ours_of = {theirs: ours for ours, theirs in names}
    left: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for pattern, name in _OTHER_NAMES:
            key = pattern.sub(name, key)
        left[key] = value
    renamed: dict[str, Tensor] = {}
    for ours, theirs in attentions:
        for leaf in ("weight", "bias"):
            renamed[f"{ours}.in_proj_{leaf}"] = torch.cat(
                [left.pop(f"{theirs}.{name}.{leaf}") for name in _PROJECTIONS]
            )
            renamed[f"{ours}.out_proj.{leaf}"] = left.pop(f"{theirs}.out_proj.{leaf}")
    for key, value in left.items():
        ours = _replaced(key, ours_of)
        if not _is_counter(ours):
            renamed[ours] = value
    return renamed


def to_theirs(state_dict: Mapping[str, Tensor], names: Names, attentions: Names) -> dict[str, Tensor]:
    """The inverse of `from_theirs`, with the names that transformers itself writes."""
    theirs_of, attentions_of = dict(names), dict(attentions)
    renamed: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        module, _, leaf = key.rpartition(".")
        if _is_counter(key):
            continue
        if module in attentions_of:
            for name, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                renamed[f"{attentions_of[module]}.{name}.{leaf.removeprefix('in_proj_')}"] = part.clone()
        else:
            renamed[_replaced(key, theirs_of | attentions_of)] = value.contiguous()
    return renamed


def _replaced(key: str, names: Mapping[str, str]) -> str:
    """A key whose longest part that has another name got that name."""
    part, rest = key, ""
    while part not in names:
        part, dot, last = part.rpartition(".")
        if not dot:
            raise KeyError(key)
        rest = f".{last}{rest}"
    return names[part] + rest


def _is_counter(key: str) -> bool:
    """Whether a key of ours is a batch counter of the backbone, whose norms stay as they are."""
    return key.startswith(BODY) and key.endswith(".num_batches_tracked")
