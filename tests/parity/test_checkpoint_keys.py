"""State-dict keys and shapes of the models of the paper are those of the published checkpoints."""

import json

import pytest
import torch

from detrkit.models import zoo
from parity.cases import FIXTURES

KEYS = json.loads((FIXTURES / "checkpoint_keys.json").read_text())
MASKS = KEYS.pop("masks of all three panoptic models")


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"])
def test_keys_and_shapes(name):
    expected = _keys_of(name)
    with torch.device("meta"):
        found = {key: list(value.shape) for key, value in getattr(zoo, name)().state_dict().items()}
    assert found == expected


def _keys_of(name, published=KEYS):
    return published[published[name]] if isinstance(published[name], str) else published[name]


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101"])
def test_keys_and_shapes_with_masks(name):
    """Those of the detector under the original's prefix, of 250 classes, and a mask head."""
    classes = {"class_embed.weight": [251, 256], "class_embed.bias": [251]}
    expected = {f"detr.{key}": shape for key, shape in (_keys_of(name) | classes).items()} | MASKS
    with torch.device("meta"):
        found = {key: list(value.shape) for key, value in getattr(zoo, f"{name}_panoptic")().state_dict().items()}
    assert found == expected


def test_the_copy_is_the_shared_one(shared):
    published = json.loads((shared / "reference" / "checkpoint_keys.json").read_text())
    for name in ("detr_resnet50_panoptic", "detr_resnet50_dc5_panoptic", "detr_resnet101_panoptic"):
        keys = _keys_of(name, published)
        assert {key: shape for key, shape in keys.items() if not key.startswith("detr.")} == MASKS
        with torch.device("meta"):
            assert {key: list(value.shape) for key, value in getattr(zoo, name)().state_dict().items()} == keys
    for name, keys in KEYS.items():
        assert published[name] == (KEYS[keys] if isinstance(keys, str) else keys)
