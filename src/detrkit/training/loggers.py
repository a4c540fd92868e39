"""Loggers of metrics on rank 0: TensorBoard always, Weights & Biases and MLflow by flag."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from detrkit.config.train import TrainConfig
from detrkit.errors import MissingExtraError


class Logger(Protocol):
    """A logger of metrics by name and step."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values at an optimizer step."""

    def close(self, *, failed: bool) -> None:
        """Write what is buffered, and log whether the run failed."""


class TensorBoardLogger:
    """A logger that writes event files in the folder tensorboard/ of the run."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class WandbLogger:
    """A logger to a run of Weights & Biases in the project "detrkit"; `WANDB_MODE=offline` writes files instead."""

    def __init__(self, run_dir: Path) -> None:
        import wandb

        self._run = wandb.init(project="detrkit", name=run_dir.name, dir=run_dir, resume="allow")
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a row."""
        self._run.log({**metrics, "trainer/global_step": step})

    def close(self, *, failed: bool) -> None:
        """Upload the rest."""
        self._run.finish(exit_code=int(failed))


class MlflowLogger:
    """A logger to a run of MLflow in the experiment "detrkit", in mlruns/ unless MLFLOW_TRACKING_URI is set."""

    def __init__(self, run_dir: Path) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other store without a server
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"file:{run_dir / 'mlruns'}")
        experiment = self._client.get_experiment_by_name("detrkit")
        if experiment is None or experiment.lifecycle_stage == "deleted":
            number = self._client.create_experiment("detrkit")
        else:
            number = experiment.experiment_id
        self._run_id = self._client.create_run(number, run_name=run_dir.name).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a batch of metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, [Metric(name, value, now, step) for name, value in metrics.items()])

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


def check_loggers(config: TrainConfig) -> None:
    """Make sure that the packages of the chosen loggers are installed.

    Raises:
        MissingExtraError: a package is not installed.
    """
    for name, chosen in (("wandb", config.wandb), ("mlflow", config.mlflow)):
        package = importlib.util.find_spec(name)
        if chosen and (package is None or package.origin is None):  # a folder of that name is no package
            raise MissingExtraError(f"--{name}", name)


def make_loggers(config: TrainConfig, run_dir: Path) -> list[Logger]:
    """Open the loggers of a run, after `check_loggers`."""
    loggers: list[Logger] = [TensorBoardLogger(run_dir)]
    if config.wandb:
        loggers.append(WandbLogger(run_dir))
    if config.mlflow:
        loggers.append(MlflowLogger(run_dir))
    return loggers
