"""Checkpoints: their content, writing them whole, and checks of a run that resumes from one.

    "model"      the weights under the reference DETR's keys (their moving average, if there is one)
    "detrkit"    metadata: {"version", "model_args", "categories", "preprocessing" (see `Preprocessing`), "config",
                 "data", "batches", "metrics"}
    "ema"        None, or {"updates", "raw_model" (the trained weights, not averaged)}
    "optimizer"  state of the optimizer
    "scaler"     state of the loss scaler of 16-mixed, else empty
    "progress"   position and results; see `TrainingState`

All of it is tensors and plain data, and loads with `weights_only=True`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.optim import Optimizer

from detrkit.errors import DISK_FULL, ConfigError, TrainingError, WeightsError
from detrkit.files import BEST, LAST, save_tensors
from detrkit.models.checkpoints.safe import check_content
from detrkit.ops.text import first_names


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint to a temporary file and rename that, so that a file of this name is always complete.

    Raises:
        TrainingError: the checkpoint cannot be written; a former file of this name is intact.
    """
    try:
        save_tensors(path, checkpoint)
    except OSError as error:
        why = "the disk is full" if error.errno in DISK_FULL else str(error)
        after = "make room and start again, since there is no checkpoint yet"
        if path.exists():
            after = "the checkpoint before it is intact; make room and resume with --resume auto"
        raise TrainingError(f"could not write {path}: {why}; {after}") from error


def is_of_a_run(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a checkpoint from which a run of detrkit can be resumed."""
    return "detrkit" in content and "progress" in content


def read(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of a run into main memory.

    Args:
        path: the file.
        mmap: leave the tensors on disk until they are used, which makes reading the plain parts fast.

    Raises:
        WeightsError: there is no such file, it is no checkpoint of a run, or not safe to read.
    """
    if not Path(path).is_file():
        others = [Path(path).with_name(name) for name in (LAST, BEST) if Path(path).with_name(name).is_file()]
        raise WeightsError(
            f"expected a checkpoint to resume from at {path}, found none"
            + (f", but {others[0]}; name that file" if others else "; look at the path")
        )
    check_content(Path(path))
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(
            f"expected a checkpoint to resume from, found something else in {path}: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(checkpoint, dict) or not is_of_a_run(checkpoint):
        raise WeightsError(
            f"expected a checkpoint of a detrkit run in {path}, found weights without the state of a run; start from "
            "them with --weights"
        )
    return checkpoint


def link(source: Path, target: Path) -> None:
    """Give a file a second name, in one step: a hard link, or a copy if the file system has no links."""
    name = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.stem}-")) / target.name
    try:
        try:
            os.link(source, name)
        except OSError:
            shutil.copyfile(source, name)
        name.replace(target)
    finally:
        shutil.rmtree(name.parent, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Delete the unfinished files of checkpoints that a killed process left."""
    for pattern in (".last-*", ".best-*", ".epoch_*-*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class ResumePoint:
    """The plain part of a checkpoint to resume from: its position, model, data and settings."""

    path: Path
    """File of the checkpoint."""
    metadata: Mapping[str, Any]
    """The "detrkit" entry."""
    epoch: int
    """Number of finished epochs."""
    batch: int
    """Number of finished batches of the current epoch."""
    evaluated: bool
    """Whether no evaluation of a finished epoch is due."""
    evaluations_without_improvement: int
    """Evaluations since the monitored metric last improved."""
    monitored: Mapping[str, str]
    """Metric and validation images by which the best checkpoint was chosen, see `TrainingState`."""
    seconds: float
    """Time of the run so far, in seconds."""
    max_minutes: float
    """Limit of time of the run; 0: none."""
    time_share: float
    """Share of the time for training that is used, under this limit."""
    groups: tuple[int, ...]
    """Number of parameters in each group of the optimizer."""

    @classmethod
    def read(cls, path: Path) -> ResumePoint:
        """Read the plain part of a checkpoint, and leave the tensors on disk.

        Raises:
            WeightsError: see `read`.
        """
        checkpoint = read(path, mmap=True)
        progress = checkpoint["progress"]
        return cls(
            path,
            checkpoint["detrkit"],
            progress["epoch"],
            progress["batch"],
            evaluated=not progress["evaluation_due"],
            evaluations_without_improvement=progress["evaluations_without_improvement"],
            monitored=progress["monitored"],
            seconds=progress["seconds"],
            max_minutes=progress["max_minutes"],
            time_share=progress["time_share"],
            groups=tuple(len(group["params"]) for group in checkpoint["optimizer"]["param_groups"]),
        )

    def changed(self, *, data: Mapping[str, Mapping[str, Any]], monitored: Mapping[str, str]) -> str:
        """Changes of data and monitored metric since the checkpoint, as a sentence; empty if there are none.

        Args:
            data: fingerprints of the present splits, see `compute_fingerprints`.
            monitored: present metric and validation images, see `TrainingState`.
        """
        parts = []
        for name, word in (("train", "training"), ("val", "validation")):
            now, then = data[name], self.metadata["data"][name]
            if now["fingerprint"] != then["fingerprint"]:
                count = f"{now['images']} now, {then['images']} before"
                if now["images"] == then["images"]:
                    count = f"as many, {now['images']}, but other files or labels"
                parts.append(f"the {word} images are not those that {self.path} was trained with ({count})")
        if monitored["monitor"] != self.monitored["monitor"]:
            parts.append(f"the monitored metric changed from {self.monitored['monitor']} to {monitored['monitor']}")
        if monitored != self.monitored:
            parts.append("so the best checkpoint is chosen anew")
        return "; ".join(parts)

    def nothing_left(self, *, epochs: int, patience: int, max_minutes: float, monitored: Mapping[str, str]) -> str:
        """Reason why nothing is left to train, as part of a sentence; empty if something is."""
        if not self.evaluated:
            return ""
        if self.epoch >= epochs:
            return f"all {epochs} epochs are done; raise --epochs to train more"
        if 0 < patience <= self.evaluations_without_improvement and monitored == self.monitored:
            return (
                f"{monitored['monitor']} has not improved for {self.evaluations_without_improvement} evaluations; "
                "raise --patience to train more"
            )
        used = self.time_share >= 1 and max_minutes == self.max_minutes
        if max_minutes and (used or 60 * max_minutes <= self.seconds):
            return f"its {max_minutes:g} minutes are used up; raise --max_minutes to train more"
        return ""

    def check(self, *, model_args: Mapping[str, Any], categories: list[dict[str, Any]]) -> None:
        """Refuse to resume with another model.

        Raises:
            ConfigError: model settings or classes differ from those of the checkpoint.
        """
        for name, value in model_args.items():
            expected = self.metadata["model_args"].get(name, value)
            if expected != value:
                raise ConfigError(
                    f"{self.path} was trained with {name} {expected!r}, but now it is {value!r}; "
                    "resume with the settings of its config.yaml, or start anew with --weights"
                )
        if [c["name"] for c in self.metadata["categories"]] != [c["name"] for c in categories]:
            raise ConfigError(
                f"{self.path} was trained on the classes {_names(self.metadata['categories'])}, but the data now has "
                f"{_names(categories)}; start anew with --weights to keep the weights"
            )

    def check_groups(self, optimizer: Optimizer) -> None:
        """Refuse to resume with other groups of parameters in the optimizer.

        Raises:
            ConfigError: the groups have other sizes than those of the checkpoint.
        """
        if self.groups != tuple(len(group["params"]) for group in optimizer.param_groups):
            raise ConfigError(
                f"in {self.path} the parameters are grouped by other learning rates; resume with the --lr_backbone, "
                "--lr_linear_proj_mult and --norm_decay of its config.yaml, or start anew with --weights"
            )

    def check_mid_epoch(self, **settings: Any) -> None:
        """Refuse to resume inside an epoch whose batches would differ now.

        Raises:
            ConfigError: a setting on which the batches depend differs from that of the checkpoint.
        """
        for name, value in settings.items():
            expected = self.metadata["batches"].get(name, value)
            if self.batch and expected != value:
                raise ConfigError(
                    f"{self.path} was saved inside epoch {self.epoch + 1} with {name} {expected}, but now it is "
                    f"{value}; finish that epoch with {name} {expected} first, since its batches depend on it"
                )


def _names(categories: list[dict[str, Any]]) -> str:
    return first_names((category["name"] for category in categories), 6)
