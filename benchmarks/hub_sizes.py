"""Parameters and GFLOPs of detectors of the Hugging Face hub whose authors count otherwise, or publish none.

    python benchmarks/hub_sizes.py [--models lwdetr_t,rfdetr_n]

Builds the models of transformers from settings alone: nothing is fetched, and no arithmetic is done, since tensors have
shapes only. A multiply-add counts as two operations, as in `benchmarks/model_table.py`. The settings are those of
transformers' scripts that converted the weights (`convert_lw_detr_to_hf.py`, `convert_rf_detr_weights_to_hf.py`), and
its defaults for Conditional DETR and DAB-DETR.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import transformers
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

from detrkit.models.checkpoints.hub_models import HUB_MODELS

CLASSES = 91
BLOCKS = {"window_block_indices": [0, 1, 3, 6, 7, 9], "num_hidden_layers": 10, "out_indices": [2, 4, 5, 9]}
TINY_BLOCKS = {"window_block_indices": [0, 2, 4], "num_hidden_layers": 6, "out_indices": [1, 3, 5]}
ONE_LEVEL = {
    "projector_scale_factors": [1.0], "d_model": 256, "decoder_self_attention_heads": 8,
    "decoder_cross_attention_heads": 16, "decoder_n_points": 2,
}  # fmt: skip
TWO_LEVELS = {
    "projector_scale_factors": [2.0, 0.5], "d_model": 384, "decoder_self_attention_heads": 12,
    "decoder_cross_attention_heads": 24, "decoder_n_points": 4,
}  # fmt: skip
LWDETR: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lwdetr_t": (TINY_BLOCKS | {"hidden_size": 192}, ONE_LEVEL | {"num_queries": 100}),
    "lwdetr_s": (BLOCKS | {"hidden_size": 192}, ONE_LEVEL | {"num_queries": 300}),
    "lwdetr_m": (BLOCKS | {"hidden_size": 384}, ONE_LEVEL | {"num_queries": 300}),
    "lwdetr_l": (BLOCKS | {"hidden_size": 384}, TWO_LEVELS | {"num_queries": 300}),
    "lwdetr_x": (BLOCKS | {"hidden_size": 768}, TWO_LEVELS | {"num_queries": 300}),
}
"""Short name -> settings of the ViT and of the rest."""
RFDETR = {"rfdetr_n": (384, 2), "rfdetr_s": (512, 3), "rfdetr_m": (576, 4), "rfdetr_l": (704, 4)}
"""Short name -> image size in pixels and decoder layers."""
OLDER = {
    "conditional_detr_r50": (transformers.ConditionalDetrConfig, transformers.ConditionalDetrForObjectDetection),
    "dab_detr_r50": (transformers.DabDetrConfig, transformers.DabDetrForObjectDetection),
}


def main() -> None:
    """Print a row per model, with what the table of the package says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", default=",".join((*LWDETR, *RFDETR, *OLDER)), help="short names, with commas between"
    )
    print("| model | pixels | M parameters | GFLOPs | in the table |\n|---|--:|--:|--:|---|")
    for name in parser.parse_args().models.split(","):
        model, size = build(name)
        parameters, gflops = cost(model, size)
        entry = HUB_MODELS[name]
        print(
            f"| `{name}` | {size} | {parameters:.1f} | {gflops:.1f} | {entry.parameters:g}, {entry.gflops:g} |",
            flush=True,
        )


def build(name: str) -> tuple[torch.nn.Module, int]:
    """A model with random weights, and the size of its images in pixels."""
    if name in LWDETR:
        vit, rest = LWDETR[name]
        backbone = transformers.LwDetrViTConfig(image_size=1024, num_attention_heads=12, **vit)
        config = transformers.LwDetrConfig(backbone_config=backbone, num_labels=CLASSES, decoder_layers=3, **rest)
        return transformers.LwDetrForObjectDetection(config), 640
    if name in RFDETR:
        size, layers = RFDETR[name]
        stages = ["stage3", "stage6", "stage9", "stage12"]
        backbone = RfDetrDinov2Config(
            hidden_size=384, image_size=size, num_attention_heads=6, num_windows=2, out_features=stages, patch_size=16
        )
        config = transformers.RfDetrConfig(
            backbone_config=backbone, num_labels=CLASSES, num_queries=300, decoder_layers=layers, **ONE_LEVEL
        )
        return transformers.RfDetrForObjectDetection(config), size
    settings, model = OLDER[name]
    resnet = transformers.ResNetConfig(out_features=["stage4"])
    return model(settings(backbone_config=resnet, use_timm_backbone=False, num_labels=CLASSES)), 640


def cost(model: torch.nn.Module, size: int) -> tuple[float, float]:
    """Millions of parameters, and billions of operations per image."""
    model.eval().requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        model(pixel_values=torch.zeros(1, 3, size, size))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 1e9


if __name__ == "__main__":
    main()
