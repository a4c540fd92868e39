"""Training: settings in, a run folder with checkpoints, metrics and a report out. `train` is the door."""

from detrkit.training.training_run import TrainResult, run_training, train

__all__ = ["TrainResult", "run_training", "train"]
