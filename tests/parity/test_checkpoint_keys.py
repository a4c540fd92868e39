"""State-dict keys and shapes of the models of the paper are those of the published checkpoints."""

import json

import pytest
import torch

from detrkit.models import build_model
from tests.parity.cases import FIXTURES

KEYS = json.loads((FIXTURES / "checkpoint_keys.json").read_text())
MASKS = KEYS.pop("masks of all three panoptic models")


def _shapes_of(name):
    """Keys and shapes of a model of the paper (tables 1 and 5), by its published name."""
    masks = name.endswith("_panoptic")
    backbone = "resnet101" if "resnet101" in name else "resnet50"
    with torch.device("meta"):
        model = build_model(250 if masks else 91, backbone=backbone, dilation="_dc5" in name, masks=masks)
    return {key: list(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"])
def test_keys_and_shapes(name):
    expected = _keys_of(name)
    assert _shapes_of(name) == expected


def _keys_of(name, published=KEYS):
    return published[published[name]] if isinstance(published[name], str) else published[name]


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101"])
def test_keys_and_shapes_with_masks(name):
    """Those of the detector under the prefix of the reference DETR, with 250 classes, and those of a mask head."""
    classes = {"class_embed.weight": [251, 256], "class_embed.bias": [251]}
    expected = {f"detr.{key}": shape for key, shape in (_keys_of(name) | classes).items()} | MASKS
    assert _shapes_of(f"{name}_panoptic") == expected


def test_the_copy_is_the_shared_one(shared):
    published = json.loads((shared / "reference" / "checkpoint_keys.json").read_text())
    for name in ("detr_resnet50_panoptic", "detr_resnet50_dc5_panoptic", "detr_resnet101_panoptic"):
        keys = _keys_of(name, published)
        assert {key: shape for key, shape in keys.items() if not key.startswith("detr.")} == MASKS
        assert _shapes_of(name) == keys
    for name, keys in KEYS.items():
        assert published[name] == (KEYS[keys] if isinstance(keys, str) else keys)
