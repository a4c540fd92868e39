"""The models of the paper (tables 1 and 5), as functions that show only what differs."""

from __future__ import annotations

from detrkit.models import build_model
from detrkit.models.detr import DETR


def detr_resnet50(num_classes: int = 91) -> DETR:
    """DETR, 41 M parameters, random weights."""
    return build_model(num_classes)


def detr_resnet50_dc5(num_classes: int = 91) -> DETR:
    """DETR-DC5, 41 M parameters, random weights."""
    return build_model(num_classes, dilation=True)


def detr_resnet101(num_classes: int = 91) -> DETR:
    """DETR-R101, 60 M parameters, random weights."""
    return build_model(num_classes, backbone="resnet101")


def detr_resnet101_dc5(num_classes: int = 91) -> DETR:
    """DETR-DC5-R101, 60 M parameters, random weights."""
    return build_model(num_classes, backbone="resnet101", dilation=True)


def detr_resnet50_panoptic(num_classes: int = 250) -> DETR:
    """DETR with masks, 43 M parameters, random weights."""
    return build_model(num_classes, masks=True)


def detr_resnet50_dc5_panoptic(num_classes: int = 250) -> DETR:
    """DETR-DC5 with masks, 43 M parameters, random weights."""
    return build_model(num_classes, dilation=True, masks=True)


def detr_resnet101_panoptic(num_classes: int = 250) -> DETR:
    """DETR-R101 with masks, 62 M parameters, random weights."""
    return build_model(num_classes, backbone="resnet101", masks=True)
