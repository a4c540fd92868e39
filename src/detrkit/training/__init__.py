"""Training: settings in, a run folder with checkpoints, metrics and a report out. `train` is the door."""

from detrkit.visualization.matplotlib_backend import import_matplotlib

import_matplotlib()  # before Lightning does

from detrkit.training.training_run import TrainResult, run_training, train  # noqa: E402

__all__ = ["TrainResult", "run_training", "train"]
