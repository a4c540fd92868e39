"""detrkit: detection transformers, exactly as published, for people with images and boxes.

The public names below are all there is; they are imported when first used, so that `detrkit --help` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit.errors import DetrkitError
    from detrkit.inference import Detector
    from detrkit.inference.postprocess import panoptic, postprocess
    from detrkit.losses import build_criterion
    from detrkit.models import build_model
    from detrkit.results import Detections
    from detrkit.structures import Batch, Categories, Output, Target

__version__ = "0.1.0"

_HOME = {
    "Batch": "detrkit.structures",
    "Categories": "detrkit.structures",
    "Detections": "detrkit.results",
    "Detector": "detrkit.inference",
    "DetrkitError": "detrkit.errors",
    "Output": "detrkit.structures",
    "Target": "detrkit.structures",
    "build_criterion": "detrkit.losses",
    "build_model": "detrkit.models",
    "panoptic": "detrkit.inference.postprocess",
    "postprocess": "detrkit.inference.postprocess",
}

__all__ = [
    "Batch",
    "Categories",
    "Detections",
    "Detector",
    "DetrkitError",
    "Output",
    "Target",
    "build_criterion",
    "build_model",
    "panoptic",
    "postprocess",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'detrkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
