"""Rename the keys of state dicts between transformers and detrkit, in both directions.

Names are pairs of modules. The longest module name that a key begins with is replaced; the rest of the key is the same
on both sides. Attention differs in shape too: transformers stores the projections of queries, keys and values
separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from detrkit.models.checkpoints.architecture import RESNET_BLOCKS

Names = Iterable[tuple[str, str]]
"""Pairs (our name, name in transformers)."""

BODY = "backbone.0.body"
HF_BODY = "model.backbone.conv_encoder.model"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

# Names of the same module in other versions of transformers, and the name used here.
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
    """The names of the feed-forward block and the norms of one encoder or decoder layer."""
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    for number in (1, 2):
        yield f"{ours}.linear{number}", f"{theirs}.fc{number}"
    for number, norm in enumerate(norms if stack == "decoder" else norms[::2], start=1):
        yield f"{ours}.norm{number}", f"{theirs}.{norm}"


def resnet_names(backbone: str) -> Iterator[tuple[str, str]]:
    """The names of the modules of a torchvision ResNet, and those of transformers' ResNet."""
    blocks, bottleneck = RESNET_BLOCKS[backbone]
    ours, theirs = BODY, HF_BODY
    yield f"{ours}.conv1", f"{theirs}.embedder.embedder.convolution"
    yield f"{ours}.bn1", f"{theirs}.embedder.embedder.normalization"
    for block, their_block in _blocks(blocks):
        yield f"{block}.downsample.0", f"{their_block}.shortcut.convolution"
        yield f"{block}.downsample.1", f"{their_block}.shortcut.normalization"
        yield from _convolutions(block, their_block, bottleneck)


def resnet_vd_names(blocks: tuple[int, ...], bottleneck: bool) -> Iterator[tuple[str, str]]:
    """The names of the modules of a ResNet-D, and those of RT-DETR's backbone in transformers."""
    stem = {"conv1.0": "0.convolution", "conv1.1": "0.normalization", "conv1.3": "1.convolution"}
    stem |= {"conv1.4": "1.normalization", "conv1.6": "2.convolution", "bn1": "2.normalization"}
    for ours, theirs in stem.items():
        yield f"{BODY}.{ours}", f"{HF_BODY}.embedder.embedder.{theirs}"
    for block, their_block in _blocks(blocks):
        # the shortcut of stages 2 to 4 begins with a pooling layer
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
    """Rename a state dict of any version of transformers to our keys, without the backbone's batch counters.

    Args:
        tensors: state dict of transformers.
        names: names of all modules except full attention.
        attentions: names of the full-attention modules.

    Raises:
        KeyError: a key belongs to no module, or an attention lacks one of its projections.
    """
    ours_of = {theirs: ours for ours, theirs in names}
    remaining: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for pattern, name in _OTHER_NAMES:
            key = pattern.sub(name, key)
        remaining[key] = value
    renamed: dict[str, Tensor] = {}
    for ours, theirs in attentions:
        for leaf in ("weight", "bias"):
            renamed[f"{ours}.in_proj_{leaf}"] = torch.cat(
                [remaining.pop(f"{theirs}.{name}.{leaf}") for name in _PROJECTIONS]
            )
            renamed[f"{ours}.out_proj.{leaf}"] = remaining.pop(f"{theirs}.out_proj.{leaf}")
    for key, value in remaining.items():
        ours = _replaced(key, ours_of)
        if not _is_counter(ours):
            renamed[ours] = value
    return renamed


def to_theirs(state_dict: Mapping[str, Tensor], names: Names, attentions: Names) -> dict[str, Tensor]:
    """Rename a state dict to the keys that transformers writes, the inverse of `from_theirs`."""
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
    """A key with its longest module name in `names` replaced.

    Raises:
        KeyError: no module of `names` begins the key.
    """
    part, rest = key, ""
    while part not in names:
        part, dot, last = part.rpartition(".")
        if not dot:
            raise KeyError(key)
        rest = f".{last}{rest}"
    return names[part] + rest


def _is_counter(key: str) -> bool:
    """Whether one of our keys is a batch counter of the backbone, which frozen norms do not need."""
    return key.startswith(BODY) and key.endswith(".num_batches_tracked")
