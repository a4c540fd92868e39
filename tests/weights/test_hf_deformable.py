"""A Deformable DETR of transformers gives the same results here, at every decoder layer."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.backbones.base import IMAGENET_MEAN
from detrkit.models.checkpoints import load_weights
from detrkit.structures import Categories

from .reference_models import LABELS, RESNET18, agree, ours, saved, under_names_of_today
from .small import padded_batch

transformers = pytest.importorskip("transformers")

SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 6, "two_stage_num_proposals": 6,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "one level": {"num_feature_levels": 1},
    "one dilated level": {"num_feature_levels": 1, "dilation": True},
    "four levels": {},
    "three levels, two points, gelu, learned positions": {
        "num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2, "activation_function": "gelu",
        "position_embedding_type": "learned",
    },
    "refinement": {"with_box_refine": True},
    "refinement, heads apart": {"with_box_refine": True},
    "two stages": {"with_box_refine": True, "two_stage": True},
    "two stages on one level": {"with_box_refine": True, "two_stage": True, "num_feature_levels": 1},
}  # fmt: skip


def make_reference(kind: str, **changes: Any) -> Any:
    settings = KINDS[kind]
    backbone: dict[str, Any] = {"backbone": "resnet18"}  # timm's, as in the published folders
    if kind != "one dilated level" and not kind.startswith("four"):
        stages = ["stage4"] if settings.get("num_feature_levels") == 1 else RESNET18["out_features"]
        backbone = {"backbone_config": transformers.ResNetConfig(**RESNET18 | {"out_features": stages})}
    else:
        pytest.importorskip("timm")
    reference = transformers.DeformableDetrForObjectDetection(
        transformers.DeformableDetrConfig(**backbone, **SIZES | settings | changes, **LABELS)
    )
    if "apart" in kind:  # as the published folders have them; transformers ties new ones
        reference.class_embed = torch.nn.ModuleList(copy.deepcopy(head) for head in reference.class_embed)
    return reference


def their_layers(reference: Any, images: Tensor, padding: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits and boxes of each layer; the reference model itself only returns those of the last one."""
    with torch.no_grad():
        out = reference(pixel_values=images, pixel_mask=(~padding).long())
        layers = []
        before = out.init_reference_points
        for k, hidden in enumerate(out.intermediate_hidden_states.unbind(1)):
            change = reference.bbox_embed[k](hidden)
            change[..., : before.shape[-1]] += before.logit()
            layers.append((reference.class_embed[k](hidden), change.sigmoid()))
            before = out.intermediate_reference_points[:, k]
    torch.testing.assert_close(layers[-1], (out.logits, out.pred_boxes))
    return layers


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference_model(tmp_path: Path, kind: str) -> None:
    reference = saved(make_reference(kind), tmp_path)
    model, weights = ours(tmp_path)
    assert weights.categories == Categories((0, 1, 2), ("cat", "dog", "bird"))
    assert weights.messages == ()
    if "apart" in kind:
        assert not torch.equal(model.class_embed[0].weight, model.class_embed[1].weight)
    images, padding = padded_batch()
    agree(model, images, padding, their_layers(reference, images, padding))


def test_places_at_the_border_of_a_wide_image(tmp_path: Path) -> None:
    """Those within a hundredth of it are no proposals; nearly all others are taken here."""
    reference = saved(make_reference("two stages", two_stage_num_proposals=600), tmp_path)
    model, _ = ours(tmp_path)
    images = torch.randn(1, 3, 64, 512, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(1, 64, 512, dtype=torch.bool)
    padding[:, :, 500:] = True
    agree(model, images, padding, their_layers(reference, images, padding))


def test_stored_settings_and_unsupported_ones(tmp_path: Path, own_readers_alone: Any) -> None:
    reference = make_reference("two stages")
    reference.save_pretrained(tmp_path)
    weights = load_weights(tmp_path)
    assert weights.model_args["feature_levels"] == "8,16,32,64"
    assert weights.model_args["query_init"] == "two_stage"
    assert weights.model_args["class_agnostic"] is True
    assert weights.preprocessing.mean == IMAGENET_MEAN
    assert weights.preprocessing.image_size == 800
    under_names_of_today(reference, tmp_path)
    again = load_weights(tmp_path).state_dict
    assert again.keys() == weights.state_dict.keys()
    assert all(torch.equal(again[key], value) for key, value in weights.state_dict.items())
    config = json.loads((tmp_path / "config.json").read_text())
    for settings, sentence in (
        ({"encoder_n_points": 2}, "one value of encoder_n_points, decoder_n_points"),
        ({"num_feature_levels": 6}, r"found other or missing keys at .input_proj\.4\.0\.weight"),
        ({"dilation": True, "backbone_config": None}, "or one with dilation, found 3 of 4 with dilation"),
        ({"with_box_refine": False}, "expected one head for all decoder layers"),
        ({"decoder_layers": 1}, "found other or missing keys at"),
        ({"architectures": ["DeformableDetrModel"]}, "found DeformableDetrModel of type deformable_detr"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | settings))
        with own_readers_alone(), pytest.raises(WeightsError, match=sentence):
            load_weights(tmp_path)
