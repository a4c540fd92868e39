"""Resolve `auto` settings from statistics of the training images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.data.auto_settings import SuggestedSettings, suggest_settings
from detrkit.data.auto_tiles import suggest_overlap, suggest_tiles
from detrkit.data.records import Split
from detrkit.data.repeat_factors import suggest_threshold
from detrkit.ops.tiles import Tiling
from detrkit.training.checkpoint import ResumePoint

WORDS = {"num_queries": "Queries", "image_size": "Size", "batch_size": "Batch"}
"""The settings that can be `auto`, and the word at the start of the line about each."""

# With `--overfit`, few images are soon overfit: steps should be fast, and take more time than the evaluations and
# checkpoints between them.
OVERFIT_BATCH = 8
"""Largest `auto` batch size with `--overfit`."""
OVERFIT_SIZE = 256
"""Largest `auto` image size with `--overfit` on a CPU, in pixels."""
OVERFIT_STEPS = 4
"""Smallest number of steps per epoch with `--overfit`."""


def resolve_auto(
    config: TrainConfig, train: Split, resume_point: ResumePoint | None, *, on_cpu: bool
) -> tuple[TrainConfig, dict[str, str]]:
    """Replace each `auto` setting by a number.

    A resumed run keeps its numbers, including the batch size that `max` found. With the weights of another detector
    the number of queries stays `auto`, since the weights state it.

    Args:
        config: settings of the run.
        train: training images, or their tiles.
        resume_point: checkpoint to resume from, or None.
        on_cpu: whether the run is on the CPU.

    Returns:
        The settings, and the reason for each number by its name on the console.
    """
    if resume_point:
        stored = {
            "num_queries": resume_point.metadata["model_args"]["num_queries"],
            "image_size": resume_point.metadata["preprocessing"]["image_size"],
            "batch_size": resume_point.metadata["batches"]["batch_size"],
        }
        numbers: dict[str, Any] = {name: int(stored[name]) for name in WORDS if isinstance(getattr(config, name), str)}
        if config.repeat_threshold == "auto":
            numbers["repeat_threshold"] = resume_point.metadata["batches"].get("repeat_threshold", 0.0)
        return replace(config, **numbers), {}
    from_weights = ("num_queries",) if config.fine_tunes or config.frozen_weights else ()
    names = [name for name in WORDS if getattr(config, name) == "auto" and name not in from_weights]
    suggested = suggest_settings(train, on_cpu=on_cpu, square_resize=config.square_resize)
    if config.overfit:
        suggested = _for_overfitting(suggested, len(train.images), on_cpu=on_cpu)
    numbers = {name: getattr(suggested, name) for name in names}
    if config.repeat_threshold == "auto":
        numbers["repeat_threshold"] = 0.0 if config.overfit else suggest_threshold(train)
    return replace(config, **numbers), {WORDS[name]: suggested.reasons[name] for name in names}


def resolve_tiles(
    config: TrainConfig, train: Split, resume_point: ResumePoint | None, *, on_cpu: bool
) -> tuple[TrainConfig, dict[str, str]]:
    """Replace `auto` tiles and overlap by numbers, before the images are cut. A resumed run keeps its numbers.

    Tiles and image size depend on each other, so if both are `auto` and there are tiles, the image size is replaced,
    too.

    Args:
        config: settings of the run.
        train: training images, whole.
        resume_point: checkpoint to resume from, or None.
        on_cpu: whether the run is on the CPU.

    Returns:
        The settings, and the reason for each number by its name on the console.
    """
    if config.tiles == "off":
        return config, {}
    stored = Tiling.from_plain(resume_point.metadata["preprocessing"].get("tiling")) if resume_point else None
    if resume_point and config.tiles == "auto":
        if stored is None:
            return replace(config, tiles="off", tile_overlap="auto"), {}
        return replace(config, tiles=stored.size, tile_overlap=stored.overlap), {}
    if stored and config.tiles == stored.size and config.tile_overlap == "auto":
        return replace(config, tile_overlap=stored.overlap), {}
    reasons = {}
    if config.tiles == "auto":
        size, why_size = config.image_size, ""
        if size == "auto":
            suggested = suggest_settings(train, on_cpu=on_cpu, square_resize=config.square_resize)
            size, why_size = suggested.image_size, suggested.reasons["image_size"]
        tiles, reason = suggest_tiles(train, size, square_resize=config.square_resize)
        if tiles is None:
            return replace(config, tiles="off", tile_overlap="auto"), {"Tiles": f"off: {reason}"}
        config, reasons = replace(config, tiles=tiles, image_size=size), {"Tiles": f"{tiles}: {reason}"}
        if why_size:
            reasons["Size"] = f"{size}: as for whole images; the tiles make up for the size of the objects"
    assert isinstance(config.tiles, int)
    if config.tile_overlap == "auto":
        config = replace(config, tile_overlap=suggest_overlap(train, config.tiles))
    assert config.tiling
    counts = [len(config.tiling.grid(image.height, image.width)) for image in train.images]
    number = f"{sum(counts)} {config.tiling} of {len(counts)} images"
    reasons["Tiles"] = f"{reasons['Tiles']}; {number}" if "Tiles" in reasons else number
    return config, reasons


def _for_overfitting(suggested: SuggestedSettings, num_images: int, *, on_cpu: bool) -> SuggestedSettings:
    """Change the suggestions for `--overfit`: all images in one batch if possible, and small images on a CPU."""
    batch, size, reasons = min(num_images, OVERFIT_BATCH), suggested.image_size, dict(suggested.reasons)
    reasons["batch_size"] = f"{batch}: " + (
        "all images at once" if batch == num_images else "the most that overfit well"
    )
    if on_cpu and size > OVERFIT_SIZE:
        size = OVERFIT_SIZE
        reasons["image_size"] = f"{size}: small images overfit as well, and faster"
    return replace(suggested, image_size=size, batch_size=batch, reasons=reasons)
