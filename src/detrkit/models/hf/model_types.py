"""The types of detection transformers in transformers, and how they differ from each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ModelType:
    """A type of model: `model_type` of its config.json."""

    name: str
    """As its paper calls it."""
    model_type: str
    architecture: str
    """Class of its detector of boxes in transformers."""
    loss: Literal["denoising", "groups", "set"]
    """Kind of its loss: denoising queries beside the matching ones (RT-DETR and its successors), groups of queries
    (Group DETR), or matching alone."""
    multiple: Callable[[Any], int]
    """From its config: sides of images must be multiples of this many pixels."""
    exports_any_size: bool = False
    """Whether one traced graph serves images of any size."""
    heeds_padding: bool = True
    """Whether boxes are relative to the image without padding; else padding is part of the image."""
    sigmoid: bool = True
    """Whether classes are independent sigmoids, without "no object"."""
    square: int = 0
    """Side in pixels of the squares that images are resized to, if preprocessor_config.json does not state it; 0: the
    shorter side becomes 800."""
    normalized: bool = True
    """Whether images are normalized, if preprocessor_config.json does not state it."""


def _of_strides(config: Any) -> int:
    """Levels are halved and doubled, which must give the same sizes."""
    return max(32, *config.feat_strides)


def _of_windows(config: Any) -> int:
    """Patches are divided into windows."""
    backbone = config.backbone_config
    patch = backbone.patch_size if isinstance(backbone.patch_size, int) else max(backbone.patch_size)
    # LW-DETR counts all windows, RF-DETR those of a side
    side = math.isqrt(backbone.num_windows) if config.model_type == "lw_detr" else backbone.num_windows
    return int(patch * side)


def _any_size(config: Any) -> int:
    return 1


_HYBRID: dict[str, Any] = {
    "loss": "denoising",
    "multiple": _of_strides,
    "heeds_padding": False,
    "square": 640,
    "normalized": False,
}
"""RT-DETR and its successors."""

_SET: dict[str, Any] = {"loss": "set", "multiple": _any_size}
"""DETR and its direct variants."""

MODEL_TYPES: dict[str, ModelType] = {
    each.model_type: each
    for each in (
        ModelType("D-FINE", "d_fine", "DFineForObjectDetection", **_HYBRID),
        ModelType("DEIMv2", "deimv2", "Deimv2ForObjectDetection", **_HYBRID),
        ModelType("RT-DETR", "rt_detr", "RTDetrForObjectDetection", **_HYBRID),
        ModelType("RT-DETRv2", "rt_detr_v2", "RTDetrV2ForObjectDetection", **_HYBRID),
        ModelType("RF-DETR", "rf_detr", "RfDetrForObjectDetection", "groups", _of_windows, square=560),
        ModelType("LW-DETR", "lw_detr", "LwDetrForObjectDetection", "groups", _of_windows, square=640),
        ModelType("Deformable DETR", "deformable_detr", "DeformableDetrForObjectDetection", **_SET),
        ModelType(
            "Conditional DETR", "conditional_detr", "ConditionalDetrForObjectDetection", exports_any_size=True, **_SET
        ),
        ModelType("DAB-DETR", "dab-detr", "DabDetrForObjectDetection", exports_any_size=True, **_SET),
        ModelType("DETR", "detr", "DetrForObjectDetection", exports_any_size=True, sigmoid=False, **_SET),
    )
}
"""`model_type` of config.json -> the type of model."""


def queries_of(config: Any) -> int:
    """Number of object queries in inference of a model with this config of transformers."""
    if getattr(config, "two_stage", False):
        return int(config.two_stage_num_proposals)
    return int(config.num_queries)
