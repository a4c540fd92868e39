"""From settings to the parts of a run: data, model, processes, folder."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from detrkit.config.fields import StoredAs, fields_stored_as
from detrkit.config.presets import sigmoid_losses, softmax_losses
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawDataset
from detrkit.data.records import Split
from detrkit.data.validation.held_out import write_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.files import LAST, run_folder
from detrkit.losses import DetectionCriterion, build_criterion
from detrkit.models import DETR, DetectionModel, build_model
from detrkit.models.checkpoints import FitRow, Weights, fit_notes, fit_weights, load_weights, mask_head_note
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories, Preprocessing
from detrkit.training.checkpoint import ResumePoint

_STORED = fields_stored_as(TrainConfig, StoredAs.SHAPE, StoredAs.ARCHITECTURE, StoredAs.SETTING)
"""Settings that come with weights; what weights do not state is as in the reference DETR."""
_TRAINING_ONLY = fields_stored_as(TrainConfig, StoredAs.TRAINING_ONLY)
"""Settings of the model that matter in training alone, which come with weights that state them."""

RANDOM_AND_FROZEN = (
    "--lr_backbone 0 keeps a backbone of random weights as it is, since --backbone_weights is none; give it weights "
    "or a rate to learn at"
)


@dataclass(frozen=True)
class Data:
    """The checked images of a run."""

    train: Split
    val: Split
    categories: Categories
    summary: list[str]
    """What the check chose, dropped and repaired; lines."""
    raw: RawDataset

    @property
    def value_range(self) -> ValueRange | None:
        """See `Split.value_range`."""
        return self.train.value_range

    def with_range_of(self, resume_point: ResumePoint | None) -> Data:
        """The same images, scaled by the range of values of the checkpoint to go on from, where it has one."""
        kept = ValueRange.from_plain(resume_point.metadata["preprocessing"]["value_range"]) if resume_point else None
        if kept is None or resume_point is None or kept == self.value_range:
            return self
        warnings.warn(
            f"in images of more than 8 bits per channel, {kept} is mapped to 0..255, as when {resume_point.path} was "
            f"trained; {self.value_range or 'no range'} of the data or the settings is ignored",
            stacklevel=2,
        )
        return replace(self, train=replace(self.train, value_range=kept), val=replace(self.val, value_range=kept))

    def write_split(self, run_dir: Path) -> None:
        """Write down a validation split that was made for this run."""
        write_split(run_dir / "split.json", self.raw)


def load_data(config: TrainConfig, classes: Callable[[Categories], Categories] | None = None) -> Data:
    """Open and check the data set.

    `--overfit N` leaves the first N training images that show something, for training and evaluation alike.

    Args:
        config: the settings.
        classes: makes the classes of the model from those of the training data; None: they are the same.

    Raises:
        DataError: there is nothing to train on.
    """
    data_format = "coco_panoptic" if config.task == "panoptic" else ""
    raw = open_dataset(**config.dataset_kwargs(data_format), val_fraction=config.val_fraction, seed=config.seed)
    report = check_dataset(
        raw,
        num_queries=sys.maxsize,  # of queries see `warn_of_crowds`
        masks=config.masks,
        value_range=ValueRange.parse(config.value_range) or "find",
    )
    for name in ("train",) if config.overfit else ("train", "val"):
        if name not in report.splits or not report.splits[name].images:
            raise DataError(
                f"expected {name} images in {raw.source}, found none; see detrkit check {raw.source}"
                + (", and --val_fraction, --val_json or more images" if name == "val" else "")
            )
    train, val = report.splits["train"], report.splits.get("val", report.splits["train"])
    summary = report.summary()
    if config.overfit:
        shown = [image for image in train.images if image.has_trainable][: config.overfit]
        train = val = replace(train, images=shown)
        summary.append(f"of these only the first {len(shown)} of train with objects, to train on and to evaluate on")
    return Data(train, val, classes(train.categories) if classes else train.categories, summary, raw)


@dataclass(frozen=True)
class ModelSetup:
    """The model that training starts from."""

    model: DetectionModel
    criterion: DetectionCriterion
    config: TrainConfig
    """The settings, with those that `--weights` brought."""
    brought: dict[str, Any]
    """What these changed."""
    model_args: dict[str, Any]
    """Keywords of `build_model` that make the same model again."""
    preprocessing: Preprocessing
    """How images are prepared for the model; the range of values is the data's."""
    lr_backbone: float
    norm: str
    """One line for the user: the normalization of the backbone, why, and at which rate it learns."""
    kept: list[FitRow]
    """With `--weights`: what became of each class."""
    masks: str = ""
    """With `--weights`: one line for the user if these or the model lack a mask head."""


def build_training_model(
    config: TrainConfig, categories: Categories, resume_point: ResumePoint | None, *, filled: bool = False
) -> ModelSetup:
    """Build the model and criterion, and load what `--weights` or `--backbone_weights` name.

    Weights bring their architecture: every model setting left at the default of the recipe and the named model becomes
    that of the weights. A resumed run loads neither, since its checkpoint has them.

    Args:
        config: the settings.
        categories: classes of the model.
        resume_point: the checkpoint of ours to go on from.
        filled: a checkpoint of the reference DETR, whose norms are frozen, will fill the model instead.
    """
    weights = None
    source = config.weights or config.frozen_weights
    if source and not resume_point and not filled:
        nheads = config.nheads if config.nheads != _defaults(config).nheads else None
        headless = not config.frozen_weights  # which nothing would train
        weights = load_weights(source, dilation=config.dilation or None, nheads=nheads, headless=headless)
        for note in weights.notes:
            warnings.warn(note, stacklevel=2)
    brought = _brought(config, weights) if weights else {}
    config = replace(config, **brought)
    trained = filled or bool(source) or config.backbone_weights != "none"
    norm = _norm(config, weights, resume_point, trained)
    stated = _stored_args(weights, resume_point)
    settings = config.model_config(
        len(categories), class_agnostic=stated.get("class_agnostic", False), backbone_norm=norm
    )
    model_args = asdict(settings)
    images = _stored_preprocessing(weights, resume_point)
    if resume_point:
        resume_point.check(model_args=model_args, categories=categories.to_plain())
    torch.manual_seed(config.seed)
    fresh = weights is None and resume_point is None and not filled and trained
    model = build_model(
        **model_args,
        backbone_weights=config.backbone_weights if fresh else None,
        image_mean=images.mean,
        image_std=images.std,
    )
    kept = fit_weights(model, weights, categories) if weights else []
    for note in fit_notes(model, weights) if weights else ():
        warnings.warn(note, stacklevel=2)
    if config.frozen_weights:
        _check_known(kept, config.frozen_weights)
        assert isinstance(model, DETR)
        model.freeze_detector()
    criterion = build_criterion(**asdict(config.loss_config(len(categories))))
    if not (trained or resume_point or config.lr_backbone):
        warnings.warn(RANDOM_AND_FROZEN, stacklevel=2)
    whole = norm != "frozen" and not trained and config.lr_backbone > 0
    lr_backbone = config.lr if whole else config.lr_backbone
    return ModelSetup(
        model,
        criterion,
        config,
        brought,
        model_args,
        Preprocessing(
            images.image_size if config.image_size == "auto" else config.image_size,
            config.square_resize,
            model.mean,
            model.std,
        ),
        lr_backbone,
        "as it is, like the whole detector; only the mask head learns"
        if config.frozen_weights
        else _explain_norm(norm, trained, lr_backbone),
        kept,
        mask_head_note(model, weights) if weights else "",
    )


def _brought(config: TrainConfig, weights: Weights) -> dict[str, Any]:
    """The settings that weights change, among those that were left at their defaults."""
    given = weights.model_args | {"square_resize": weights.preprocessing.square_resize}
    default, classic = _defaults(config), TrainConfig()
    theirs = {name: given.get(name, getattr(classic, name)) for name in _STORED}
    theirs |= {name: given[name] for name in _TRAINING_ONLY if name in given}
    sigmoid = given.get("sigmoid", False)
    if sigmoid != (config.class_loss != "softmax"):
        theirs |= sigmoid_losses() if sigmoid else softmax_losses()
    changes = {
        name: value for name, value in theirs.items() if getattr(config, name) == getattr(default, name) != value
    }
    # a model that is not the named one any more
    architecture = set(_STORED) - {"num_queries"}
    return changes | {"model": ""} if config.model and changes.keys() & architecture else changes


def _defaults(config: TrainConfig) -> TrainConfig:
    """The settings as they are unless told otherwise, of the same recipe, named model and weights."""
    return TrainConfig.from_recipe(config.recipe, model=config.model, weights=config.weights or config.frozen_weights)


def _check_known(kept: list[FitRow], source: str) -> None:
    """A frozen detector cannot learn classes that it does not know."""
    new = [row.name for row in kept if row.kept_from is None]
    if new:
        raise ConfigError(
            f"expected a detector that knows all {len(kept)} classes of the data in --frozen_weights {source}, found "
            f"none of {', '.join(new[:3])}{', ...' if len(new) > 3 else ''}; train it for them first, or use --weights"
        )


def _stored_args(weights: Weights | None, resume_point: ResumePoint | None) -> Mapping[str, Any]:
    """The keywords of `build_model` that the loaded model was made with; empty for a new one."""
    if weights:
        return weights.model_args
    return resume_point.metadata["model_args"] if resume_point else {}


def _stored_preprocessing(weights: Weights | None, resume_point: ResumePoint | None) -> Preprocessing:
    """The preprocessing of the loaded model; the defaults for a new one."""
    if weights:
        return weights.preprocessing
    return Preprocessing.from_plain(resume_point.metadata["preprocessing"]) if resume_point else Preprocessing()


def warn_of_crowds(data: Data, num_queries: int) -> None:
    """Warn, once, of images with more objects than there are queries. They are trained on all the same."""
    counts = {
        str(image.path): sum(not obj.crowd for obj in image.objects)
        for split in (data.train, data.val)
        for image in split.images
    }
    crowded = [path for path, count in counts.items() if count > num_queries]
    if crowded:
        most = max(crowded, key=lambda path: counts[path])
        warnings.warn(
            f"{len(crowded)} images hold more objects than the {num_queries} queries can find, {most} the most "
            f"({counts[most]}); raise --num_queries to find them all",
            stacklevel=2,
        )


def _norm(config: TrainConfig, weights: Weights | None, resume_point: ResumePoint | None, trained: bool) -> str:
    if config.backbone_norm != "auto":
        return config.backbone_norm
    if resume_point:
        return str(resume_point.metadata["model_args"]["backbone_norm"])
    if weights and (config.frozen_weights or weights.model_args.get("backbone_norm") == "group"):
        return str(weights.model_args.get("backbone_norm", "frozen"))  # groups have no statistics to be frozen
    return "frozen" if trained else "batch"


def _explain_norm(norm: str, trained: bool, lr_backbone: float) -> str:
    part = "the backbone beyond its first layers" if norm == "frozen" and lr_backbone else "the whole backbone"
    rate = f"{part} learns at {lr_backbone:g}" if lr_backbone else f"{part} stays as it is, with its statistics"
    if norm == "frozen" and trained:
        return f"frozen, with the statistics of the loaded weights; {rate}"
    if norm == "frozen":
        return (
            "frozen though no weights were loaded, so without statistics; --backbone_norm auto takes norms that learn"
        )
    return f"{norm}, {'on loaded weights' if trained else 'since no weights were loaded'}; {rate}"


@dataclass(frozen=True)
class Processes:
    """On what, and in how many processes."""

    accelerator: str
    """As Lightning calls it: cpu, cuda or mps."""
    devices: int
    num_nodes: int

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes


def find_processes(config: TrainConfig) -> Processes:
    """The device, and the processes: those that torchrun or Slurm started, else those asked for.

    Raises:
        ConfigError: the device or that many of them are not there, or torchrun started other processes than asked for.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(name for name in available if available[name]) if config.device == "auto" else config.device
    if not available[device]:
        raise ConfigError(
            f"--device {device}: PyTorch {torch.__version__} finds no such device here; use --device cpu, or auto"
        )
    devices, nodes, starter = config.devices, config.num_nodes, ""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes, starter = int(os.environ["WORLD_SIZE"]) // devices, "torchrun"
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        devices, starter = int(os.environ["SLURM_NTASKS"]) // nodes, "Slurm"
    for flag, asked, started in (("devices", config.devices, devices), ("num_nodes", config.num_nodes, nodes)):
        if asked not in (1, started):
            raise ConfigError(
                f"--{flag} {asked}, but {starter} started {started}; leave the flag out or make them equal"
            )
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"--devices {devices}, but this machine has {torch.cuda.device_count()} GPUs")
    return Processes(device, devices, nodes)


def choose_folder(config: TrainConfig, *, overwrite: bool = False) -> Path:
    """The run folder: `--output_dir`, or runs/NAME-OF-DATA with a number where that exists.

    With `--resume auto` and no `--output_dir`, the newest of the numbered folders that holds a last.ckpt.

    Raises:
        ConfigError: the folder holds another run.
    """
    if config.output_dir:
        folder = Path(config.output_dir)
        if (folder / LAST).exists() and not config.resume and not overwrite:
            raise ConfigError(
                f"{folder} already holds a run; go on with it with --resume auto, or name another --output_dir"
            )
        return folder
    if config.resume not in ("", "auto"):
        return run_folder(config.resume)
    data = Path(config.data).resolve()
    base = Path("runs") / (data.stem if data.is_file() else data.name)
    number, folder, newest = 1, base, None
    while folder.exists():
        newest = folder if (folder / LAST).exists() else newest
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return newest if newest and config.resume == "auto" else folder
