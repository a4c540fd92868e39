"""The tiny detector of tests/inference, and detections to draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from detrkit import Detections
from tests.inference.conftest import checkpoint, detector, mask_checkpoint, mask_detector, some_images

__all__ = ["checkpoint", "detector", "mask_checkpoint", "mask_detector", "some_images"]


@pytest.fixture
def some_detections() -> Detections:
    """Two detections, without and with room above for a label."""
    return Detections(
        xyxy=torch.tensor([[4.0, 1.0, 30.0, 20.0], [40.0, 25.0, 70.0, 50.0]]),
        scores=torch.tensor([0.9, 0.4]),
        class_ids=torch.tensor([3, 7]),
        class_names=("scratch", "Größe ж"),
    )


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size
