"""Shared by the tests against transformers: reference models with random weights, saved to a folder of their own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.models import DETR, build_model
from detrkit.models.checkpoints import Weights, load_weights

from .small import fill

NAMES = {0: "cat", 1: "dog", 2: "bird"}
LABELS: dict[str, Any] = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
RESNET18: dict[str, Any] = {
    "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip


def saved(reference: Any, folder: Path) -> Any:
    """Give the reference model weights that matter, save it to a folder and return it."""
    constant = ".n_points_scale"  # of RT-DETR's second version
    tensors = {key: value for key, value in reference.state_dict().items() if not key.endswith(constant)}
    assert all(key.endswith(constant) for key in reference.load_state_dict(fill(tensors), strict=False).missing_keys)
    reference.save_pretrained(folder)
    return reference.eval()


def ours(folder: Path) -> tuple[DETR, Weights]:
    """Our model of a folder, its keys all there and no others."""
    weights = load_weights(folder)
    model = build_model(**weights.model_args)
    model.load_state_dict(weights.state_dict)
    return model.eval(), weights


def under_names_of_today(reference: Any, folder: Path) -> None:
    """Replace the tensors of a folder, saved under the names of old, by those of the modules; pickled, as once."""
    (folder / "model.safetensors").unlink()
    torch.save(dict(reference.state_dict()), folder / "pytorch_model.bin")


def agree(model: DETR, images: Tensor, padding: Tensor, layers: list[tuple[Tensor, Tensor]]) -> None:
    """Logits and boxes of all layers, first to last, are those of the reference model within 1e-4."""
    with torch.no_grad():
        out = model(images, padding)
    outputs = [*out.aux, out]
    assert len(outputs) == len(layers)
    for layer, (logits, boxes) in zip(outputs, layers, strict=True):
        assert logits.std() > 0.1  # the weights tell,
        assert boxes.std(1).max() > 0.02  # and queries differ
        torch.testing.assert_close(layer.logits, logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(layer.boxes, boxes, rtol=0, atol=1e-4)
