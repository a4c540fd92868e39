"""Fold batch norms into the convolutions before them: the same function in fewer operations.

In evaluation a batch norm is a scale and a shift per channel, which the weight and bias of a convolution can include
(Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2). In addition the two branches of a
RepVGG block become one convolution (Ding et al. 2021, section 3.3).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detrkit.models.backbones.base import Stages
from detrkit.models.detection_model import DetectionModel
from detrkit.models.hybrid_encoder import ConvNorm, RepVGGBlock

ModelT = TypeVar("ModelT", bound=DetectionModel)

IN_ORDER = (nn.Sequential, Stages, BasicBlock, Bottleneck, ConvNorm)
"""Modules whose norms take the output of the child before, which has no other use."""


def fold_norms(model: ModelT) -> ModelT:
    """Copy a model, for evaluation alone, without the batch norms that can be folded.

    These are the batch norms of backbones, channel mapper and hybrid encoder; backbones of timm keep theirs. Outputs
    are those of the model up to rounding; state-dict keys are not.
    """
    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        for module in list(folded.modules()):
            if isinstance(module, IN_ORDER):
                _fold_children(module)
        for parent in list(folded.modules()):
            for name, child in parent.named_children():
                if isinstance(child, RepVGGBlock):
                    setattr(parent, name, nn.Sequential(_one_branch(child), nn.SiLU()))
    return folded.requires_grad_(False)


def _fold_children(module: nn.Module) -> None:
    """Fold each norm of a module whose predecessor is, or ends with, a convolution."""
    before: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d):
            conv = before[-1] if isinstance(before, nn.Sequential) and len(before) else before
            if isinstance(conv, nn.Conv2d):
                _fold(conv, child)
                setattr(module, name, nn.Identity())
        before = child


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    """Change a convolution to include the norm after it; in float64, so that weights are rounded once.

    gamma (W x + b - mean) / sqrt(var + eps) + beta = W' x + b', with s = gamma / sqrt(var + eps), W' = s W and
    b' = s (b - mean) + beta.
    """
    mean, variance = _double(norm.running_mean), _double(norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    shift = -mean
    if conv.bias is not None:
        shift = shift + _double(conv.bias)
    shift = shift * scale
    if norm.weight is not None:  # gamma and beta are optional
        scale, shift = scale * _double(norm.weight), shift * _double(norm.weight) + _double(norm.bias)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((_double(conv.weight) * scale[:, None, None, None]).to(dtype))
    conv.bias = nn.Parameter(shift.to(dtype))


def _one_branch(block: RepVGGBlock) -> nn.Conv2d:
    """The 3x3 convolution that equals the sum of the 3x3 and the 1x1 convolution of a folded block."""
    wide, narrow = block.conv1.conv, block.conv2.conv  # a 1x1 kernel is the center of a 3x3 one
    assert wide.bias is not None
    assert narrow.bias is not None
    wide.weight = nn.Parameter(wide.weight + F.pad(narrow.weight, (1, 1, 1, 1)))
    wide.bias = nn.Parameter(wide.bias + narrow.bias)
    return wide


def _double(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.double()
