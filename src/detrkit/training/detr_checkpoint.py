"""Resume from a file of the reference DETR or its forks: published weights or a checkpoint.pth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from detrkit.errors import DetrkitWarning, WeightsError
from detrkit.models import DETR
from detrkit.models.checkpoints import (
    PUBLISHED,
    FitRow,
    Weights,
    fit_notes,
    fit_weights,
    load_weights,
    mask_head_note,
    read_checkpoint,
    read_content,
)
from detrkit.structures import Categories
from detrkit.training.checkpoint import is_of_a_run


@dataclass(frozen=True)
class Restored:
    """State that a run takes from a file of the reference DETR."""

    rows: list[FitRow]
    """Origin of each class; empty if the class head is that of the file, or there is none."""
    epoch: int
    """Number of finished epochs."""


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """Weights that are no checkpoint of a detrkit run, with optimizer state and epoch if the file has them.

    The scheduler in the file is not needed: learning rates are a function of the epoch and of the settings given now
    (the reference DETR silently returned to the saved ones).
    """

    path: Path
    weights: Weights
    named: bool
    """Whether the file names its classes."""
    optimizer: dict[str, Any] | None
    """State of the optimizer; None for files without, such as the published ones."""
    epoch: int
    """Number of finished epochs."""

    @classmethod
    def read(cls, path: Path) -> ReferenceCheckpoint | None:
        """Read such a file, a Hugging Face folder, or a published model by its name; None for a checkpoint of a detrkit
        run.

        Raises:
            WeightsError: it cannot be read or trusted, or holds no detector.
        """
        of_huggingface = path.suffix == ".safetensors" or (path / "config.json").is_file()
        if of_huggingface or (not path.exists() and str(path) in PUBLISHED):
            return cls(path, load_weights(str(path), headless=True), of_huggingface, None, 0)
        content = read_checkpoint(path)
        if is_of_a_run(content):
            return None
        epoch = int(content["epoch"]) + 1 if "optimizer" in content and "epoch" in content else 0
        return cls(path, read_content(content, path), "detrkit" in content, content.get("optimizer"), epoch)

    @classmethod
    def of_run(cls, path: Path) -> ReferenceCheckpoint:
        """Take only the weights of a checkpoint of a detrkit run, for a run with other classes."""
        return cls(path, load_weights(path, headless=True), True, None, 0)

    def restore(self, model: DETR, optimizer: Optimizer, categories: Categories, *, recipe: str) -> Restored:
        """Load the model and, if no part of it starts anew, the optimizer.

        A file that does not name its classes, but has as many as the model, has the same ones, as in the reference
        DETR. Otherwise classes are matched by name, see `fit_weights`. A warning lists the parts that start anew.

        Args:
            model: model for `len(categories)` classes.
            optimizer: optimizer of the parameters of the model.
            categories: classes of the model.
            recipe: recipe of the run, for a hint if its settings are not those of the reference DETR.

        Raises:
            WeightsError: something else differs; the sentence names the likely setting.
        """
        same = not self.named and len(self.weights.categories) == len(categories)
        weights = replace(self.weights, categories=categories) if same else self.weights
        new = [*fit_notes(model, weights), *filter(None, [mask_head_note(model, weights)])]
        notes = [*self._notes(model), *new]
        # other dilation is told, but fits: it has the same keys
        args = {name: value for name, value in weights.model_args.items() if name != "dilation"}
        try:
            rows = fit_weights(model, replace(weights, model_args=args), categories)
        except WeightsError as error:
            hint = (
                "" if recipe == "classic" else "; --weights in place of --resume, or --recipe classic, has its settings"
            )
            raise WeightsError(f"{error.message}{hint}") from None
        anew = bool(new) or any(row.kept_from is None for row in rows)
        if anew and self.optimizer is not None:
            notes.append(
                f"parts of the model start anew, so the optimizer state and the epoch ({self.epoch}) of {self.path} "
                "are left out: training begins with the first epoch"
            )
        for note in notes:
            warnings.warn(DetrkitWarning(note), stacklevel=2)
        if not anew:
            self._restore_optimizer(optimizer)
        return Restored([] if same else rows, 0 if anew else self.epoch)

    def _notes(self, model: DETR) -> list[str]:
        """Assumptions about the file that the settings of this run do not confirm; and a difference in dilation."""
        args, dilated = self.weights.model_args, model.model_args["dilation"]
        known = {"categories"}  # the classes are those of this run
        known |= {"dilation"} if dilated else set()
        known |= {"nheads"} if model.model_args["nheads"] != 8 else set()
        notes = [*self.weights.notes, *(note for name, note in self.weights.assumed.items() if name not in known)]
        if args.get("dilation", dilated) and not dilated:
            notes.append(
                f"{self.path} was trained with dilation (DC5), and this run has none: features are coarser than in "
                "the training of the weights, which costs accuracy; add --dilation"
            )
        if dilated and not args.get("dilation", dilated):
            notes.append(
                f"{self.path} was trained without the dilation (DC5) of this run: features are finer than in the "
                "training of the weights, which costs accuracy; leave --dilation out"
            )
        return notes

    def _restore_optimizer(self, optimizer: Optimizer) -> None:
        """Load the optimizer, if the file has its state.

        The groups fit by position: everything but the backbone, then the backbone, each in the order of
        `named_parameters`, which is the reference DETR's. Learning rates and weight decay stay those given now.

        Raises:
            WeightsError: it has other groups or shapes.
        """
        if self.optimizer is None:
            return
        state, groups = self.optimizer["state"], self.optimizer["param_groups"]
        for number, (given, own) in enumerate(zip(groups, optimizer.param_groups, strict=False)):
            shapes = [state[i]["exp_avg"].shape for i in given["params"] if i in state]
            if len(groups) != len(optimizer.param_groups) or shapes != [p.shape for p in own["params"]][: len(shapes)]:
                raise WeightsError(
                    f"the optimizer state in {self.path} does not fit: group {number} has {len(given['params'])} "
                    f"parameters, but {len(own['params'])} are trained now; resume with the settings of the file, or "
                    f"from its weights alone: detrkit convert {self.path} weights.pth, and --resume weights.pth"
                )
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        try:
            optimizer.load_state_dict(self.optimizer)
        except ValueError as error:
            raise WeightsError(f"the optimizer state in {self.path} does not fit: {error}") from None
        for group, kept in zip(optimizer.param_groups, settings, strict=True):
            group.update(kept)
