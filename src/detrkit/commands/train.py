"""`detrkit train`: train a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit import training

if TYPE_CHECKING:
    from detrkit.config.train import TrainConfig


def train(config: TrainConfig) -> None:
    """Train a detector and leave its run folder; see `training.train`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the run is saved.
        DetrkitError: what the user can fix.
    """
    training.train(config)
