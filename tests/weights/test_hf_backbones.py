"""Backbones with the keys of a plain ResNet and other computations are recognized by config.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.models.checkpoints import load_weights

from .reference_models import LABELS, RESNET18, ours, saved
from .small import padded_batch

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")

SIZES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "DETR": (transformers.DetrForObjectDetection, transformers.DetrConfig, {}),
    "Deformable DETR": (
        transformers.DeformableDetrForObjectDetection, transformers.DeformableDetrConfig, {"num_feature_levels": 1}
    ),
}  # fmt: skip


def hf_model(model: str, body: dict[str, Any], **settings: Any) -> Any:
    make, configure, own = MODELS[model]
    if "backbone" in body:
        body = {
            "model_type": "timm_backbone", "features_only": True, "use_pretrained_backbone": False, "num_channels": 3,
            "out_indices": [4], **body,
        }  # fmt: skip
    else:
        body = transformers.ResNetConfig(**RESNET18 | {"out_features": ["stage4"]} | body)
    return make(configure(backbone_config=body, **SIZES, **own, **settings, **LABELS))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("body", "out"),
    [
        ({"hidden_act": "gelu"}, "expected hidden_act relu"),
        ({"downsample_in_first_stage": True}, "expected downsample_in_first_stage False"),
        ({"backbone": "resnetblur18"}, "found resnetblur18 of stride 32"),
        ({"backbone": "resnet18", "output_stride": 8}, "found resnet18 of stride 8"),
    ],
)
def test_other_computations_are_left_to_transformers(
    tmp_path: Path, own_readers_alone: Any, model: str, body: dict[str, Any], out: str
) -> None:
    hf_model(model, body).save_pretrained(tmp_path)
    assert load_weights(tmp_path).of_transformers
    with own_readers_alone(), pytest.raises(WeightsError, match=out):
        load_weights(tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("body", "settings", "dilated"),
    [
        ({}, {"dilation": True}, False),  # which transformers does not look at here
        ({"backbone": "resnet34.tv_in1k"}, {}, False),
        ({"backbone": "resnet18.a1_in1k"}, {}, False),
        ({"backbone": "resnet50", "output_stride": 16}, {}, True),
    ],
)
@torch.no_grad()
def test_equal_computations_are_read(
    tmp_path: Path, model: str, body: dict[str, Any], settings: dict[str, Any], dilated: bool
) -> None:
    reference = saved(hf_model(model, body, **settings), tmp_path)
    here, weights = ours(tmp_path)
    assert weights.model_args["dilation"] is dilated
    images, padding = padded_batch()
    out, expected = here(images, padding), reference(pixel_values=images, pixel_mask=(~padding).long())
    torch.testing.assert_close(out.logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(out.boxes, expected.pred_boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "image_size", "note"),
    [
        ({"size": {"shortest_edge": 480, "longest_edge": 800}}, 480, ""),
        ({"size": {"shortest_edge": 320, "longest_edge": 320}}, 320, "images of up to 320 pixels per side"),
        ({"size": {"max_height": 480, "max_width": 480}}, 288, "resizes the shorter side to 288 or less"),
        ({"size": {"shortest_edge": 640}, "do_resize": False}, 640, "images of their own size"),
        ({"rescale_factor": 0.00392156862745098}, 800, ""),
    ],
)
def test_sizes_that_others_have(tmp_path: Path, settings: dict[str, Any], image_size: int, note: str) -> None:
    hf_model("DETR", {}).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    weights = load_weights(tmp_path)
    assert weights.preprocessing.image_size == image_size
    assert note in " ".join(weights.notes)
    assert bool(note) == bool(weights.notes)


@pytest.mark.parametrize("settings", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_other_scales_of_pixels_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    hf_model("DETR", {}).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match="expected pixels scaled by 1/255"):
        load_weights(tmp_path)


def test_classes_under_words_instead_of_numbers(tmp_path: Path) -> None:
    hf_model("DETR", {}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"a": "cat", "b": "dog", "c": "bird"}}))
    assert len(load_weights(tmp_path).categories) == 3
