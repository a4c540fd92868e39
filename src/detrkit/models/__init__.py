"""Models: images to `Output`. `build_model` is the door; each noun of the paper has the file of its name."""

from __future__ import annotations

from detrkit.models.build import build_model
from detrkit.models.detr import DETR

__all__ = ["DETR", "build_model"]
