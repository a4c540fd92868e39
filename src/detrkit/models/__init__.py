"""Models: images to `Output`. `build_model` makes them; each noun of the paper has the file of that name."""

from __future__ import annotations

from detrkit.models.build import build_model
from detrkit.models.detection_model import DetectionModel
from detrkit.models.detr import DETR

__all__ = ["DETR", "DetectionModel", "build_model"]
