"""`detrkit train`: train a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit import training

if TYPE_CHECKING:
    from detrkit.config.train import TrainConfig


def train(config: TrainConfig) -> None:
    """Train a detector and write its run folder; see `training.train`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the run is saved.
        DetrkitError: an error that the user can fix.
    """
    training.train(config)
