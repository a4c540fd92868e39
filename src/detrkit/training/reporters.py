"""Where the rows of finished epochs go: metrics.csv, the loggers, the original's log.txt."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from detrkit.config.train import TrainConfig
from detrkit.errors import MissingExtraError
from detrkit.evaluation.coco_metrics import COCO_NAMES
from detrkit.files import write_atomic
from detrkit.training.cycle import Row
from detrkit.training.module import DetectionTraining
from detrkit.training.monitor import is_of_a_class

STEPS_BETWEEN_LOGS = 50


def is_earlier_layer(column: str) -> bool:
    """Whether a column is the loss of an earlier decoder layer: `train/loss_ce_3`."""
    return column.rpartition("_")[2].isdecimal() and not is_of_a_class(column)


def tags(names: Iterable[str]) -> dict[str, str]:
    """What loggers call numbers: names of classes with no other signs than MLflow and TensorBoard both take, and no two
    alike."""
    found: dict[str, str] = {}
    for name in names:
        tag = name
        if is_of_a_class(name):
            kind, _, of = name.removeprefix("val/").partition("/")
            tag = f"val/{kind}/{re.sub(r'[^A-Za-z0-9_. -]', '_', of)}"
        while tag in found.values():
            tag += "_"
        found[name] = tag
    return found


class MetricsFile:
    """metrics.csv: one row per epoch.

    It is written whole from the history that checkpoints keep, so that after a kill between file and checkpoint it has
    neither gaps nor duplicates; that is why Lightning's CSV logger, which appends, is not used. The losses of earlier
    decoder layers are left to the other logs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def epoch_finished(self, history: list[Row]) -> None:
        """Write the file."""
        columns: dict[str, None] = {}
        for row in history:
            columns |= dict.fromkeys(name for name in row if not is_earlier_layer(name))
        # a stable sort: the rest keeps its order
        ordered = sorted(columns, key=lambda name: (name.startswith("val/"), is_of_a_class(name)))
        text = io.StringIO()
        writer = csv.DictWriter(text, ordered, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomic(self.path, text.getvalue())

    def evaluating(self, done: int, total: int) -> None:
        """Nothing to write."""


class ClassicLog:
    """log.txt: one JSON object a line and epoch, with the keys of the original.

    `train_*` and `test_*` losses are weighted, those ending in `_unscaled` are not; `test_coco_eval_bbox` and `_masks`
    hold the twelve numbers, `test_PQ_all`, `_th` (things) and `_st` (stuff) panoptic quality; epochs count from 0.
    Lines of epochs before this run's first are left as they are.
    """

    def __init__(self, path: Path, weights: Mapping[str, float], n_parameters: int) -> None:
        """Prepare.

        Args:
            path: of log.txt.
            weights: weight of each loss term; 0 for what is only logged.
            n_parameters: of the model, those that learn.
        """
        self.path, self.weights, self.n_parameters = path, weights, n_parameters

    def epoch_finished(self, history: list[Row]) -> None:
        """Write the file."""
        first = int(history[0]["epoch"]) - 1
        old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in old if line.strip() and json.loads(line)["epoch"] < first]
        lines = [*kept, *(json.dumps(self._line(row)) for row in history)]
        write_atomic(self.path, "".join(line + "\n" for line in lines))

    def evaluating(self, done: int, total: int) -> None:
        """Nothing to write."""

    def _line(self, row: Row) -> dict[str, object]:
        line: dict[str, object] = {"train_lr": row["lr"], **self._losses(row, "train/", "train_")}
        if "val/AP" in row:
            line |= self._losses(row, "val/", "test_")
            line["test_coco_eval_bbox"] = [row[f"val/{name}"] for name in COCO_NAMES]
        if "val/mask_AP" in row:
            line["test_coco_eval_masks"] = [row[f"val/mask_{name}"] for name in COCO_NAMES]
        if "val/PQ" in row:
            for group, ending in (("all", ""), ("th", "_things"), ("st", "_stuff")):
                line[f"test_PQ_{group}"] = {name.lower(): row[f"val/{name}{ending}"] for name in ("PQ", "SQ", "RQ")}
        return line | {"epoch": int(row["epoch"]) - 1, "n_parameters": self.n_parameters}

    def _losses(self, row: Row, prefix: str, new: str) -> dict[str, float]:
        found = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        line = {f"{new}{name}": found[name] for name in ("class_error", "loss") if name in found}
        for name, value in found.items():
            term = name.rpartition("_")[0] if is_earlier_layer(name) else name
            if term not in self.weights:
                continue
            if self.weights[term]:
                line[f"{new}{name}"] = value * self.weights[term]
            line[f"{new}{name}_unscaled"] = value
        return line


class LoggerRows(pl.Callback):
    """Sends the rows of epochs, and now and then the last step, to Lightning's loggers."""

    def __init__(self, loggers: list[Logger]) -> None:
        self.loggers = loggers

    def epoch_finished(self, history: list[Row]) -> None:
        """Log the new row at its step."""
        row = history[-1]
        called = tags(row)
        for logger in self.loggers:
            logger.log_metrics({called[name]: value for name, value in row.items()}, step=int(row["step"]))
            logger.save()

    def evaluating(self, done: int, total: int) -> None:
        """Nothing to log."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log one step in every 50."""
        assert isinstance(pl_module, DetectionTraining)
        if batch_idx % STEPS_BETWEEN_LOGS == 0:
            values = {"now/loss": pl_module.last_loss, "now/grad_norm": pl_module.grad_norm}
            for logger in self.loggers:
                logger.log_metrics(values, step=trainer.global_step)


def make_loggers(config: TrainConfig, run_dir: Path) -> list[Logger]:
    """TensorBoard always; Weights & Biases and MLflow by flag.

    Without a network, `WANDB_MODE=offline` keeps W&B's files in the run folder; MLflow's go to its mlruns/ unless
    MLFLOW_TRACKING_URI names a server.

    Raises:
        MissingExtraError: an asked-for package is not installed.
    """
    for flag, wanted in (("wandb", config.wandb), ("mlflow", config.mlflow)):
        found = importlib.util.find_spec(flag)
        if wanted and (found is None or found.origin is None):  # a mere folder of that name is no package
            raise MissingExtraError(f"--{flag}", flag)
    loggers: list[Logger] = [TensorBoardLogger(run_dir, name="", version="tensorboard", default_hp_metric=False)]
    if config.wandb:
        loggers.append(WandbLogger(name=run_dir.name, save_dir=run_dir, project="detrkit"))
    if config.mlflow:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other store without a server
        loggers.append(MLFlowLogger("detrkit", run_name=run_dir.name, save_dir=str(run_dir / "mlruns")))
    return loggers
