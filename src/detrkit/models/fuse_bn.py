"""Batch norms folded into the convolutions before them: the same function in fewer operations.

In evaluation a batch norm is a scale and a shift a channel, and so is the end of a convolution (Jacob et al. 2018,
"Quantization and Training of Neural Networks", section 3.2). The two branches of a RepVGG block become one convolution
besides (Ding et al. 2021, section 3.3).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detrkit.models.backbones.base import Stages
from detrkit.models.detr import DETR
from detrkit.models.hybrid_encoder import ConvNorm, RepVGGBlock

IN_ORDER = (nn.Sequential, Stages, BasicBlock, Bottleneck, ConvNorm)
"""Modules in which a norm has what the child before it gives, and nothing else has that."""


def fold_norms(model: DETR) -> DETR:
    """A copy of a model, for evaluation alone, without the batch norms that can be folded.

    These are all of our own parts: backbones, channel mapper and hybrid encoder. Backbones of timm keep theirs. Outputs
    are those of the model up to rounding; the keys of the copy are not those of the model.
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
    before: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d):
            conv = before[-1] if isinstance(before, nn.Sequential) and len(before) else before
            if isinstance(conv, nn.Conv2d):
                _fold(conv, child)
                setattr(module, name, nn.Identity())
        before = child


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    """Let a convolution do what a norm after it does; in float64, so that it is rounded once."""
    mean, variance = _double(norm.running_mean), _double(norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    shift = -mean
    if conv.bias is not None:
        shift = shift + _double(conv.bias)
    shift = shift * scale
    if norm.weight is not None:  # a batch norm need not have them
        scale, shift = scale * _double(norm.weight), shift * _double(norm.weight) + _double(norm.bias)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((_double(conv.weight) * scale[:, None, None, None]).to(dtype))
    conv.bias = nn.Parameter(shift.to(dtype))


def _one_branch(block: RepVGGBlock) -> nn.Conv2d:
    """The one 3x3 convolution that does what the 3x3 and the 1x1 convolution of a folded block do together."""
    wide, narrow = block.conv1.conv, block.conv2.conv
    assert wide.bias is not None
    assert narrow.bias is not None
    wide.weight = nn.Parameter(wide.weight + F.pad(narrow.weight, (1, 1, 1, 1)))
    wide.bias = nn.Parameter(wide.bias + narrow.bias)
    return wide


def _double(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.double()
