"""Entry points of `torch.hub.load`: the four published detection models, under the original's names.

model = torch.hub.load("OWNER/detrkit", "detr_resnet50", pretrained=True)       # or "." with source="local"
out = model(images, padding_mask)      # normalised float [B, 3, H, W]; bool [B, H, W], True = padding
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path

_SOURCES = str(_Path(__file__).resolve().parent / "src")
if _SOURCES not in _sys.path:  # torch.hub fetches this repository without installing it
    _sys.path.append(_SOURCES)

from detrkit.models import DETR as _DETR  # noqa: E402
from detrkit.models import build_model as _build_model  # noqa: E402
from detrkit.models.weights import PUBLISHED as _PUBLISHED  # noqa: E402
from detrkit.models.weights import fit_weights as _fit_weights  # noqa: E402
from detrkit.models.weights import load_weights as _load_weights  # noqa: E402
from detrkit.postprocessing import postprocess as _postprocess  # noqa: E402
from detrkit.structures import Categories as _Categories  # noqa: E402

dependencies = ["torch", "torchvision", "safetensors", "rich"]

_Made = _DETR | tuple[_DETR, _Callable]


def detr_resnet50(pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False) -> _Made:
    """DETR on ResNet-50, 42.0 box AP on COCO.

    Args:
        pretrained: load the published weights (fetched once). With other than 91 classes the class head starts anew.
        num_classes: classes, without "no object".
        return_postprocessor: return (model, `detrkit.postprocess`) instead of the model alone.
    """
    return _make("detr_resnet50", pretrained, num_classes, return_postprocessor)


def detr_resnet50_dc5(pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False) -> _Made:
    """DETR on ResNet-50 with a dilated last stage, 43.3 box AP on COCO; arguments as for `detr_resnet50`."""
    return _make("detr_resnet50_dc5", pretrained, num_classes, return_postprocessor)


def detr_resnet101(pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False) -> _Made:
    """DETR on ResNet-101, 43.5 box AP on COCO; arguments as for `detr_resnet50`."""
    return _make("detr_resnet101", pretrained, num_classes, return_postprocessor)


def detr_resnet101_dc5(pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False) -> _Made:
    """DETR on ResNet-101 with a dilated last stage, 44.9 box AP on COCO; arguments as for `detr_resnet50`."""
    return _make("detr_resnet101_dc5", pretrained, num_classes, return_postprocessor)


def _make(name: str, pretrained: bool, num_classes: int, return_postprocessor: bool) -> _Made:
    entry = _PUBLISHED[name]
    model = _build_model(num_classes=num_classes, **entry.model_args)
    if pretrained:
        same = num_classes == len(entry.categories)
        _fit_weights(model, _load_weights(name), entry.categories if same else _Categories.unnamed(num_classes))
    return (model, _postprocess) if return_postprocessor else model
