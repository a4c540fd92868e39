"""Weights with a mask head: what a file tells, fitting them to models with and without, every format there and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.commands.convert import write_reference_checkpoint
from detrkit.errors import WeightsError
from detrkit.models import build_model
from detrkit.models.checkpoints import (
    COCO_PANOPTIC_CATEGORIES,
    Weights,
    fit_weights,
    load_weights,
    mask_head_note,
    write_huggingface,
)
from detrkit.structures import Categories

from .small import SMALL, padded_batch, small_model, small_weights

LEVELS: dict[str, Any] = {
    "feature_levels": "8,16,32", "encoder": "hybrid", "decoder": "deformable", "query_init": "mixed_selection",
    "sigmoid": True,
}  # fmt: skip
MASKS = ("mask_head.", "bbox_attention.")


def with_masks(names: tuple[str, ...] = ("cat", "dog", "bird"), **changes: Any) -> Weights:
    weights = small_weights(names, masks=True, **changes)
    return replace(weights, state_dict={key.removeprefix("detr."): v for key, v in weights.state_dict.items()})


def other(weights: Weights, **changes: Any) -> Any:
    return build_model(**{**weights.model_args, **changes})


def test_a_reference_file_implies_masks_and_heads(tmp_path: Path) -> None:
    model = small_model(masks=True, num_classes=250, nheads=2)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    assert all(key.startswith(("detr.", *MASKS)) for key in model.state_dict())
    weights = load_weights(tmp_path / "w.pth")
    assert (weights.model_args["masks"], weights.model_args["nheads"], weights.model_args["num_classes"]) == (
        True, 2, 250,
    )  # fmt: skip
    assert weights.categories == COCO_PANOPTIC_CATEGORIES
    assert "COCO panoptic" in weights.assumed["categories"]
    assert "nheads" not in weights.assumed
    rebuilt = build_model(**weights.model_args).eval()
    rebuilt.load_state_dict(weights.state_dict)
    with torch.no_grad():
        assert torch.equal(rebuilt(*padded_batch()).masks, model(*padded_batch()).masks)


@pytest.mark.parametrize("settings", [{}, {"backbone": "nano", **LEVELS}], ids=["classic", "levels"])
def test_a_detector_fits_a_model_with_masks_and_the_reverse(settings: dict[str, Any]) -> None:
    whole, detector = with_masks(**settings), small_weights(**settings)
    segments, boxes = other(whole), other(detector)
    before = {key: value.clone() for key, value in segments.state_dict().items()}
    fit_weights(segments, detector, detector.categories)
    for key, value in segments.state_dict().items():
        theirs = before[key] if key.startswith(MASKS) else detector.state_dict[key.removeprefix("detr.")]
        assert torch.equal(value, theirs), key
    assert mask_head_note(segments, detector) == "test is a detector without masks; a new mask head is trained"

    fit_weights(boxes, whole, whole.categories)
    assert all(torch.equal(value, whole.state_dict[key]) for key, value in boxes.state_dict().items())
    assert mask_head_note(boxes, whole) == "test has a mask head, which is left out"
    assert mask_head_note(segments, whole) == mask_head_note(boxes, detector) == ""

    fit_weights(segments, whole, whole.categories)
    assert all(torch.equal(v, whole.state_dict[k.removeprefix("detr.")]) for k, v in segments.state_dict().items())


def test_a_broken_mask_head_is_refused() -> None:
    weights = with_masks()
    model = other(weights)
    del weights.state_dict["mask_head.gn3.bias"]
    with pytest.raises(WeightsError, match=r"mask_head\.gn3\.bias is missing"):
        fit_weights(model, weights, weights.categories)


@pytest.mark.parametrize("settings", [{"dilation": True}, {"backbone": "nano", **LEVELS}], ids=["classic", "levels"])
def test_pth_there_and_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    weights = with_masks(**settings)
    weights = replace(weights, categories=replace(weights.categories, isthing=(True, False, True)))
    write_reference_checkpoint(weights, tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert content["model"].keys() == other(weights).state_dict().keys()
    back = load_weights(tmp_path / "w.pth")
    assert back.categories == weights.categories
    assert back.model_args == weights.model_args
    assert back.state_dict.keys() == weights.state_dict.keys()
    assert all(torch.equal(back.state_dict[key], value) for key, value in weights.state_dict.items())

    content["detrkit"]["model_args"]["masks"] = False
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="masks False where the weights have True"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["resnet18", "timm resnet50, dilation"])
def test_equals_the_reference_model(tmp_path: Path, kind: str) -> None:
    """`DetrForSegmentation` gives the same masks, in both directions."""
    transformers = pytest.importorskip("transformers")
    if "timm" in kind:
        pytest.importorskip("timm")
    changes = {"backbone": "resnet50", "dilation": True} if "timm" in kind else {}
    weights = with_masks(nheads=8, hidden_dim=128, **changes)  # it wants 8 groups in every norm
    weights = replace(weights, categories=Categories((7, 3, 90), ("cat", "dog", "bird"), (True, False, True)))
    write_huggingface(weights, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["DetrForSegmentation"]
    reference, info = transformers.DetrForSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info

    model = other(weights).eval()
    model.load_state_dict(weights.state_dict)
    images, padding = padded_batch()
    with torch.no_grad():
        theirs = reference.eval()(pixel_values=images, pixel_mask=(~padding).long())
        ours = model(images, padding)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)
    assert ours.masks.std() > 0.1
    torch.testing.assert_close(ours.masks, theirs.pred_masks, rtol=0, atol=1e-3)

    reference.save_pretrained(tmp_path / "theirs")
    torch.save(dict(reference.state_dict()), tmp_path / "theirs" / "pytorch_model.bin")
    for names in ("saved", "of the modules"):
        back = load_weights(tmp_path / "theirs")
        assert back.categories == weights.categories, names
        assert (back.model_args["masks"], back.model_args["nheads"]) == (True, 8)
        assert back.state_dict.keys() == weights.state_dict.keys()
        assert all(torch.equal(back.state_dict[key], value) for key, value in weights.state_dict.items())
        (tmp_path / "theirs" / "model.safetensors").unlink(missing_ok=True)


def test_smaller_names(tmp_path: Path) -> None:
    """A masks file with names of its own keeps them by name in another model."""
    weights = with_masks(("dog", "cat"))
    model = build_model(**{**SMALL, "masks": True})
    rows = fit_weights(model, weights, Categories((1, 2, 3), ("cat", "dog", "bird")))
    assert [row.kept_from for row in rows] == ["cat", "dog", None]
    assert torch.equal(model.class_embed.weight[0], weights.state_dict["class_embed.weight"][1])
