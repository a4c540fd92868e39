"""Models of every kind, small enough to be exported in a test, and batches for them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit import Categories, build_model
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.models import DETR
from detrkit.structures import Preprocessing

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "nano",
    "backbone_norm": "batch",
    "hidden_dim": 32,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 32,
    "num_queries": 6,
}
_RTDETR: dict[str, Any] = {
    "feature_levels": "16,32",
    "encoder": "hybrid",
    "encoder_expansion": 0.5,
    "decoder": "deformable",
    "query_init": "topk_features",
    "num_points": 2,
    "box_refine": True,
    "sigmoid": True,
}
_FAST = _RTDETR | {
    "query_init": "mixed_selection",
    "two_stage_head": "dense",
    "query_nms_iou": 0.7,
    "dense_head": "tood",
    "dense_convs": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "classic": {},
    "dc5": {"backbone": "resnet18", "dilation": True},
    "pre_norm": {"pre_norm": True, "position_embedding": "learned"},
    "anchors": {"decoder": "conditional", "query_init": "anchors", "box_refine": True, "sigmoid": True},
    "points": {"feature_levels": "16,32", "encoder": "deformable", "decoder": "deformable", "sigmoid": True},
    "two_stage": {
        "feature_levels": "16,32",
        "encoder": "deformable",
        "decoder": "deformable",
        "query_init": "two_stage",
        "box_refine": True,
        "sigmoid": True,
    },
    "rtdetr": _RTDETR,
    "fast": _FAST,
    "masks": {"masks": True},
    "fast_masks": _FAST | {"masks": True},
}
CATEGORIES = Categories((3, 7, 20), ("scratch", "pit", "stain"))


def small_model(kind: str, **settings: Any) -> DETR:
    """Of a kind, its norms not those of a fresh model, its answers those of one that has learned to differ."""
    torch.manual_seed(0)
    model = build_model(**{**SMALL, **KINDS[kind], **settings})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if "class_embed" in name or "bbox_embed" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def metadata(model: DETR, **settings: Any) -> ExportMetadata:
    """What would travel with it."""
    defaults: dict[str, Any] = {
        "categories": CATEGORIES,
        "preprocessing": Preprocessing(64, mean=model.backbone.mean, std=model.backbone.std),
        "num_queries": model.num_queries,
        "top_k": model.num_queries if model.sigmoid else 0,
        "sigmoid": model.sigmoid,
        "masks": model.mask_head is not None,
    }
    return ExportMetadata(**{**defaults, **settings})


def batch(*sizes: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    """Images of these (h, w) in one batch, padded where they differ."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
        padding[i, :h, :w] = False
    return {"images": images, "padding_mask": padding}


def checkpoint(path: Path, kind: str, *, square_resize: bool = False, **settings: Any) -> Path:
    """As training writes it, without Lightning's part."""
    model = small_model(kind, **settings)
    header = {
        "version": 1,
        "model_args": {**SMALL, **KINDS[kind], **settings},
        "categories": CATEGORIES.to_plain(),
        "preprocessing": Preprocessing(64, square_resize).to_plain(),
    }
    torch.save({"model": model.state_dict(), "detrkit": header}, path)
    return path
