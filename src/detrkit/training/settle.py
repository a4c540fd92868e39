"""Numbers in place of the settings that were left to the data (`propose`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detrkit.config import TrainConfig
from detrkit.data.propose import propose
from detrkit.data.records import Split
from detrkit.training.checkpoint import ResumePoint

WORDS = {"num_queries": "Queries", "image_size": "Size", "batch_size": "Batch"}
"""The settings that can be proposed, and the word at the start of the line about each."""


def settle(
    config: TrainConfig, train: Split, resume: ResumePoint | None, *, on_cpu: bool
) -> tuple[TrainConfig, dict[str, str]]:
    """The settings with a number for each that is `propose`, and what to tell the user of it: a word, a sentence.

    A resumed run keeps the numbers it had, also of a batch size found by `auto`. The number of queries stays open
    where `--weights` bring it.
    """
    if resume:
        had = {
            "num_queries": resume.card["model_args"]["num_queries"],
            "image_size": resume.card["image_size"],
            "batch_size": resume.card["batches"]["batch_size"],
        }
        numbers: dict[str, Any] = {name: int(had[name]) for name in WORDS if isinstance(getattr(config, name), str)}
        return replace(config, **numbers), {}
    brought = ("num_queries",) if config.weights else ()
    left = [name for name in WORDS if getattr(config, name) == "propose" and name not in brought]
    proposal = propose(train, on_cpu=on_cpu)
    numbers = {name: getattr(proposal, name) for name in left}
    return replace(config, **numbers), {WORDS[name]: proposal.reasons[name] for name in left}
