"""A tiny detector with random weights of each type of model of transformers, saved as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from detrkit.models.hf import MODEL_TYPES
from detrkit.structures import Target

NAMES = {0: "cat", 1: "dog", 2: "bird"}
SIZE = 64

_HGNET = transformers.HGNetV2Config(
    depths=[1, 1, 1, 1],
    hidden_sizes=[16, 16, 32, 48],
    embedding_size=16,
    stem_channels=[3, 8, 16],
    stage_in_channels=[16, 16, 16, 32],
    stage_mid_channels=[8, 8, 16, 16],
    stage_out_channels=[16, 16, 32, 48],
    stage_num_blocks=[1, 1, 1, 1],
    stage_numb_of_layers=[1, 1, 1, 1],
    out_indices=[2, 3, 4],
)
_RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 16, 32, 48],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
_HYBRID: dict[str, Any] = {
    "encoder_in_channels": [16, 32, 48],
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_in_channels": [32, 32, 32],
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
    "decoder_layers": 3,
    "decoder_n_points": 2,
    "num_queries": 12,
    "num_denoising": 8,
    "hidden_expansion": 0.5,
}
_PLAIN: dict[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 12,
    "auxiliary_loss": True,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
_GROUPS: dict[str, Any] = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "decoder_n_points": 2,
    "num_queries": 6,
    "group_detr": 2,
    "c2f_num_blocks": 1,
}


def _rtdetr_resnet(version: str) -> Any:
    return transformers.RTDetrResNetConfig(**_RESNET, out_features=["stage2", "stage3", "stage4"])


def _resnet(*stages: str) -> Any:
    return transformers.ResNetConfig(**_RESNET, out_features=list(stages))


def _configs() -> dict[str, Any]:
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    return {
        "d_fine": lambda: transformers.DFineConfig(backbone_config=_HGNET, depth_mult=0.34, **_HYBRID),
        "deimv2": lambda: transformers.Deimv2Config(backbone_config=_HGNET, depth_mult=0.34, **_HYBRID),
        "rt_detr_v2": lambda: transformers.RTDetrV2Config(backbone_config=_rtdetr_resnet("v2"), **_HYBRID),
        "rt_detr": lambda: transformers.RTDetrConfig(backbone_config=_HGNET, **_HYBRID),
        "rf_detr": lambda: transformers.RfDetrConfig(
            backbone_config=transformers.models.rf_detr.configuration_rf_detr.RfDetrDinov2Config(
                **vit, patch_size=8, num_windows=2, image_size=SIZE, out_indices=[1, 2]
            ),
            **_GROUPS,
        ),
        "lw_detr": lambda: transformers.LwDetrConfig(
            backbone_config=transformers.models.lw_detr.configuration_lw_detr.LwDetrViTConfig(
                **vit, patch_size=8, num_windows=4, image_size=SIZE, pretrain_image_size=SIZE, out_indices=[1, 2],
                window_block_indices=[0],
            ),
            projector_scale_factors=[1.0],
            **_GROUPS,
        ),
        "deformable_detr": lambda: transformers.DeformableDetrConfig(
            backbone_config=_resnet("stage2", "stage3", "stage4"),
            encoder_n_points=2,
            decoder_n_points=2,
            **_PLAIN | {"d_model": 64},  # of 32, each group of a norm would hold a single number
        ),
        "conditional_detr": lambda: transformers.ConditionalDetrConfig(backbone_config=_resnet("stage4"), **_PLAIN),
        "dab-detr": lambda: transformers.DabDetrConfig(
            backbone_config=_resnet("stage1", "stage2", "stage3", "stage4"),
            **{k: v for k, v in _PLAIN.items() if k != "d_model"}, hidden_size=32,
        ),
        "detr": lambda: transformers.DetrConfig(backbone_config=_resnet("stage4"), **_PLAIN),
    }  # fmt: skip


CONFIGS = _configs()
"""model_type -> makes the config of a tiny model that detrkit's own architectures cannot represent."""


def save(model_type: str, folder: Path, **changes: Any) -> Any:
    """Save a tiny model with its preprocessor and return it in evaluation mode.

    Args:
        model_type: a key of `CONFIGS`.
        folder: to write.
        changes: settings of the config.
    """
    torch.manual_seed(0)
    config = CONFIGS[model_type]()
    config.id2label, config.label2id = NAMES, {name: index for index, name in NAMES.items()}
    for name, value in changes.items():
        setattr(config, name, value)
    model = getattr(transformers, MODEL_TYPES[model_type].architecture)(config)
    for parameter in model.parameters():  # weights that keep activations near 1, so that all of them matter
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:  # statistics of the images below, for the same reason
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pixel_values=torch.rand(4, 3, SIZE, SIZE))
    for norm in norms:
        norm.momentum = 0.1
    model.save_pretrained(folder)
    normalized = MODEL_TYPES[model_type].normalized
    processor = {"do_normalize": normalized, "size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()


def images(count: int = 2, height: int = SIZE, width: int = SIZE) -> tuple[Tensor, Tensor]:
    """Random pixels, uint8 [B, 3, H, W], and no padding."""
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=noise).to(torch.uint8)
    return pixels, torch.zeros(count, height, width, dtype=torch.bool)


def targets(*counts: int) -> list[Target]:
    """Random objects, as many per image as told."""
    noise = torch.Generator().manual_seed(2)
    return [
        Target(
            labels=torch.randint(0, len(NAMES), (count,), generator=noise),
            boxes=torch.rand(count, 4, generator=noise) * 0.4 + 0.2,
        )
        for count in counts
    ]


def labels(objects: list[Target]) -> list[dict[str, Tensor]]:
    """Objects as transformers names them."""
    return [{"class_labels": each["labels"], "boxes": each["boxes"]} for each in objects]
