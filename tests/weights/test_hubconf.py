"""hubconf.py, as torch.hub calls it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.inference.postprocess import panoptic, postprocess
from detrkit.models import DETR
from detrkit.models.checkpoints import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, **arguments: Any) -> Any:
    return torch.hub.load(str(ROOT), name, source="local", **arguments)


def test_the_entries_for_boxes() -> None:
    entries = {"detr_resnet50": 32, "detr_resnet50_dc5": 16, "detr_resnet101": 32, "detr_resnet101_dc5": 16}
    assert set(entries) == {name for name in PUBLISHED if "panoptic" not in name}
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


def test_the_entries_for_panoptic_maps() -> None:
    entries = {"detr_resnet50_panoptic": 32, "detr_resnet50_dc5_panoptic": 16, "detr_resnet101_panoptic": 32}
    assert set(entries) == {name for name in PUBLISHED if "panoptic" in name}
    with torch.device("meta"):
        for name, stride in entries.items():
            model, post = load(name, threshold=0.7, return_postprocessor=True)
            assert model.stride == stride
            assert model.class_embed.weight.shape == (251, 256)
            assert "mask_head.lay1.weight" in model.state_dict()
            assert post.func is panoptic
            assert post.keywords["threshold"] == 0.7
            assert [post.keywords["is_thing"][k] for k in (0, 90, 91, 200)] == [True, True, False, False]


def test_panoptic_maps_of_the_published_architecture(hub_cache: Path) -> None:
    """Loaded from the cache, under the reference DETR's keys; a segment is found where its query is sure."""
    published = load("detr_resnet50_panoptic")
    torch.nn.init.zeros_(published.class_embed.weight)
    published.class_embed.bias.data[:] = 20 * (torch.arange(251) == 17)
    torch.save({"model": published.state_dict()}, hub_cache / "detr-r50-panoptic-00ce5173.pth")
    model, post = load("detr_resnet50_panoptic", pretrained=True, return_postprocessor=True)
    assert all(torch.equal(value, published.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        out = model.eval()(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    size = torch.tensor([[64, 64]])
    (panoptic_map,) = post(out, size, size)
    assert panoptic_map.ids.shape == (64, 64)
    assert panoptic_map.segments
    assert {(row["category_id"], row["isthing"]) for row in panoptic_map.segments} == {(17, True)}
