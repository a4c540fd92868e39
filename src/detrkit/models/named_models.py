"""The models that have a name: architectures of `--model` and published weights of `--weights`."""

from __future__ import annotations

from dataclasses import dataclass

from detrkit.config.presets import MODELS
from detrkit.models.checkpoints.published import PUBLISHED


@dataclass(frozen=True)
class NamedModel:
    """A model that settings can name."""

    name: str
    """The value of `model` in `TrainConfig` and `--model`, or of `weights` and `Detector.load` if published."""
    description: str
    """One line."""
    published: bool
    """Whether the weights of the reference DETR are published under this name."""


def list_models() -> list[NamedModel]:
    """All models that have a name: architectures first, then those that are published weights alone.

    names = [each.name for each in detrkit.list_models()]
    """
    named = [NamedModel(name, (make.__doc__ or "").splitlines()[0], name in PUBLISHED) for name, make in MODELS.items()]
    known = {each.name for each in named}
    alone = [name for name in PUBLISHED if name not in known]
    return [*named, *(NamedModel(name, "DETR with a panoptic mask head; weights alone.", True) for name in alone)]
