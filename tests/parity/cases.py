"""The model cases of the reference results: inputs, and outputs of the reference DETR."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detrkit

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "reference"
LARGE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
NAMES = (
    "detr_resnet18_small_prenorm",
    "detr_resnet50",
    "detr_resnet50_dc5_learned",
    "detr_resnet50_instance",
    "detr_resnet50_panoptic",
)

_spec = importlib.util.spec_from_file_location("reference_fill", FIXTURES / "fill.py")
fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fill)


@dataclass(frozen=True)
class Case:
    """One model case."""

    expected: dict[str, Any]
    """Its `.json`."""
    arrays: dict[str, np.ndarray]
    """Its `.npz`."""

    @classmethod
    def load(cls, name: str) -> Case:
        folder = FIXTURES if (FIXTURES / f"{name}.json").is_file() else LARGE
        if not (folder / f"{name}.json").is_file():
            pytest.skip(f"no {name} in ../shared/reference; the small case is tested instead")
        return cls(json.loads((folder / f"{name}.json").read_text()), dict(np.load(folder / f"{name}.npz")))

    def model(self) -> detrkit.models.DETR:
        """A fresh model with the case's weights."""
        # which also sets the number of classes in the reference DETR
        options = {name: value for name, value in self.expected["options"].items() if name != "dataset_file"}
        model = detrkit.build_model(self.expected["num_classes"], dropout=0.0, **options)
        model.load_state_dict(fill.fill_state_dict(model.state_dict(), self.expected["salt"]))
        return model

    @property
    def sizes(self) -> torch.Tensor:
        return torch.tensor(self.expected.get("original_sizes", self.expected["image_sizes"]))

    @cached_property
    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        some_images = fill.fill_images(self.expected["image_sizes"], self.expected["salt"])
        height, width = (max(p.shape[side] for p in some_images) for side in (1, 2))
        images = torch.zeros(len(some_images), 3, height, width)
        padding = torch.ones(len(some_images), height, width, dtype=torch.bool)
        for image, mask, one_image in zip(images, padding, some_images, strict=True):
            image[:, : one_image.shape[1], : one_image.shape[2]] = one_image
            mask[: one_image.shape[1], : one_image.shape[2]] = False
        return images, padding

    @cached_property
    def targets(self) -> list[dict[str, torch.Tensor]]:
        counts, classes = self.expected["objects_per_image"], self.expected["num_classes"]
        sizes = self.expected["image_sizes"] if self.masks else None
        return fill.fill_targets(counts, classes - 1, self.expected["salt"], sizes)

    @property
    def masks(self) -> bool:
        """Whether it is about masks too."""
        return self.expected["options"].get("masks", False)

    def criterion(self) -> detrkit.losses.Criterion:
        """That of the reference DETR."""
        return detrkit.build_criterion(self.expected["num_classes"], masks=self.masks)
