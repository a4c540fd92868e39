"""The part of a training run that each process runs: assemble the loop, train, and report the result."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from detrkit.config.train import TrainConfig
from detrkit.errors import NonFiniteLossError, OutOfMemoryError, is_out_of_memory
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth
from detrkit.files import BEST, LAST, PROCESS, write_atomic
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.ops.console import make_console
from detrkit.structures import Batch
from detrkit.training.advice import advise, after_divergence
from detrkit.training.announcements import announce, count_trainable, print_result, waiting_advice
from detrkit.training.auto_batch import explain_out_of_memory
from detrkit.training.checkpoint import ResumePoint, read, remove_stale
from detrkit.training.ema import Ema
from detrkit.training.evaluation import Validation, Validator
from detrkit.training.final_report import write_final_report
from detrkit.training.launch import kill_children, launch, share_batch_norm
from detrkit.training.loaders import (
    Datasets,
    all_cached,
    describe_cache,
    largest_batch_size,
    make_datasets,
    make_loaders,
)
from detrkit.training.loggers import make_loggers
from detrkit.training.loop import Trainer, Validate
from detrkit.training.model_setup import ModelSetup
from detrkit.training.optim import LRSchedule, rate_factor
from detrkit.training.process_file import ProcessFile
from detrkit.training.progress import RunProgress
from detrkit.training.reporters import ClassicLog, LoggerRows, MetricsFile, Reporter
from detrkit.training.resume import carry_best
from detrkit.training.setup import Data, Processes
from detrkit.training.signals import StopSignals
from detrkit.training.state import RunSchedule, TrainingState
from detrkit.training.step import DetectionLoss
from detrkit.training.time_budget import TimeBudget


class TrainingProcess:
    """A training run in one process: `run` assembles the loop, trains, and reports the result.

    Args:
        config: settings of the run; numbers instead of `auto` for image size, queries and batch size (or `max`).
        run_dir: run folder.
        processes: device type and number of processes.
        data: checked images.
        setup: model and criterion.
        optimizer: optimizer of the model.
        resume_point: checkpoint to resume from, or None.
        fingerprints: fingerprints of the splits, see `compute_fingerprints`.
        monitored: monitored metric and validation images, see `TrainingState`.
        classic_log: also write log.txt.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        processes: Processes,
        data: Data,
        setup: ModelSetup,
        optimizer: Optimizer,
        resume_point: ResumePoint | None,
        fingerprints: dict[str, dict[str, str | int]],
        monitored: dict[str, str],
        *,
        classic_log: bool,
    ) -> None:
        assert config.image_size != "auto"
        self.config, self.image_size, self.run_dir, self.processes = config, config.image_size, run_dir, processes
        self.data, self.setup, self.optimizer, self.resume_point = data, setup, optimizer, resume_point
        self.fingerprints, self.monitored, self.classic_log = fingerprints, monitored, classic_log
        self.console, self.progress_console = make_console(), make_console(quiet=config.quiet)

    def run(self, start_epoch: int, reasons: Mapping[str, str]) -> Trainer:
        """Train, evaluate and report.

        Args:
            start_epoch: number of finished epochs, if there is no checkpoint to resume from.
            reasons: reason for each setting that was "auto", by its name on the console.

        Returns:
            The finished loop.
        """
        fabric = self.start_processes()
        datasets = make_datasets(self.config, self.data, self.setup.model, self.image_size)
        state = TrainingState(self.monitored, start_epoch, self.config.max_minutes)  # starts the clock of the run
        if fabric.is_global_zero:
            self.prepare_folder()
            self.announce_run(start_epoch, reasons, datasets)
            self.warn_of_other_data()

        batch_size = self.find_batch_size(fabric)
        metadata = self.metadata(batch_size)
        if self.resume_point:
            self.resume_point.check_mid_epoch(**metadata["batches"])
        if fabric.is_global_zero:
            write_atomic(self.run_dir / "config.yaml", TrainConfig.from_dict(metadata["config"]).to_yaml())

        trainer = self.build_trainer(fabric, datasets, batch_size, state, metadata)
        signals = StopSignals(lambda: trainer.flags.update(stop=True))
        with signals.watched(), self.explained_errors(batch_size, fabric):
            if self.resume_point:
                trainer.load_state_dict(read(self.resume_point.path))
            trainer.fit()
            self.report_best(trainer)
        if fabric.is_global_zero:
            self.print_final_result(trainer, signals, datasets)
        return trainer

    def start_processes(self) -> Fabric:
        """Start and connect the processes, and move model and optimizer to the device."""
        model, optimizer = self.setup.model, self.optimizer
        fabric = launch(self.config, self.processes, idle_parts=model.has_idle_parts)
        # rank 0 may already have created the folder, which the others would then number past
        self.run_dir = Path(fabric.broadcast(str(self.run_dir)))
        fabric.to_device(model)
        if optimizer.state:  # restored from a reference checkpoint: reload to move its moments to the device
            optimizer.load_state_dict(optimizer.state_dict())
        share_batch_norm(model, self.processes)
        return fabric

    def prepare_folder(self) -> None:
        """Create the run folder, and write the classes and the validation split."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        remove_stale(self.run_dir)
        write_atomic(self.run_dir / "categories.json", json.dumps(self.data.categories.to_plain(), indent=1))
        self.data.write_split(self.run_dir)

    def announce_run(self, start_epoch: int, reasons: Mapping[str, str], datasets: Datasets) -> None:
        """Print the settings of the run; see `run` for the arguments."""
        point = self.resume_point
        announce(
            self.progress_console,
            self.config,
            self.data,
            self.setup,
            self.processes,
            self.run_dir,
            reasons=reasons,
            source=str(point.path) if point else self.config.resume,
            begin=(point.epoch, point.batch) if point else (start_epoch, 0),
            cache=describe_cache(datasets.train, datasets.val),
        )

    def warn_of_other_data(self) -> None:
        """Warn if data or monitored metric differ from the checkpoint's, and rename the best checkpoint so far."""
        if not self.resume_point:
            return
        changed = self.resume_point.changed(data=self.fingerprints, monitored=self.monitored)
        aside = carry_best(self.resume_point, self.run_dir, self.monitored)
        if changed:
            kept = f"; the former best checkpoint is kept as {aside}" if aside else ""
            warnings.warn(f"{changed}{kept}", stacklevel=2)

    def find_batch_size(self, fabric: Fabric) -> int:
        """Number of images per batch and rank; for `max` it is found here."""
        assert self.config.batch_size != "auto"
        if self.config.batch_size != "max":
            return self.config.batch_size
        size = largest_batch_size(self.config, self.data, self.setup.model, self.image_size, fabric)
        if fabric.is_global_zero:
            self.progress_console.row("Batch", f"{size} images fit")
        return size

    def metadata(self, batch_size: int) -> dict[str, Any]:
        """The "detrkit" entry of checkpoints, without the metrics."""
        config, data = self.config, self.data
        return {
            "version": VERSION,
            "model_args": self.setup.model_args,
            "categories": data.categories.to_plain(),
            "preprocessing": replace(self.setup.preprocessing, value_range=data.value_range).to_plain(),
            "config": replace(config, batch_size=batch_size, resume="", quiet=False).to_dict(),
            "data": self.fingerprints,
            "batches": {
                "batch_size": batch_size,
                "accumulate_grad_batches": config.accumulate_grad_batches,
                "world_size": self.processes.world_size,
                "images": len(data.train.images),
                "seed": config.seed,
                "group_by_aspect": config.group_by_aspect,
                "tiles": config.tiles,
                "tile_overlap": config.tile_overlap,
                "repeat_threshold": config.repeat_threshold,
            },
        }

    def build_trainer(
        self, fabric: Fabric, datasets: Datasets, batch_size: int, state: TrainingState, metadata: dict[str, Any]
    ) -> Trainer:
        """Assemble the training loop."""
        config, model, optimizer = self.config, self.setup.model, self.optimizer
        train_batches, val_batches = make_loaders(config, self.data, datasets, batch_size, fabric)
        factor = rate_factor(config.lr_base_size, batch_size * fabric.world_size * config.accumulate_grad_batches)
        budget = None
        if config.max_minutes:
            budget = TimeBudget(config.max_minutes, config.epochs, len(train_batches), len(val_batches))
        return Trainer(
            fabric,
            DetectionLoss(model, self.setup.criterion, compiled=config.compile, square_resize=config.square_resize),
            optimizer,
            LRSchedule(
                base=tuple(group["lr"] * factor for group in optimizer.param_groups),
                kind=config.lr_schedule,
                epochs=config.epochs,
                lr_drop=config.lr_drop,
                warmup_steps=config.warmup_steps,
            ),
            train_batches,
            self.make_validate(fabric, val_batches),
            state,
            RunSchedule(
                epochs=config.epochs,
                eval_every=config.eval_every,
                checkpoint_every=config.checkpoint_every,
                save_minutes=config.save_minutes,
                patience=config.patience,
                accumulate_grad_batches=config.accumulate_grad_batches,
                no_aug_epochs=config.no_aug_epochs,
            ),
            run_dir=self.run_dir,
            metadata=metadata,
            clip_max_norm=config.clip_max_norm,
            seed=config.seed,
            ema=Ema(config.ema, model) if config.ema else None,
            budget=budget,
            reporters=self.make_reporters(budget) if fabric.is_global_zero else [],
        )

    def make_validate(self, fabric: Fabric, batches: DataLoader[Batch]) -> Validate:
        """Make the function that evaluates the model on the validation images."""
        config, data = self.config, self.data
        validator = Validator(
            self.setup.criterion,
            data.val.to_coco(masks=config.masks),
            _val_ids(data),
            masks=config.masks,
            panoptic=PanopticGroundTruth.from_split(data.val) if config.task == "panoptic" else None,
        )

        def validate(*, should_stop: Callable[[], bool], advance: Callable[[int, int], None]) -> Validation | None:
            # evaluated images keep their own sizes, too many to compile a graph for each
            with torch.compiler.set_stance("force_eager") if config.compile else nullcontext():
                return validator.run(
                    self.setup.model,
                    batches,
                    device=fabric.device,
                    precision=fabric.autocast,
                    should_stop=should_stop,
                    advance=advance,
                )

        return validate

    def make_reporters(self, budget: TimeBudget | None) -> list[Reporter]:
        """Make the reporters of rank 0: progress bar, metrics.csv, loggers and, if asked for, log.txt."""
        progress = RunProgress(
            self.progress_console,
            epochs=self.config.epochs,
            budget=budget,
            spent=self.resume_point.seconds if self.resume_point else 0.0,
            monitor=self.monitored["monitor"],
        )
        rows = LoggerRows(make_loggers(self.config, self.run_dir))
        reporters: list[Reporter] = [
            MetricsFile(self.run_dir / "metrics.csv"),
            rows,
            progress,
            ProcessFile(self.run_dir / PROCESS, self.config.epochs, progress.left),
        ]
        if self.classic_log:
            trainable = count_trainable(self.setup.model)
            reporters.append(ClassicLog(self.run_dir / "log.txt", self.setup.criterion.weights, trainable))
        return reporters

    @contextmanager
    def explained_errors(self, batch_size: int, fabric: Fabric) -> Iterator[None]:
        """Add advice to errors of training."""
        try:
            yield
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error.message}; {after_divergence(self.config, self.run_dir / LAST)}") from None
        except KeyboardInterrupt:  # the second Ctrl-C
            kill_children(fabric)
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                explain_out_of_memory(
                    batch_size=batch_size,
                    image_size=self.image_size,
                    num_queries=self.setup.model.num_queries,
                    precision=self.config.precision,
                    cuda=self.processes.accelerator == "cuda",
                    classic=self.classic_log,
                )
            ) from error

    def report_best(self, trainer: Trainer) -> None:
        """Write report/ of the best checkpoint. If an earlier process saved it, all ranks evaluate it first."""
        if trainer.end_reason == "signal" or not trainer.state.best_epoch:
            return
        best = trainer.best
        if best is None:
            trainer.model.load_state_dict(read(self.run_dir / BEST)["model"])
            best = trainer.validate(should_stop=lambda: False, advance=lambda done, total: None)
            assert best is not None
        if trainer.fabric.is_global_zero:
            epoch, settings = trainer.state.best_epoch, self.config.to_dict()
            write_final_report(best, self.run_dir, self.data.val, best_epoch=epoch, settings=settings)

    def print_final_result(self, trainer: Trainer, signals: StopSignals, datasets: Datasets) -> None:
        """Print the result and the next command, with advice if the run has hardly any detections."""
        resume_command = f"detrkit train --resume auto --output_dir {shlex.quote(str(self.run_dir))}"
        print_result(
            self.console,
            trainer,
            signals,
            resume_command=(
                "the same flags of detrkit detr, and --resume auto" if self.classic_log else resume_command
            ),
            advice=waiting_advice(
                trainer.state.history,
                workers=self.config.num_workers,
                all_cached=all_cached(datasets.train, datasets.val),
            ),
        )
        advise(self.console, self.config, self.data, trainer, self.image_size)


def _val_ids(data: Data) -> tuple[int | None, ...]:
    """The category id of each class of the model in the validation data; None for a class that they lack."""
    ids = {index: category_id for category_id, index in data.categories.index_map_from(data.val.categories).items()}
    return tuple(ids.get(index) for index in range(len(data.categories)))
