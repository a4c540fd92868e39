"""AdamW with the parameter groups of the reference DETR, and learning rates as a function of the position in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW

from detrkit.models.frozen import freeze

SAMPLING_POINT_PARAMETERS = ("sampling_offsets", "reference_points")
"""Parts of the names of parameters that place sampling points; they learn at a tenth of the rate in Deformable DETR
(section 5)."""


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    lr_backbone: float,
    weight_decay: float,
    lr_linear_proj_mult: float = 1.0,
    norm_decay: bool = True,
    backbone: str = "backbone.0.",
    fused: bool = True,
) -> AdamW:
    """Build AdamW with two parameter groups, as main.py of the reference DETR does, or more if settings divide them.

    Group 0 has all parameters whose name lacks "backbone", at `lr`; group 1 has the rest, at `lr_backbone`. As in the
    reference DETR, learned position encodings live under "backbone.1" and so belong to group 1. A rate of 0 freezes its
    parameters (see `models.frozen`): `lr_backbone` the feature extractor ("backbone.0"; learned position encodings then
    join group 0), `lr_linear_proj_mult` the projections of sampling points. Both groups follow the order of
    `named_parameters`, so that optimizer states of the reference DETR fit by position.

    Args:
        model: model whose parameters that require gradients are optimized.
        lr: learning rate of the transformer and heads.
        lr_backbone: learning rate of the backbone; 0 freezes it.
        weight_decay: weight decay of AdamW.
        lr_linear_proj_mult: factor of the rate of `SAMPLING_POINT_PARAMETERS`; other than 1: further groups; 0: they
            are frozen.
        norm_decay: whether norms and biases decay too; False: further groups, without decay.
        backbone: prefix of the names of the feature extractor's parameters.
        fused: step all parameters at once, equal up to rounding. Not under a gradient scaler, since a fused step would
            unscale the gradients itself, after clipping.
    """
    _freeze_by_rates(model, backbone, lr_backbone, lr_linear_proj_mult)
    marker = "backbone" if lr_backbone > 0 else backbone
    parts: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {(False, False, False): [], (True, False, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            slow = lr_linear_proj_mult != 1 and _is_slow(name)
            bare = not norm_decay and parameter.ndim <= 1
            parts.setdefault((marker in name, slow, bare), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": (lr_backbone if backbone else lr) * (lr_linear_proj_mult if slow else 1),
            "weight_decay": 0.0 if bare else weight_decay,
        }
        for (backbone, slow, bare), parameters in parts.items()
    ]
    return AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)


def _freeze_by_rates(model: nn.Module, backbone: str, lr_backbone: float, lr_linear_proj_mult: float) -> None:
    """Freeze whatever would learn at a rate of 0."""
    freeze(
        parameter
        for name, parameter in model.named_parameters()
        if (lr_backbone == 0 and name.startswith(backbone)) or (lr_linear_proj_mult == 0 and _is_slow(name))
    )
    model.train(model.training)


def _is_slow(name: str) -> bool:
    return any(word in name for word in SAMPLING_POINT_PARAMETERS)


FLAT_FRACTION = 0.5
"""Fraction of the epochs before the rates of "flat_cosine" fall (Lyu et al. 2022, RTMDet)."""
FINAL_FACTOR = 0.05
"""Factor of the base rates that "flat_cosine" falls to."""
MAX_WARMUP_FRACTION = 0.1
"""Longest warm-up, as a fraction of the run."""


def rate_factor(base_size: int, images: int) -> float:
    """The factor of learning rates for another number of images per step: the square root of the ratio.

    The variance of a gradient falls with the number of its images, and AdamW divides by the root of the second moment
    (square-root scaling rule: Malladi et al. 2022, section 5).

    Args:
        base_size: images per step that the rates are meant for; 0: they fit any number.
        images: images per step, over all devices and accumulated batches.
    """
    return math.sqrt(images / base_size) if base_size else 1.0


@dataclass(frozen=True)
class LRSchedule:
    """Learning rates of the groups, a pure function of the position in a run.

    Nothing of it is kept in checkpoints: a resumed run computes the same rates, and new rates take effect. A run with a
    limit of time is as far as its share of the steps or its share of the time, whichever is larger.
    """

    base: tuple[float, ...]
    """Base rate of each group."""
    kind: Literal["step", "cosine", "flat_cosine"]
    epochs: int
    """Epoch at which the cosine schedules end."""
    lr_drop: int
    """Epochs between drops to a tenth, for "step"."""
    warmup_steps: int
    """Optimizer steps of linear warm-up, at most `MAX_WARMUP_FRACTION` of the run; 0: none."""

    def factor(self, epoch: int, fraction: float, step: int, time_share: float = 0.0) -> float:
        """Factor of the base rates, in 0..1.

        Args:
            epoch: epochs finished.
            fraction: share of the current epoch that is done, 0..1.
            step: optimizer steps taken in all.
            time_share: share of the time for training that is used; 0 without a limit.
        """
        done = min(1.0, max((epoch + fraction) / self.epochs, time_share))
        warmup = min(1.0, max((step + 1) / self.warmup_steps, done / MAX_WARMUP_FRACTION)) if self.warmup_steps else 1.0
        if self.kind == "cosine":
            return warmup * _half_cosine(done)
        if self.kind == "flat_cosine":
            falling = max(0.0, done - FLAT_FRACTION) / (1 - FLAT_FRACTION)
            return warmup * (FINAL_FACTOR + (1 - FINAL_FACTOR) * _half_cosine(falling))
        return warmup * 0.1 ** (max(epoch, int(time_share * self.epochs)) // self.lr_drop)

    def rates(self, epoch: int, fraction: float, step: int, time_share: float = 0.0) -> list[float]:
        """Learning rate of each group; see `factor`."""
        factor = self.factor(epoch, fraction, step, time_share)
        return [lr * factor for lr in self.base]


def _half_cosine(part: float) -> float:
    """From 1 at 0 smoothly down to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * part))
