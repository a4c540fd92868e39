"""State-dict keys and shapes of the four detection models are those of the published checkpoints."""

import json

import pytest
import torch

from detrkit.models import zoo
from parity.cases import FIXTURES

KEYS = json.loads((FIXTURES / "checkpoint_keys.json").read_text())


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"])
def test_keys_and_shapes(name):
    expected = KEYS[KEYS[name]] if isinstance(KEYS[name], str) else KEYS[name]
    with torch.device("meta"):
        found = {key: list(value.shape) for key, value in getattr(zoo, name)().state_dict().items()}
    assert found == expected


def test_the_copy_is_the_shared_one(shared):
    published = json.loads((shared / "reference" / "checkpoint_keys.json").read_text())
    for name, keys in KEYS.items():
        assert published[name] == (KEYS[keys] if isinstance(keys, str) else keys)
