"""What frozen means: a part of which no parameter learns stays as it is, whatever else is trained.

Whether a parameter learns is told by `requires_grad`, and by nothing else. All that follows from it is decided here: a
frozen part gets no group of the optimiser, and it runs as in evaluation also while the rest trains. So its batch norms
normalise by their running statistics and leave these alone, are not synchronised between processes, and its dropout is
off. A moving average of weights that stay as they are is those weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Let parameters learn no more; call `train` of the model afterwards, which asks `frozen_parts`."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def is_frozen(part: nn.Module) -> bool:
    """Whether a part has parameters, and none of them learns."""
    learns = [parameter.requires_grad for parameter in part.parameters()]
    return bool(learns) and not any(learns)


def frozen_parts(model: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a model that are frozen, the model itself not among them."""
    for part in model.children():
        if is_frozen(part):
            yield part
        else:
            yield from frozen_parts(part)
