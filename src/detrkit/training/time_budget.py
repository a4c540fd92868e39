"""Fit a run into `max_minutes`: the share of the time that is used, and the time to reserve for the end of the run.

The schedule of a run moves on with its steps or with its time, whichever is further. The clock is read in one place, by
rank 0 in each step; `TrainingState.time_share` is what it read, on all ranks and in checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from detrkit.training.state import TrainingState

EVALUATION_PER_STEP = 0.5
"""Time to evaluate a batch relative to a training step, until an evaluation was measured; forward passes alone, and
metrics."""
MOST_RESERVED = 0.5
"""Largest share of the time that is kept for the last evaluation."""
BETWEEN = 0.1
"""Largest share of the time so far that evaluations before the last one take where time is short, and share of the time
at the end in which none runs."""


@dataclass(frozen=True)
class TimeBudget:
    """The limit of time of a run, and what fits into it.

    The limit includes the last evaluation and the saving of its checkpoint; these are expected to take as long as they
    did so far. Until there was one, evaluating a batch is expected to take half as long as a training step.
    """

    minutes: float
    """Limit of the whole run, earlier processes included; above 0."""
    epochs: int
    """Epochs of the schedule."""
    train_batches: int
    """Batches per epoch."""
    val_batches: int
    """Batches per evaluation."""

    @property
    def seconds(self) -> float:
        """The limit."""
        return 60 * self.minutes

    def share(self, state: TrainingState, seconds: float) -> float:
        """Share of the time for training that is used after `seconds`; from 1 on, the run ends."""
        return seconds / (self.seconds - self.reserve(state, seconds))

    def reserve(self, state: TrainingState, seconds: float) -> float:
        """Seconds for the last evaluation, its checkpoint and the step that is under way, at most half of the limit."""
        needed = self.evaluation(state, seconds) + state.save_seconds + self.step(state, seconds)
        return min(needed, MOST_RESERVED * self.seconds)

    def evaluation(self, state: TrainingState, seconds: float) -> float:
        """Expected seconds of an evaluation."""
        if state.evaluations:
            return state.evaluation_seconds / state.evaluations
        return self.val_batches * EVALUATION_PER_STEP * self.step(state, seconds)

    def step(self, state: TrainingState, seconds: float) -> float:
        """Mean seconds per batch of training."""
        return max(0.0, seconds - state.evaluation_seconds) / max(1, self.batches_done(state))

    def batches_done(self, state: TrainingState) -> int:
        """Batches of training so far."""
        return state.epoch * self.train_batches + state.batch

    def allows_evaluation(self, state: TrainingState, seconds: float) -> bool:
        """Whether an evaluation before the last one may run now.

        It may if all epochs fit into the limit even so. Otherwise these evaluations together take at most a tenth of
        the time so far, and none runs in the last tenth, so that the time goes into training.
        """
        evaluation, after = self.evaluation(state, seconds), seconds + self.evaluation(state, seconds)
        left = self.epochs * self.train_batches - self.batches_done(state)
        if after + left * self.step(state, seconds) + self.reserve(state, seconds) <= self.seconds:
            return True
        cheap = state.evaluation_seconds + evaluation <= BETWEEN * seconds
        return cheap and self.share(state, after) <= 1 - BETWEEN

    def forecast(self, state: TrainingState, seconds: float, step: float) -> str:
        """Say how many epochs fit into the limit if each further batch takes `step` seconds."""
        fit, limit = self.epochs_that_fit(state, seconds, step), f"{self.minutes:g} minutes"
        if fit >= self.epochs:
            left = self.epochs * self.train_batches - self.batches_done(state)
            needed = (seconds + left * step + self.reserve(state, seconds)) / 60
            return f"At this speed all {self.epochs} epochs fit into {limit}: they take about {needed:.1f}"
        return (
            f"At this speed about {fit:.1f} of {self.epochs} epochs fit into {limit}; the schedule is compressed, so "
            "that the learning rates still fall to their end"
        )

    def epochs_that_fit(self, state: TrainingState, seconds: float, step: float) -> float:
        """Epochs of the whole run that fit into the limit if each further batch takes `step` seconds."""
        left = max(0.0, self.seconds - self.reserve(state, seconds) - seconds)
        batches = self.batches_done(state) + left / max(step, 1e-9)
        return min(float(self.epochs), batches / self.train_batches)
