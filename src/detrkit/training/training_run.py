"""The door: settings in, a trained detector and its run folder out."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, NonFiniteLossError, OutOfMemoryError, is_out_of_memory
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth
from detrkit.files import LAST, write_atomic
from detrkit.losses import Criterion
from detrkit.ops.console import make_console
from detrkit.structures import Categories
from detrkit.training.advice import advise, after_divergence
from detrkit.training.announcements import announce, conclude, learning, say_recipe, waiting
from detrkit.training.auto_batch import explain_out_of_memory
from detrkit.training.checkpoint import VERSION, ResumePoint, remove_stale
from detrkit.training.cycle import EpochCycle, RunSchedule
from detrkit.training.ema import Ema
from detrkit.training.evaluation import Validation, Validator
from detrkit.training.final_report import FinalReport
from detrkit.training.loaders import all_cached, describe_cache, make_loaders
from detrkit.training.module import DetectionTraining
from detrkit.training.monitor import chosen_monitor, fingerprints
from detrkit.training.optim import Schedule, build_optimizer
from detrkit.training.progress import RunProgress
from detrkit.training.reporters import ClassicLog, LoggerRows, MetricsFile, make_loggers
from detrkit.training.resolve_auto import resolve_auto
from detrkit.training.resume import carry_best, find_resume
from detrkit.training.setup import (
    Data,
    ModelSetup,
    Processes,
    build_training_model,
    choose_folder,
    find_processes,
    load_data,
    warn_of_crowds,
)
from detrkit.training.signals import StopSignals
from detrkit.training.trainer import build_trainer, lightning_quiet

_MEASURED = re.compile(r"val/(mask_)?A[PR]|val/[PSR]Q")


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind."""

    run_dir: Path
    """Folder with config.yaml, metrics.csv, best.ckpt, last.ckpt and report/."""
    metrics: dict[str, float]
    """The twelve COCO numbers of the best epoch, and "epoch"; empty where nothing was evaluated."""
    interrupted: bool = False
    """Stopped by Ctrl-C, SIGTERM or Slurm; last.ckpt holds where to go on."""


def train(config: TrainConfig) -> TrainResult:
    """Train a detector; see `run_training`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the run is saved.
        DetrkitError: what the user can fix.
    """
    result = run_training(config)
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
    """Train, evaluate and keep a detector.

    Args:
        config: the settings.
        classes: makes the classes of the model from those of the training data, for example one for each COCO id;
            None: they are the same.
        classic_log: also write the original's log.txt.
        start_epoch: epoch to begin at, from 0, where no checkpoint says it.
        overwrite: take an `output_dir` that holds another run.

    Raises:
        DetrkitError: what the user can fix: settings, data, weights, memory, a loss that is not finite.
    """
    run_dir = choose_folder(config, overwrite=overwrite)
    processes = find_processes(config)
    if config.precision == "16-mixed" and processes.accelerator == "cpu":
        raise ConfigError("--precision 16-mixed needs a GPU; on the CPU use 32 or bf16-mixed")
    loggers = make_loggers(config, run_dir)
    leads = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if leads and not classic_log:
        say_recipe(make_console(quiet=config.quiet), config.recipe)
    data = load_data(config, classes)
    point, original = find_resume(config, run_dir, len(data.categories) if classic_log else None)
    data = data.with_range_of(point)
    marks = fingerprints({"train": data.train, "val": data.val})
    best_is_of = {
        "monitor": chosen_monitor(config.monitor, config.task, data.val),
        "val": str(marks["val"]["fingerprint"]),
    }
    if point:
        why = point.nothing_left(
            epochs=config.epochs,
            patience=config.patience,
            max_minutes=config.max_minutes,
            best_is_of=best_is_of,
        )
        if why:
            if leads:
                make_console().print(f"Nothing is left to train in {point.path}: {why}.")
            return TrainResult(run_dir, _plain(point.metadata["metrics"]))
    config, reasons = resolve_auto(config, data.train, point, on_cpu=processes.accelerator == "cpu")
    start = build_training_model(config, data.categories, point, filled=original is not None)
    config = replace(start.config, output_dir=str(run_dir))
    if leads:
        warn_of_crowds(data, start.model.num_queries)
    optimizer = build_optimizer(
        start.model,
        lr=config.lr,
        lr_backbone=start.lr_backbone,
        weight_decay=config.weight_decay,
        lr_linear_proj_mult=config.lr_linear_proj_mult,
        norm_decay=config.norm_decay,
        fused=config.precision != "16-mixed",
    )
    if config.checkpoint_activations:
        start.model.checkpoint_activations()
    if point:
        point.check_groups(optimizer)
    if original:
        restored = original.restore(start.model, optimizer, data.categories, recipe=config.recipe)
        start, start_epoch = replace(start, kept=restored.rows), restored.epoch or start_epoch
        if start_epoch >= config.epochs:
            raise ConfigError(
                f"nothing is left to train in {original.path}: it has {start_epoch} epochs, found --epochs "
                f"{config.epochs}; raise --epochs to train more"
            )
    run = _Run(config, run_dir, processes, data, start, point, start_epoch, marks=marks, best_is_of=best_is_of)
    return run.fit(optimizer, loggers, classic_log=classic_log, reasons=reasons)


class _Run:
    """One process's part of a run, from its parts to the result."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        processes: Processes,
        data: Data,
        start: ModelSetup,
        point: ResumePoint | None,
        start_epoch: int,
        *,
        marks: dict[str, dict[str, str | int]],
        best_is_of: dict[str, str],
    ) -> None:
        self.marks, self.best_is_of = marks, best_is_of
        self.progress, self.console = make_console(quiet=config.quiet), make_console()
        self.config, self.run_dir, self.processes = config, run_dir, processes
        self.data, self.start, self.point = data, start, point
        assert config.image_size != "auto"
        self.image_size = config.image_size
        self.begin = (point.epoch, point.batch) if point else (start_epoch, 0)
        self.metadata: dict[str, Any] = {
            "version": VERSION,
            "model_args": start.model_args,
            "categories": data.categories.to_plain(),
            "preprocessing": replace(start.preprocessing, value_range=data.value_range).to_plain(),
            "config": {},
            "data": marks,
            "batches": {},
        }
        self.validator = Validator(
            start.criterion,
            data.val.to_coco(masks=config.masks),
            _ids_in(data),
            masks=config.masks,
            panoptic=PanopticGroundTruth.from_split(data.val) if config.task == "panoptic" else None,
        )

    def fit(
        self,
        optimizer: torch.optim.Optimizer,
        loggers: list[Any],
        *,
        classic_log: bool,
        reasons: dict[str, str],
    ) -> TrainResult:
        """Run the steps; `reasons` are those of proposed settings, to be told."""
        config, start = self.config, self.start
        module = self._module(optimizer)
        ema = Ema(config.ema) if config.ema else None
        habits = RunSchedule(
            epochs=config.epochs,
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            save_minutes=config.save_minutes,
            max_minutes=config.max_minutes,
            patience=config.patience,
        )
        cycle = EpochCycle(self.run_dir, habits, self.metadata, self._validate, best_is_of=self.best_is_of, ema=ema)
        signals = StopSignals(lambda: module.stop_flags.update(stop=True))
        final = FinalReport(cycle, self.run_dir, self.data.val, self._validate)
        callbacks: list[pl.Callback] = [signals, *([ema] if ema else []), cycle, final]
        trainer = build_trainer(config, self.processes, self.run_dir, start.model, loggers, callbacks)
        self.loaders = make_loaders(
            config, self.data, module, image_size=self.image_size, begin=self.begin, ready=self._batch_size_known
        )
        if trainer.is_global_zero:
            self._prepare_folder()
            source = str(self.point.path) if self.point else config.resume
            announce(
                self.progress,
                config,
                self.data,
                start,
                self.processes,
                self.run_dir,
                reasons=reasons,
                source=source,
                begin=self.begin,
                cache=describe_cache(self.loaders.train, self.loaders.val),
            )
            self._tell_of_other_data()
            self._report_to(cycle, trainer, loggers, classic_log=classic_log)
        if not self.point and self.begin[0]:
            begun = dict.fromkeys(("ready", "started", "processed", "completed"), self.begin[0])
            trainer.fit_loop.epoch_progress.load_state_dict({"total": begun, "current": begun})
        signals.install()
        try:
            self._fit(trainer, module, classic_log=classic_log)
        finally:
            signals.uninstall()
        if trainer.is_global_zero:
            again = f"detrkit train --resume auto --output_dir {shlex.quote(str(self.run_dir))}"
            go_on = "the same flags of detrkit detr, and --resume auto" if classic_log else again
            cached = all_cached(self.loaders.train, self.loaders.val)
            waited = waiting(cycle.history, workers=config.num_workers, all_cached=cached)
            conclude(self.console, cycle, signals, self.run_dir, go_on=go_on, waited=waited)
            advise(self.console, config, self.data, cycle, self.image_size)
        best = next((row for row in cycle.history if row["epoch"] == cycle.best_epoch), {})
        return TrainResult(self.run_dir, _plain(best), cycle.interrupted)

    def _module(self, optimizer: torch.optim.Optimizer) -> DetectionTraining:
        config = self.config
        return DetectionTraining(
            self.start.model,
            self.start.criterion,
            optimizer,
            Schedule(
                base=tuple(group["lr"] for group in optimizer.param_groups),
                kind=config.lr_schedule,
                epochs=config.epochs,
                lr_drop=config.lr_drop,
                warmup_steps=config.warmup_steps,
            ),
            clip_max_norm=config.clip_max_norm,
            seed=config.seed,
            compiled=config.compile,
            square_resize=config.square_resize,
        )

    def _report_to(self, cycle: EpochCycle, trainer: pl.Trainer, loggers: list[Any], *, classic_log: bool) -> None:
        """Have epochs written down and shown, on rank 0."""
        progress = RunProgress(
            self.progress,
            epochs=self.config.epochs,
            max_minutes=self.config.max_minutes,
            spent=self.point.seconds if self.point else 0.0,
            monitor=cycle.monitor,
        )
        rows = LoggerRows(loggers)
        trainer.callbacks[-1:-1] = [rows, progress]  # type: ignore[attr-defined]
        cycle.reporters += [MetricsFile(self.run_dir / "metrics.csv"), rows, progress]
        if classic_log:
            weights, learns = _term_weights(self.start.criterion), learning(self.start.model)
            cycle.reporters.append(ClassicLog(self.run_dir / "log.txt", weights, learns))

    def _fit(self, trainer: pl.Trainer, module: DetectionTraining, *, classic_log: bool) -> None:
        """`Trainer.fit`, with its errors in our words."""
        try:
            with lightning_quiet():
                trainer.fit(
                    module,
                    datamodule=self.loaders,
                    ckpt_path=self.point.path if self.point else None,
                    weights_only=True,
                )
        except NonFiniteLossError as error:
            last = self.run_dir / LAST
            raise NonFiniteLossError(f"{error}; {after_divergence(self.config, last)}") from None
        except SystemExit:  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                explain_out_of_memory(
                    batch_size=self.loaders.batch_size,
                    image_size=self.image_size,
                    num_queries=self.start.model.num_queries,
                    precision=self.config.precision,
                    cuda=self.processes.accelerator == "cuda",
                    classic=classic_log,
                )
            ) from error

    def _batch_size_known(self, batch_size: int) -> None:
        """Complete the metadata and write config.yaml, which `max` had to wait for."""
        config = replace(self.config, batch_size=batch_size, resume="", quiet=False)
        self.metadata["config"] = config.to_dict()
        self.metadata["batches"] = {
            "batch_size": batch_size,
            "accumulate_grad_batches": config.accumulate_grad_batches,
            "world": self.processes.world,
            "images": len(self.data.train.images),
            "seed": config.seed,
            "group_by_aspect": config.group_by_aspect,
        }
        if self.point:
            self.point.check_mid_epoch(**self.metadata["batches"])
        if self.loaders.trainer is not None and self.loaders.trainer.is_global_zero:
            write_atomic(self.run_dir / "config.yaml", config.to_yaml())
            if self.config.batch_size == "max":
                self.progress.row("Batch", f"{batch_size} images fit")

    def _tell_of_other_data(self) -> None:
        """Say what is other than before, and put the best so far aside where it cannot be compared; on rank 0."""
        if not self.point:
            return
        changed = self.point.changed(data=self.marks, best_is_of=self.best_is_of)
        aside = carry_best(self.point, self.run_dir, self.best_is_of)
        if changed:
            kept = f"; it is kept as {aside}" if aside else ""
            warnings.warn(f"{changed}{kept}", stacklevel=2)

    def _prepare_folder(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        remove_stale(self.run_dir)
        write_atomic(self.run_dir / "categories.json", json.dumps(self.data.categories.to_plain(), indent=1))
        self.data.write_split(self.run_dir)

    def _validate(
        self,
        trainer: pl.Trainer,
        module: DetectionTraining,
        *,
        should_stop: Callable[[], bool],
        advance: Callable[[int, int], None],
    ) -> Validation | None:
        # images are evaluated at their own sizes, of which there are too many to compile for each
        with torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext():
            return self.validator.run(
                module.model,
                self.loaders.validation_loader(),
                device=module.device,
                precision=trainer.precision_plugin.forward_context,
                should_stop=should_stop,
                advance=advance,
            )


def _ids_in(data: Data) -> tuple[int | None, ...]:
    """For each class of the model the validation data's own id, or None where it does not know the class."""
    back = {index: category_id for category_id, index in data.categories.index_map_from(data.val.categories).items()}
    return tuple(back.get(index) for index in range(len(data.categories)))


def _term_weights(criterion: Criterion) -> dict[str, float]:
    return {term.name: term.weight for term in criterion.terms}


def _plain(row: dict[str, float]) -> dict[str, float]:
    """The numbers and epoch of a row: COCO's of boxes, those of masks, panoptic quality."""
    numbers = {name.removeprefix("val/"): value for name, value in row.items() if _MEASURED.match(name)}
    return numbers | {"epoch": row["epoch"]} if numbers else {}
