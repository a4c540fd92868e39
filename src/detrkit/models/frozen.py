"""Frozen parts of a model: those without any trainable parameter, which training leaves as they are.

A parameter is trainable if `requires_grad` is set; nothing else decides it. A frozen part has no parameter group in the
optimizer, and runs in evaluation mode also while the rest trains: its batch norms use their running statistics, do not
update them and are not synchronized between processes, and its dropout is off. The moving average of frozen weights is
those weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Freeze parameters. Call `train` of the model afterwards, which sets the mode of `frozen_parts`."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def is_frozen(part: nn.Module) -> bool:
    """Whether a part has parameters, and none of them is trainable."""
    trainable = [parameter.requires_grad for parameter in part.parameters()]
    return bool(trainable) and not any(trainable)


def frozen_parts(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest frozen parts of a model, the model itself excluded."""
    for part in model.children():
        if is_frozen(part):
            yield part
        else:
            yield from frozen_parts(part)
