"""A training run, from its settings to a trained detector in a run folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch.optim import Optimizer

from detrkit.config.train import TrainConfig
from detrkit.data.repeat_factors import describe_repeats
from detrkit.errors import ConfigError
from detrkit.models import DETR
from detrkit.ops.console import make_console
from detrkit.structures import Categories
from detrkit.training.announcements import say_recipe
from detrkit.training.checkpoint import ResumePoint
from detrkit.training.loggers import check_loggers
from detrkit.training.model_setup import ModelSetup
from detrkit.training.monitor import chosen_monitor, compute_fingerprints
from detrkit.training.optim import build_optimizer
from detrkit.training.process import TrainingProcess
from detrkit.training.resolve_auto import resolve_auto, resolve_tiles
from detrkit.training.resume import find_resume
from detrkit.training.setup import (
    Data,
    build_training_model,
    choose_folder,
    find_processes,
    load_data,
    warn_of_crowds,
)
from detrkit.training.threads import resolve_num_threads, using_threads

_MEASURED = re.compile(r"val/(mask_)?A[PR]|val/[PSR]Q")


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run."""

    run_dir: Path
    """Folder with config.yaml, metrics.csv, best.ckpt, last.ckpt and report/."""
    metrics: dict[str, float]
    """Metrics of the best epoch (COCO metrics and, if measured, panoptic quality), and "epoch"; empty without any
    evaluation."""
    folds: tuple[TrainResult, ...] = ()
    """Result of each fold; empty without folds."""
    interrupted: bool = False
    """Whether Ctrl-C, SIGTERM or Slurm stopped the run, which can be resumed from last.ckpt."""


def train(config: TrainConfig) -> TrainResult:
    """Train a detector and write its run folder; with `folds`, one per fold.

        result = detrkit.train(detrkit.TrainConfig.from_recipe("fast", data="DATA", output_dir="runs/mine"))

    Args:
        config: settings of the run.

    Returns:
        The run folder and the metrics of the best epoch; with `folds`, the folder of the folds and the metrics of the
        detections of all folds together, each image measured by the model that has not seen it.

    Raises:
        KeyboardInterrupt: after Ctrl-C, SIGTERM or a signal of Slurm, once the run is saved; `resume="auto"` continues.
        DetrkitError: settings, data or weights cannot be used, memory ran out, or the loss is not finite.
    """
    from detrkit.training.folds import train_folds  # which runs `run_training`

    result = train_folds(config) if config.folds else run_training(config)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def run_training(
    config: TrainConfig,
    *,
    classes: Callable[[Categories], Categories] | None = None,
    classic_log: bool = False,
    start_epoch: int = 0,
    overwrite: bool = False,
) -> TrainResult:
    """Train and evaluate a detector and write its run folder, with the options of `detrkit detr` and the demo.

    Args:
        config: settings of the run.
        classes: function from the classes of the training data to those of the model, for example one per COCO id;
            None: they are the same.
        classic_log: also write log.txt as the reference DETR does.
        start_epoch: epoch to begin at, from 0, unless a checkpoint states it.
        overwrite: accept an `output_dir` with another run.

    Raises:
        DetrkitError: settings, data or weights cannot be used, memory ran out, or the loss is not finite.
    """
    run_dir = choose_folder(config, overwrite=overwrite)
    processes = find_processes(config)
    if config.precision == "16-mixed" and processes.accelerator == "cpu":
        raise ConfigError("--precision 16-mixed needs a GPU; on the CPU use 32 or bf16-mixed")
    check_loggers(config)
    on_rank_zero = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # before there is a Fabric to ask
    if on_rank_zero and not classic_log:
        say_recipe(make_console(quiet=config.quiet), config.recipe)
    data = load_data(config, classes, run_dir=run_dir)
    resume_point, reference = find_resume(config, run_dir, len(data.categories) if classic_log else None)
    data = data.with_range_of(resume_point)
    fingerprints = compute_fingerprints({"train": data.train, "val": data.val})
    monitor = chosen_monitor(config.monitor, config.task, data.val)
    monitored = {"monitor": monitor, "val": str(fingerprints["val"]["fingerprint"])}
    if resume_point:
        why = resume_point.nothing_left(
            epochs=config.epochs, patience=config.patience, max_minutes=config.max_minutes, monitored=monitored
        )
        if why:
            if on_rank_zero:
                make_console().print(f"Nothing is left to train in {resume_point.path}: {why}.")
            return TrainResult(run_dir, _summary(resume_point.metadata["metrics"]))
    config, data, reasons = _resolve(config, data, resume_point, on_cpu=processes.accelerator == "cpu")
    on_one_cpu = processes.accelerator == "cpu" and processes.world_size == 1
    config, thread_reasons = resolve_num_threads(config, resume_point, measure=on_one_cpu)
    setup = build_training_model(config, data.categories, resume_point, from_reference_checkpoint=reference is not None)
    config = replace(setup.config, output_dir=str(run_dir))
    if on_rank_zero:
        warn_of_crowds(data, setup.model.num_queries)
    optimizer = _optimizer(config, setup)
    if config.checkpoint_activations:
        setup.model.checkpoint_activations()
    if resume_point:
        resume_point.check_groups(optimizer)
    if reference:
        assert isinstance(setup.model, DETR)
        restored = reference.restore(setup.model, optimizer, data.categories, recipe=config.recipe)
        setup, start_epoch = replace(setup, class_rows=restored.rows), restored.epoch or start_epoch
        if start_epoch >= config.epochs:
            raise ConfigError(
                f"nothing is left to train in {reference.path}: it has {start_epoch} epochs, found --epochs "
                f"{config.epochs}; raise --epochs to train more"
            )
    process = TrainingProcess(
        config,
        run_dir,
        processes,
        data,
        setup,
        optimizer,
        resume_point,
        fingerprints,
        monitored,
        classic_log=classic_log,
    )
    with using_threads(config.num_threads):
        trainer = process.run(start_epoch, {**thread_reasons, **reasons})
    best = next((row for row in trainer.state.history if row["epoch"] == trainer.state.best_epoch), {})
    return TrainResult(trainer.run_dir, _summary(best), interrupted=trainer.end_reason == "signal")


def _resolve(
    config: TrainConfig, data: Data, resume_point: ResumePoint | None, *, on_cpu: bool
) -> tuple[TrainConfig, Data, dict[str, str]]:
    """Replace `auto` settings by numbers, with the reasons, and cut the images into tiles."""
    config, tile_reasons = resolve_tiles(config, data.train, resume_point, on_cpu=on_cpu)
    data = data.cut(config.tiling)
    config, reasons = resolve_auto(config, data.train, resume_point, on_cpu=on_cpu)
    assert config.repeat_threshold != "auto"
    repeats = "" if config.overfit else describe_repeats(data.train, config.repeat_threshold)
    return config, data, tile_reasons | reasons | ({"Repeats": repeats} if repeats else {})


def _optimizer(config: TrainConfig, setup: ModelSetup) -> Optimizer:
    return build_optimizer(
        setup.model,
        lr=config.lr,
        lr_backbone=setup.lr_backbone,
        weight_decay=config.weight_decay,
        lr_linear_proj_mult=config.lr_linear_proj_mult,
        norm_decay=config.norm_decay,
        backbone=setup.model.backbone_prefix,
        fused=config.precision != "16-mixed",
    )


def _summary(row: dict[str, float]) -> dict[str, float]:
    """COCO metrics of boxes and masks, panoptic quality and the epoch of a row; empty where it was not evaluated."""
    metrics = {name.removeprefix("val/"): value for name, value in row.items() if _MEASURED.match(name)}
    return metrics | {"epoch": row["epoch"]} if metrics else {}
