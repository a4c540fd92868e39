"""hubconf.py, as torch.hub calls it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.models import DETR
from detrkit.models.weights import PUBLISHED
from detrkit.postprocessing import postprocess

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, **arguments: Any) -> Any:
    return torch.hub.load(str(ROOT), name, source="local", **arguments)


def test_the_four_entries() -> None:
    entries = {"detr_resnet50": 32, "detr_resnet50_dc5": 16, "detr_resnet101": 32, "detr_resnet101_dc5": 16}
    assert set(entries) == set(PUBLISHED)
    with torch.device("meta"):
        for name, stride in entries.items():
            model = load(name)
            assert isinstance(model, DETR)
            assert model.stride == stride
            assert model.class_embed.weight.shape == (92, 256)
            assert f"backbone.0.body.layer3.{22 if '101' in name else 5}.conv1.weight" in model.state_dict()


def test_postprocessor_and_classes() -> None:
    with torch.device("meta"):
        model, post = load("detr_resnet50", num_classes=6, return_postprocessor=True)
    assert model.class_embed.weight.shape == (7, 256)
    assert post is postprocess


@pytest.mark.parametrize("num_classes", [91, 6])
def test_pretrained(hub_cache: Path, num_classes: int) -> None:
    """From the cache; with other classes the head starts anew, apart from "no object"."""
    published = load("detr_resnet50_dc5")
    torch.save({"model": published.state_dict()}, hub_cache / "detr-r50-dc5-f0fb7ef5.pth")
    model = load("detr_resnet50_dc5", pretrained=True, num_classes=num_classes)
    assert torch.equal(model.query_embed.weight, published.query_embed.weight)
    assert torch.equal(model.class_embed.weight[-1], published.class_embed.weight[-1])
    assert torch.equal(model.class_embed.weight[0], published.class_embed.weight[0]) is (num_classes == 91)
