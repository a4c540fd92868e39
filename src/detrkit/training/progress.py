"""Progress of a run on the console: a bar with the time left in a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import time

from rich.progress import Progress

from detrkit.ops.console import TaskText, TextConsole, make_progress
from detrkit.training.monitor import LOSS, called
from detrkit.training.reporters import Reporter
from detrkit.training.state import Row, TrainingState
from detrkit.training.step import StepReport
from detrkit.training.time_budget import TimeBudget

FORECAST_STEPS = 30
"""Steps after which the epochs that fit into the limit of time are foretold, ..."""
FORECAST_SHARE = 0.05
"""... or the share of the limit, if that is over sooner."""


class RunProgress(Reporter):
    """Progress over the whole run, not only the epoch.

    The time left is extrapolated from the steps of this process, evaluations included, and never more than what the
    limit leaves. With a limit, a line says early how many epochs are going to fit into it.

    Args:
        console: console to print to.
        epochs: number of epochs of the whole run.
        budget: limit of the time of the run, or None.
        spent: seconds that earlier processes of the run took.
        monitor: name of the monitored metric, which is shown beside the usual ones.
    """

    def __init__(
        self, console: TextConsole, *, epochs: int, budget: TimeBudget | None, spent: float, monitor: str
    ) -> None:
        self.console, self.epochs, self.budget, self.monitor = console, epochs, budget, monitor
        self._limit = budget.seconds - spent if budget else float("inf")
        self._begun = self._second_step = time.monotonic()
        self._forecast_due = budget is not None
        self._first = self._done = self._total = 0
        self._ap = ""
        self._bar: Progress | None = None

    def run_started(self, state: TrainingState, batches: int) -> None:
        """Begin where the run stands."""
        self._begun = time.monotonic()
        self._first = self._done = state.epoch * batches + state.batch
        self._total = self.epochs * batches
        if self.console.is_terminal and not self.console.quiet:
            self._bar = make_progress(self.console, TaskText("note"), transient=False)
            self._bar.add_task(self._title(state.epoch), total=self._total, completed=self._done, note="")
            self._bar.start()

    def step_finished(self, state: TrainingState, report: StepReport) -> None:
        """Move one batch further."""
        self._done += 1
        if self._forecast_due:
            self._forecast(state)
        loss = report.losses["loss"]
        self._note(f"loss {loss:.3f}  {self._ap}  {self.left()} left", self._title(state.epoch))

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._note(f"evaluating {done}/{total}  {self._ap}  {self.left()} left")

    def epoch_finished(self, history: list[Row]) -> None:
        """Print the line of the epoch."""
        row = history[-1]
        if "val/AP" in row:
            shown = dict.fromkeys(("AP", "AP50", "mask_AP", "mask_AP50", "PQ", self.monitor))
            self._ap = "  ".join(
                f"{called(name)} {row[f'val/{name}']:.3f}" for name in shown if name != LOSS and f"val/{name}" in row
            )
        if not self.console.is_terminal:
            metrics = f"  {self._ap}  val loss {row['val/loss']:.3f}" if "val/AP" in row else ""
            self.console.print(
                f"epoch {row['epoch']:.0f}/{self.epochs}  loss {row['train/loss']:.3f}{metrics}  {self.left()} left"
            )

    def run_finished(self, *, failed: bool) -> None:
        """Take the bar away, so that an error stands alone."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def left(self) -> str:
        """The time left, as h:mm:ss, or ? before the first step."""
        steps, seconds = self._done - self._first, time.monotonic() - self._begun
        left = seconds / steps * (self._total - self._done) if steps else float("inf")
        left = min(left, max(0.0, self._limit - seconds))
        if left == float("inf"):
            return "?"
        minutes, rest = divmod(round(left), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"

    def _forecast(self, state: TrainingState) -> None:
        """Print how many epochs are going to fit into the limit, once enough steps are timed."""
        assert self.budget
        steps, now = self._done - self._first, time.monotonic()
        if steps == 1:  # the first step also allocates memory and chooses kernels
            self._second_step = now
        if steps < FORECAST_STEPS and (steps < 3 or now - self._begun < FORECAST_SHARE * self._limit):
            return
        self._forecast_due = False
        step = (now - self._second_step) / (steps - 1)
        self.console.print(self.budget.forecast(state, state.seconds, step))

    def _title(self, epoch: int) -> str:
        return f"epoch {min(epoch + 1, self.epochs)}/{self.epochs}"

    def _note(self, note: str, title: str | None = None) -> None:
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=self._done, note=note, description=title)
