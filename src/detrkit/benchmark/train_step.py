"""A training step whose phases can be timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detrkit.benchmark.peak_memory import bytes_of
from detrkit.benchmark.timing import wait_for

PHASES = ("forward", "criterion", "backward", "optimizer")


class Step:
    """A training step on one batch, repeatable: forward, criterion, backward, optimizer.

    Args:
        forward: computes the outputs for the batch.
        criterion: outputs -> the loss.
        model: whose gradient is clipped to a norm of 0.1, as in the reference DETR.
        optimizer: of its parameters.
        device: to wait for between phases where they are timed.
    """

    def __init__(
        self,
        forward: Callable[[], object],
        criterion: Callable[[object], Tensor],
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
    ) -> None:
        self._forward, self._criterion = forward, criterion
        self._model, self._optimizer, self._device = model, optimizer, device

    def __call__(self, after: Callable[[], None] = lambda: None) -> None:
        """Take a step, leaving no gradients; `after` is called at the end of each phase."""
        out = self._forward()
        after()
        loss = self._criterion(out)
        after()
        loss.backward()  # type: ignore[no-untyped-call]
        after()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 0.1)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        after()

    def holds(self) -> int:
        """Bytes of the weights and, after the first step, of the optimizer state."""
        state = (v for kept in self._optimizer.state.values() for v in kept.values() if isinstance(v, Tensor))
        return bytes_of([*self._model.parameters(), *self._model.buffers(), *state])

    def shares(self, steps: int = 3) -> dict[str, float]:
        """The share of each phase in the time of a step, by the fastest of some steps; they add up to 1.

        Unlike a normal step, this waits for the device after each phase.
        """
        rows = [list(self._times()) for _ in range(steps)]
        best = [min(times) for times in zip(*rows, strict=True)]
        return {name: seconds / sum(best) for name, seconds in zip(PHASES, best, strict=True)}

    def _times(self) -> Iterator[float]:
        """Seconds of the phases of one step."""
        ends: list[float] = []

        def after() -> None:
            wait_for(self._device)
            ends.append(time.perf_counter())

        after()
        self(after)
        return (end - start for start, end in pairwise(ends))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and OpenCV use a single core."""
    import cv2

    before: Sequence[int] = (torch.get_num_threads(), cv2.getNumThreads())
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
