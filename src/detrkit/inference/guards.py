"""Checks of a detector before and while it runs: settings in range, device, memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from detrkit.errors import ConfigError, OutOfMemoryError, WeightsError, is_out_of_memory
from detrkit.models import DetectionModel
from detrkit.models.arguments import unit_number, whole_number
from detrkit.structures import Categories


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Turn running out of memory into a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "memory ran out while an image was processed; try a higher --threshold (fewer masks), --batch_size 1, "
            "or a smaller --image_size"
        ) from error


def check_settings(threshold: float, top_k: int | None, batch_size: int) -> tuple[float, int | None, int]:
    """Check the settings of `Detector.predict` and return them as plain numbers.

    Raises:
        ConfigError: one is not a number, or out of range.
    """
    return (
        unit_number(threshold, "a threshold"),
        None if top_k is None else whole_number(top_k, "top_k", 0),
        whole_number(batch_size, "a batch_size", 1),
    )


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; auto or None: a GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name in ("auto", None):
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA says so by an AssertionError
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} finds no such device here; use --device cpu, or auto"
        ) from error
    return device


def check_parts(model: object, categories: object) -> None:
    """Make sure that a model and its classes fit.

    Raises:
        ConfigError: `model` is not a model, or the categories are not as many as its classes.
    """
    if not hasattr(model, "forward_detection"):
        raise ConfigError(
            f"expected a model that build_model made, found a {type(model).__name__}; weights in files are loaded "
            "with Detector.load"
        )
    if not isinstance(categories, Categories):
        raise ConfigError(
            f"expected Categories, found a {type(categories).__name__}; make them of ids and names, for example "
            'Categories((1, 2), ("cat", "dog"))'
        )
    if isinstance(model, DetectionModel) and len(categories) != model.num_classes:
        raise ConfigError(
            f"expected a category for each of the model's {model.num_classes} classes, found {len(categories)}; "
            "build the model with that num_classes"
        )


def weights_source(source: Any) -> str:
    """The source of weights as text, with `~` replaced by the home folder.

    Raises:
        WeightsError: it is neither text nor a path.
    """
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise WeightsError(
            "expected weights as a run folder, a file or a published name, found "
            f"{repr(source) if source in (None, '') else f'a {type(source).__name__}'}; a model that is built "
            "already goes into Detector(model, categories, image_size)"
        )
    return os.path.expanduser(source)  # noqa: PTH111  (a published name stays as it is)
