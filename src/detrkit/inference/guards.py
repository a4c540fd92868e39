"""What a detector makes sure of before and while it runs: settings in range, a device, memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from detrkit.errors import ConfigError, OutOfMemoryError, is_out_of_memory


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Memory that runs out, as a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "memory ran out while a picture was looked at; try a higher --threshold (fewer masks), --batch_size 1, "
            "or a smaller --image_size"
        ) from error


def check_settings(threshold: float, top_k: int | None, batch_size: int) -> None:
    """Make sure that the settings of `Detector.predict` are in range.

    Raises:
        ConfigError: one is not.
    """
    for fine, expected, value in (
        (0 <= threshold <= 1, "a threshold in 0..1", threshold),
        (top_k is None or top_k >= 0, "top_k of at least 0", top_k),
        (batch_size >= 1, "a batch_size of at least 1", batch_size),
    ):
        if not fine:
            raise ConfigError(f"expected {expected}, found {value}")


def find_device(name: str) -> torch.device:
    """The device of a name; auto: a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA says so by an AssertionError
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} finds no such device here; say --device cpu, or auto"
        ) from error
    return device
