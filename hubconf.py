"""Entry points of `torch.hub.load`: the published models, named as in the reference DETR (facebookresearch/detr).

model = torch.hub.load("OWNER/detrkit", "detr_resnet50", pretrained=True)       # or "." with source="local"
out = model(images, padding_mask)      # normalized float [B, 3, H, W]; bool [B, H, W], True = padding
"""

import sys as _sys
from collections.abc import Callable as _Callable
from functools import partial as _partial
from pathlib import Path as _Path

_SOURCES = str(_Path(__file__).resolve().parent / "src")
if _SOURCES not in _sys.path:  # torch.hub fetches this repository without installing it
    _sys.path.append(_SOURCES)

from detrkit.inference.postprocess import panoptic as _panoptic  # noqa: E402
from detrkit.inference.postprocess import postprocess as _postprocess  # noqa: E402
from detrkit.models import DETR as _DETR  # noqa: E402
from detrkit.models import build_model as _build_model  # noqa: E402
from detrkit.models.checkpoints import PUBLISHED as _PUBLISHED  # noqa: E402
from detrkit.models.checkpoints import fit_weights as _fit_weights  # noqa: E402
from detrkit.models.checkpoints import load_weights as _load_weights  # noqa: E402
from detrkit.structures import Categories as _Categories  # noqa: E402

dependencies = ["torch", "torchvision", "safetensors", "rich"]

_Made = _DETR | tuple[_DETR, _Callable]


def detr_resnet50(pretrained: bool = False, num_classes: int = 91, return_postprocessor: bool = False) -> _Made:
    """DETR on ResNet-50, 42.0 box AP on COCO.

    Args:
        pretrained: load the published weights, downloaded once. Unless there are 91 classes, the class head is
            initialized anew.
        num_classes: number of classes, without "no object".
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


def detr_resnet50_panoptic(
    pretrained: bool = False, num_classes: int = 250, threshold: float = 0.85, return_postprocessor: bool = False
) -> _Made:
    """DETR on ResNet-50 with masks of things and stuff, 43.4 PQ on COCO.

    Args:
        pretrained: load the published weights, downloaded once. Unless there are 250 classes, the class head is
            initialized anew.
        num_classes: number of classes, without "no object".
        threshold: lowest score of a query in a panoptic map, 0..1.
        return_postprocessor: return (model, postprocessor) instead of the model alone. The postprocessor is
            `detrkit.panoptic` with this threshold and the classes up to 90 as things; its arguments are the output,
            the sizes of the images in the batch and the sizes of the maps.
    """
    return _make("detr_resnet50_panoptic", pretrained, num_classes, return_postprocessor, threshold)


def detr_resnet50_dc5_panoptic(
    pretrained: bool = False, num_classes: int = 250, threshold: float = 0.85, return_postprocessor: bool = False
) -> _Made:
    """DETR on ResNet-50 with a dilated last stage, 44.6 PQ on COCO; arguments as for `detr_resnet50_panoptic`."""
    return _make("detr_resnet50_dc5_panoptic", pretrained, num_classes, return_postprocessor, threshold)


def detr_resnet101_panoptic(
    pretrained: bool = False, num_classes: int = 250, threshold: float = 0.85, return_postprocessor: bool = False
) -> _Made:
    """DETR on ResNet-101 with masks, 45.1 PQ on COCO; arguments as for `detr_resnet50_panoptic`."""
    return _make("detr_resnet101_panoptic", pretrained, num_classes, return_postprocessor, threshold)


def _make(
    name: str, pretrained: bool, num_classes: int, return_postprocessor: bool, threshold: float | None = None
) -> _Made:
    entry = _PUBLISHED[name]
    model = _build_model(num_classes=num_classes, **entry.model_args)
    if pretrained:
        same = num_classes == len(entry.categories)
        _fit_weights(model, _load_weights(name), entry.categories if same else _Categories.unnamed(num_classes))
    if not return_postprocessor:
        return model
    if threshold is None:
        return model, _postprocess
    is_thing = [index <= 90 for index in range(num_classes)]  # the rule of the reference DETR, for COCO's ids
    return model, _partial(_panoptic, is_thing=is_thing, threshold=threshold)
