"""Folded batch norms: the same function, and the model that was given stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detrkit.models import DETR
from detrkit.models.fuse_bn import fold_norms
from detrkit.models.hybrid_encoder import RepVGGBlock
from tests.models.small import small_model, some_images

LEVELS = {"feature_levels": "8,16,32", "decoder": "deformable", "query_init": "two_stage", "sigmoid": True}
KINDS: dict[str, dict[str, Any]] = {
    "classic, basic blocks": {},
    "classic, bottlenecks": {"backbone": "resnet50"},
    "classic, batch norms": {"backbone_norm": "batch"},
    "classic, dilated": {"backbone": "resnet50", "dilation": True},
    "classic, masks": {"masks": True},
    "resnet18vd": {"backbone": "resnet18vd", "backbone_norm": "batch"},
    "resnet50vd": {"backbone": "resnet50vd"},
    "deformable, two stages": {**LEVELS, "encoder": "deformable", "box_refine": True},
    "hybrid encoder": {**LEVELS, "encoder": "hybrid", "backbone": "nano", "backbone_norm": "batch"},
    "hybrid encoder, narrow": {**LEVELS, "encoder": "hybrid", "backbone": "nano", "encoder_expansion": 0.5},
    "hybrid encoder, separable": {
        **LEVELS,
        "encoder": "hybrid",
        "backbone": "micro",
        "encoder_blocks": 1,
        "separable_convs": True,
    },
    "mapper with further levels": {**LEVELS, "encoder": "hybrid", "feature_levels": "16,32,64"},
    "dynamic masks": {**LEVELS, "encoder": "hybrid", "backbone": "nano", "masks": True},
}


def with_statistics(model: DETR) -> DETR:
    """As if it had been trained: fresh batch norms do nothing."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            shape = module.running_mean.shape
            with torch.no_grad():
                module.running_mean.copy_(0.3 * torch.randn(shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
                module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(shape, generator=generator))
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_model(kind: str) -> None:
    model = with_statistics(small_model(**KINDS[kind]))
    images, padding = some_images((96, 64), (70, 90))
    assert norms(model) > 5
    folded = fold_norms(model)
    assert norms(folded) == 0
    with torch.no_grad():
        expected, actual = model(images, padding), folded(images, padding)
        unnormed = [m.running_mean.zero_() for m in model.modules() if hasattr(m, "running_mean")]
        other = model(images, padding)
    assert unnormed
    assert not torch.allclose(other.logits, expected.logits, atol=1e-3)  # the norms do count
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(actual.logits, expected.logits, **close)
    torch.testing.assert_close(actual.boxes, expected.boxes, **close)
    for one, other in zip(actual.aux, expected.aux, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, **close)
    if expected.masks is not None:
        torch.testing.assert_close(actual.masks, expected.masks, **close)


def test_branches_become_one_convolution() -> None:
    model = with_statistics(small_model(**KINDS["hybrid encoder"]))
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock)]
    folded = fold_norms(model)
    assert len(blocks) == 12
    assert not any(isinstance(module, RepVGGBlock) for module in folded.modules())
    convs = [sum(isinstance(module, nn.Conv2d) for module in each.modules()) for each in (model, folded)]
    assert convs[0] - convs[1] == len(blocks)


def test_the_model_stays_as_it_was() -> None:
    model = with_statistics(small_model(**KINDS["hybrid encoder"])).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_norms(model)
    assert model.training
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    for parameter in folded.parameters():
        parameter.data.zero_()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_norms_without_scale_and_biased_convolutions_fold_too() -> None:
    model = with_statistics(small_model(**KINDS["hybrid encoder"]))
    block = model.transformer.encoder.fpn_blocks[0].conv1
    block.conv.bias = nn.Parameter(torch.linspace(-1, 1, block.conv.out_channels))
    statistics = block.norm.running_mean, block.norm.running_var
    block.norm = nn.BatchNorm2d(block.conv.out_channels, affine=False).eval()
    block.norm.running_mean, block.norm.running_var = statistics
    images, padding = some_images((64, 64))
    with torch.no_grad():
        expected, actual = model(images, padding), fold_norms(model)(images, padding)
    torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("refines", ["nothing", "boxes", "boxes and scores"])
def test_the_last_layer_alone_equals_the_last_of_all(refines: str) -> None:
    settings: dict[str, Any] = {} if refines == "nothing" else {**LEVELS, "encoder": "deformable", "box_refine": True}
    if refines == "boxes and scores":
        settings["score_refine"] = True
    model = small_model(dec_layers=3, **settings).eval()
    images, padding = some_images((96, 64), (70, 90))
    calls = {"class": 0, "box": 0}
    heads = [("class", model.class_embed), ("box", model.bbox_embed)]
    for name, head in heads:
        for each in head if isinstance(head, nn.ModuleList) else [head]:
            each.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    with torch.no_grad():
        expected = model.forward_detection(images, padding)
        assert calls == {"class": 3, "box": 3}
        calls.update({"class": 0, "box": 0})
        actual = model.forward_detection(images, padding, last_only=True)
    assert calls == {"class": 3 if "scores" in refines else 1, "box": 3 if "boxes" in refines else 1}
    assert torch.equal(actual.logits, expected.logits)
    assert torch.equal(actual.boxes, expected.boxes)
    assert actual.aux == []
    assert len(expected.aux) == 2  # the contract of the model itself
