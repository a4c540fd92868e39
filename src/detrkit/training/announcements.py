"""First and last lines of a run on the console."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from detrkit.config.train import TrainConfig
from detrkit.files import BEST, LAST
from detrkit.models.checkpoints import fit_table
from detrkit.ops.console import TextConsole
from detrkit.training.loop import Trainer
from detrkit.training.model_setup import ModelSetup
from detrkit.training.monitor import called
from detrkit.training.optim import rate_factor
from detrkit.training.setup import Data, Processes
from detrkit.training.signals import StopSignals, requeue_slurm_job
from detrkit.training.state import Row
from detrkit.training.threads import busy_note

RECIPES = {
    "classic": "classic, with the settings of the reference DETR; --recipe fast converges on little data",
    "fast": "fast, which converges on little data; --recipe classic has the settings of the reference DETR",
}

MUCH_WAITING = 0.2
"""Fraction of the time of the steps, 0..1, above which waiting for images is reported."""
FEW_STEPS = 50
"""Fewer steps are not judged, since a run waits for its loading processes to start."""


def say_recipe(console: TextConsole, recipe: str) -> None:
    """Print the recipe, before the data is read."""
    console.row("Recipe", RECIPES[recipe])


def announce(
    console: TextConsole,
    config: TrainConfig,
    data: Data,
    setup: ModelSetup,
    processes: Processes,
    run_dir: Path,
    *,
    reasons: Mapping[str, str],
    source: str,
    begin: tuple[int, int],
    cache: str,
) -> None:
    """Print device, data, model, backbone, learning rate, folder and, for a resumed run, the position.

    Args:
        console: console to print to.
        config: settings of the run.
        data: checked images.
        setup: model and criterion.
        processes: device type and number of processes.
        run_dir: run folder.
        reasons: reason for each setting that was "auto", by its name on the console.
        source: checkpoint to resume from; empty or "auto": none.
        begin: epoch and batch at which training begins, both from 0.
        cache: line about the cached images, see `describe_cache`.
    """
    total, trainable = sum(p.numel() for p in setup.model.parameters()), count_trainable(setup.model)
    times = f" x {processes.world_size}" if processes.world_size > 1 else ""
    busy = busy_note() if processes.accelerator == "cpu" and config.num_threads == "auto" else ""
    lines = {
        "Device": f"{_device_name(processes.accelerator)}{times}, precision {config.precision}{busy}",
        "Data": "\n".join(data.summary).replace("\n", "\n" + 10 * " "),
        "Cache": cache,
        **reasons,
        "Model": (setup.name or f"{config.model or 'DETR'} on {config.backbone}")
        + f", {total / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trainable",
        "Backbone": f"norm {setup.norm_note}",
        "Rate": f"lr {_rate(config, processes.world_size)}, {config.lr_schedule} schedule over {config.epochs} epochs, "
        f"{'as many' if config.batch_size == 'max' else config.batch_size} images per batch"
        f"{' as fit' if config.batch_size == 'max' else ''}{times}",
        "Time": f"at most {config.max_minutes:g} minutes, the last evaluation included; if the {config.epochs} epochs "
        "do not fit, the schedule is compressed",
        "Folder": str(run_dir),
    }
    if not config.max_minutes:
        del lines["Time"]
    if source not in ("", "auto"):
        inside = f", batch {begin[1] + 1}" if begin[1] else ""
        lines["Resume"] = f"{source}, at epoch {begin[0] + 1}{inside}"
    weights = config.weights or config.frozen_weights
    if setup.settings_from_weights:
        changed = {name: value for name, value in setup.settings_from_weights.items() if name != "model"}
        settings = ", ".join(f"{name} {value or 'none'}" for name, value in changed.items())
        lines["Weights"] = f"{weights} bring {settings}"
    if config.starts_from_package:
        lines["Weights"] = f"those of {weights} that come with detrkit, with new classes; --weights none: random ones"
    if setup.mask_note:
        lines["Masks"] = setup.mask_note
    for name, line in lines.items():
        console.row(name, line)
    if setup.class_rows and not config.starts_from_package:
        console.print(fit_table(setup.class_rows, weights or source, no_object=not setup.model.sigmoid))


def _rate(config: TrainConfig, world_size: int) -> str:
    """The learning rate, and how it follows from --lr."""
    if not config.lr_base_size:
        return f"{config.lr:g}"
    scaled = f"{config.lr:g} for {config.lr_base_size} images per step"
    if isinstance(config.batch_size, str):
        return f"{scaled}, scaled by the square root of their number"
    images = config.batch_size * world_size * config.accumulate_grad_batches
    if images == config.lr_base_size:
        return f"{config.lr:g}"
    return f"{config.lr * rate_factor(config.lr_base_size, images):.3g} for {images} images per step ({scaled})"


def print_result(
    console: TextConsole, trainer: Trainer, signals: StopSignals, *, resume_command: str, advice: str
) -> None:
    """Print why a run ended, its best epoch and what to do next; have Slurm requeue the job if it warned us.

    Args:
        console: console to print to.
        trainer: finished loop of the run.
        signals: signals that the run received.
        resume_command: command that resumes the run.
        advice: sentence of `waiting_advice`, or empty.
    """
    state, schedule, run_dir = trainer.state, trainer.schedule, trainer.run_dir
    unfinished = state.epoch < schedule.epochs
    if advice:
        console.print(advice)
    if trainer.end_reason == "signal":
        name = signals.received.name if signals.received else "a signal to another process"
        console.print(f"Stopped by {name}; saved {run_dir / LAST}. Resume with:\n  {resume_command}")
        if name == "SIGUSR1" and requeue_slurm_job():
            console.print("Slurm has queued this job again.")
    elif trainer.end_reason == "out_of_time" and unfinished:
        assert trainer.budget
        epochs = state.epoch + state.batch / trainer.budget.train_batches
        console.print(
            f"{epochs:.1f} of {schedule.epochs} epochs fit into the {trainer.budget.minutes:g} minutes; the schedule "
            "was compressed to them. Raise --max_minutes to train longer."
        )
    elif trainer.end_reason == "patience" and unfinished:
        console.print(
            f"Stopped early, after epoch {state.history[-1]['epoch']:.0f} of {schedule.epochs}: "
            f"{called(state.monitor)} has not improved in {state.evaluations_without_improvement} evaluations "
            f"(--patience {schedule.patience}) since it was {state.best_value:.4f}"
        )
    if state.best_epoch and trainer.end_reason != "signal":
        best = f"Best {called(state.monitor)} {state.best_value:.4f}, after epoch {state.best_epoch}"
        if state.best_value < 0:
            best = f"{called(state.monitor)} is undefined, since no validation image has an object that counts for it"
        console.print(
            f"{best}; see {run_dir / 'report'}. Next:\n"
            f"  detrkit predict IMAGES --weights {shlex.quote(str(run_dir / BEST))}"
            + (" --panoptic" if "PQ" in state.monitor else "")
        )


def waiting_advice(history: Sequence[Row], *, workers: int = 0, all_cached: bool = False) -> str:
    """Advice for a run that waited for images much of the time; empty for other runs, and after too few steps.

    Args:
        history: rows of the epochs.
        workers: number of loading processes.
        all_cached: whether all images are cached.
    """
    if not history or history[-1]["step"] < FEW_STEPS:
        return ""
    shares = [row["loader_share"] for row in history if "loader_share" in row]
    share = sum(shares) / max(1, len(shares))
    if share < MUCH_WAITING:
        return ""
    cores = os.cpu_count() or 1
    ways = [f"raise --num_workers (this machine has {cores} cores)"] if workers < cores else []
    ways += [] if all_cached else ["raise --cache_gb"]
    ways = ways or ["take a cheaper augmentation (--mosaic 0 first), since every core loads and all images are cached"]
    return f"The model waited for images in {share:.0%} of the time of its steps; {', or '.join(ways)}"


def count_trainable(model: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _device_name(accelerator: str) -> str:
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({torch.get_num_threads()} threads)" if accelerator == "cpu" else "Apple GPU"
