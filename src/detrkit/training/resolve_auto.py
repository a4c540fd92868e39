"""Replace settings that are `auto` by numbers from the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.data.auto_settings import SuggestedSettings, suggest_settings
from detrkit.data.records import Split
from detrkit.training.checkpoint import ResumePoint

WORDS = {"num_queries": "Queries", "image_size": "Size", "batch_size": "Batch"}
"""The settings that can be proposed, and the word at the start of the line about each."""

OVERFIT_BATCH, OVERFIT_SIZE, OVERFIT_STEPS = 8, 256, 4
"""With `--overfit`: the most images per batch and pixels of them on a CPU that are proposed, and the steps that an
epoch has at the least. Few images are soon known by heart, so what counts is that a step is quick, and that more time
goes into steps than into evaluations and checkpoints between them."""


def resolve_auto(
    config: TrainConfig, train: Split, resume_point: ResumePoint | None, *, on_cpu: bool
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings with a number for each that is `auto`, and what to tell the user of it: a word, a sentence.

    A resumed run keeps the numbers it had, also of a batch size found by `max`. The number of queries stays open
    where `--weights` or `--frozen_weights` bring it.
    """
    if resume_point:
        had = {
            "num_queries": resume_point.metadata["model_args"]["num_queries"],
            "image_size": resume_point.metadata["preprocessing"]["image_size"],
            "batch_size": resume_point.metadata["batches"]["batch_size"],
        }
        numbers: dict[str, Any] = {name: int(had[name]) for name in WORDS if isinstance(getattr(config, name), str)}
        return replace(config, **numbers), {}
    brought = ("num_queries",) if config.weights or config.frozen_weights else ()
    left = [name for name in WORDS if getattr(config, name) == "auto" and name not in brought]
    suggested = suggest_settings(train, on_cpu=on_cpu, square_resize=config.square_resize)
    if config.overfit:
        suggested = _for_overfitting(suggested, len(train.images), on_cpu=on_cpu)
    numbers = {name: getattr(suggested, name) for name in left}
    return replace(config, **numbers), {WORDS[name]: suggested.reasons[name] for name in left}


def _for_overfitting(suggested: SuggestedSettings, num_images: int, *, on_cpu: bool) -> SuggestedSettings:
    """The same with all images in one batch, as far as possible, and small ones on the CPU."""
    batch, size, reasons = min(num_images, OVERFIT_BATCH), suggested.image_size, dict(suggested.reasons)
    reasons["batch_size"] = f"{batch}: " + (
        "all images at once" if batch == num_images else "as many as are learnt well"
    )
    if on_cpu and size > OVERFIT_SIZE:
        size = OVERFIT_SIZE
        reasons["image_size"] = f"{size}: small images are learnt by heart as well, and sooner"
    return replace(suggested, image_size=size, batch_size=batch, reasons=reasons)
