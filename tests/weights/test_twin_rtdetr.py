"""An RT-DETR of transformers gives the same results here, at every decoder layer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.structures import Categories

from .twins import LABELS, RESNET18, agree, ours, saved

transformers = pytest.importorskip("transformers")

SIZES = {
    "d_model": 32, "encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32], "encoder_layers": 1,
    "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_queries": 6,
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18vd": RESNET18,
    "resnet50vd": {"out_features": ["stage2", "stage3", "stage4"]},
    "nano": RESNET18 | {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 128, 256], "embedding_size": 32},
}


def make_twin(backbone: str, version: str = "RTDetr", **settings: Any) -> Any:
    body = transformers.RTDetrResNetConfig(**BACKBONES[backbone])
    channels = {"encoder_in_channels": body.hidden_sizes[1:]}
    config = getattr(transformers, f"{version}Config")(backbone_config=body, **channels, **LABELS, **SIZES | settings)
    return getattr(transformers, f"{version}ForObjectDetection")(config)


@pytest.mark.parametrize(
    ("backbone", "version", "settings"),
    [
        ("resnet18vd", "RTDetr", {"hidden_expansion": 0.5}),
        ("resnet50vd", "RTDetr", {}),
        ("nano", "RTDetrV2", {"decoder_n_points": 2, "num_denoising": 0}),
        ("nano", "RTDetr", {"freeze_backbone_batch_norms": False, "encoder_layers": 2}),
    ],
)
def test_twin(tmp_path: Path, backbone: str, version: str, settings: dict[str, Any]) -> None:
    twin = saved(make_twin(backbone, version, **settings), tmp_path)
    model, weights = ours(tmp_path)
    assert weights.model_args["backbone"] == backbone
    assert weights.categories == Categories((0, 1, 2), ("cat", "dog", "bird"))
    for size in ((96, 128), (160, 64)):  # transformers' knows no padding
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            out = twin(pixel_values=images)
        layers = list(zip(out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1), strict=True))
        torch.testing.assert_close(layers[-1], (out.logits, out.pred_boxes))
        agree(model, images, torch.zeros(2, *size, dtype=torch.bool), layers)
