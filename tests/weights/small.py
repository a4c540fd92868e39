"""Small models with telling weights."""

import zlib
from typing import Any

import torch
from torch import Tensor

from detrkit.models import DETR, build_model
from detrkit.models.checkpoints import Weights
from detrkit.structures import Categories, Preprocessing

SMALL: dict[str, Any] = {
    "num_classes": 3, "backbone": "resnet18", "hidden_dim": 32, "enc_layers": 1, "dec_layers": 2,
    "dim_feedforward": 48, "nheads": 4, "num_queries": 5,
}  # fmt: skip


def fill(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values that depend on key and shape alone and keep activations near 1; statistics of norms are not trivial."""
    filled = {}
    for key, old in state_dict.items():
        normal = torch.randn(old.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        if not old.is_floating_point():
            filled[key] = old
        elif old.ndim > 1:
            filled[key] = normal / old[0].numel() ** 0.5
        elif key.endswith("running_var"):
            filled[key] = 0.5 + normal.sigmoid()
        else:
            filled[key] = 0.1 * normal + key.endswith("weight")
    return filled


def small_model(**changes: Any) -> DETR:
    model = build_model(**(SMALL | changes))
    model.load_state_dict(fill(model.state_dict()))
    return model.eval()


def small_weights(names: tuple[str, ...] = ("cat", "dog", "bird"), **changes: Any) -> Weights:
    model = small_model(num_classes=len(names), **changes)
    categories = Categories(tuple(range(1, len(names) + 1)), names)
    return Weights(
        model.state_dict(), SMALL | changes | {"num_classes": len(names)}, categories, Preprocessing(320), "test"
    )


def padded_batch() -> tuple[Tensor, Tensor]:
    """Two images of different sizes: images [2, 3, 96, 128], padding [2, 96, 128]."""
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 70:], padding[1, :, 90:] = True, True
    return images.masked_fill(padding[:, None], 0.0), padding
