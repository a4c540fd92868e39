"""Make the parts of a run from its settings: data, model, processes, folder."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from detrkit.config.fields import StoredAs, fields_stored_as
from detrkit.config.presets import sigmoid_losses, softmax_losses
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawDataset
from detrkit.data.records import Split, select_images
from detrkit.data.tile_records import tile_split
from detrkit.data.validation.held_out import read_fold, write_split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, DetrkitWarning
from detrkit.files import FOLDS, LAST, run_folder
from detrkit.losses import build_criterion
from detrkit.models import build_model
from detrkit.models.checkpoints import FitRow, Weights, fit_notes, fit_weights, load_weights, mask_head_note
from detrkit.ops.text import first_names
from detrkit.ops.tiles import Tiling
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Categories, Preprocessing
from detrkit.training.checkpoint import ResumePoint
from detrkit.training.model_setup import ModelSetup
from detrkit.training.transformers_setup import setup_transformers

_STORED = fields_stored_as(TrainConfig, StoredAs.SHAPE, StoredAs.ARCHITECTURE, StoredAs.SETTING)
"""Settings that `--weights` restores; those that weights do not state are as in the reference DETR."""
_TRAINING_ONLY = fields_stored_as(TrainConfig, StoredAs.TRAINING_ONLY)
"""Settings of the training-only parts of the model, which `--weights` restores if the weights state them."""

RANDOM_AND_FROZEN = (
    "--lr_backbone 0 freezes a backbone of random weights, since --backbone_weights is none; give it weights or a "
    "learning rate"
)


@dataclass(frozen=True)
class Data:
    """The checked images of a run."""

    train: Split
    val: Split
    """Whole images, as they are evaluated."""
    categories: Categories
    summary: list[str]
    """Lines about the choices, omissions and repairs of the check."""
    raw: RawDataset
    val_tiles: Split | None = None
    """The tiles of the validation images, if images are cut; `train` then has tiles, too."""

    @property
    def val_inputs(self) -> Split:
        """The validation images, or their tiles, that the model gets."""
        return self.val_tiles or self.val

    def cut(self, tiling: Tiling | None) -> Data:
        """The same images, cut into tiles; None: whole."""
        if tiling is None:
            return self
        return replace(self, train=tile_split(self.train, tiling), val_tiles=tile_split(self.val, tiling))

    @property
    def value_range(self) -> ValueRange | None:
        """See `Split.value_range`."""
        return self.train.value_range

    def with_range_of(self, resume_point: ResumePoint | None) -> Data:
        """The same images, with the range of values of the checkpoint to resume from, if it has one."""
        stored = ValueRange.from_plain(resume_point.metadata["preprocessing"]["value_range"]) if resume_point else None
        if stored is None or resume_point is None or stored == self.value_range:
            return self
        warnings.warn(
            f"in images of more than 8 bits per channel, {stored} is mapped to 0..255, as when {resume_point.path} was "
            f"trained; {self.value_range or 'no range'} of the data or the settings is ignored",
            stacklevel=2,
        )
        return replace(self, train=replace(self.train, value_range=stored), val=replace(self.val, value_range=stored))

    def write_split(self, run_dir: Path) -> None:
        """Write the names of the validation images to split.json if the split was made for this run."""
        write_split(run_dir / "split.json", self.raw)


def load_data(
    config: TrainConfig, classes: Callable[[Categories], Categories] | None = None, *, run_dir: Path | None = None
) -> Data:
    """Open and check the data set.

    `--overfit N` keeps the first N training images with objects, for training and evaluation alike. The folder of a
    fold names its validation images; if there are none, the training images are evaluated.

    Args:
        config: settings of the run.
        classes: function from the classes of the training data to those of the model; None: they are the same.
        run_dir: run folder, which may be a fold.

    Raises:
        DataError: the data set cannot be read, or has no images to train on or to evaluate on.
    """
    data_format = "coco_panoptic" if config.task == "panoptic" else ""
    choice = read_fold(run_dir) or {"val_fraction": config.val_fraction, "seed": config.seed}
    raw = open_dataset(**config.dataset_kwargs(data_format), **choice)
    report = check_dataset(
        raw,
        num_queries=sys.maxsize,  # `warn_of_crowds` compares with the queries of the model
        masks=config.masks,
        value_range=ValueRange.parse(config.value_range) or "find",
    )
    without_val = bool(config.overfit or (raw.pooled and not raw.held_out))
    for name in ("train",) if without_val else ("train", "val"):
        if name not in report.splits or not report.splits[name].images:
            raise DataError(
                f"expected {name} images in {raw.source}, found none; see detrkit check {raw.source}"
                + (", and --val_fraction, --val_json or more images" if name == "val" else "")
            )
    train, val = report.splits["train"], report.splits.get("val", report.splits["train"])
    summary = report.summary()
    if config.overfit:
        shown = np.flatnonzero(train.arrays.counts)[: config.overfit]
        train = val = replace(train, images=select_images(train.images, shown))
        summary.append(f"of these only the first {len(shown)} of train with objects, to train on and to evaluate on")
    summary += ["all images are trained on, so the metrics are those of training images"] * (raw.pooled and without_val)
    return Data(train, val, classes(train.categories) if classes else train.categories, summary, raw)


def build_training_model(
    config: TrainConfig,
    categories: Categories,
    resume_point: ResumePoint | None,
    *,
    from_reference_checkpoint: bool = False,
) -> ModelSetup:
    """Build the model and criterion, and load the weights of `--weights` or `--backbone_weights`.

    Weights restore their architecture: every model setting left at the default of the recipe and the named model
    becomes that of the weights. Nothing is loaded here for a resumed run, whose checkpoint has all weights.

    Args:
        config: settings of the run.
        categories: classes of the model.
        resume_point: checkpoint of detrkit to resume from, or None.
        from_reference_checkpoint: whether a checkpoint of the reference DETR, with frozen norms, is loaded later.

    Raises:
        ConfigError: settings do not fit each other, the weights or the checkpoint.
        WeightsError: the weights cannot be read or do not fit.
    """
    weights = None
    source = config.weights or config.frozen_weights
    if source and not resume_point and not from_reference_checkpoint:
        weights = _load_weights(config, source)
    stored_args, stored = _stored_args(weights, resume_point), _stored_preprocessing(weights, resume_point)
    if "hf_config" in stored_args:
        return setup_transformers(config, _defaults(config), categories, weights, resume_point)
    # weights of the package replace random ones: settings, norms and rates stay those of training from scratch
    foreign = None if config.starts_from_package else weights
    settings_from_weights = _settings_from_weights(config, foreign) if foreign else {}
    config = replace(config, **settings_from_weights)
    has_detector = from_reference_checkpoint or config.fine_tunes or bool(config.frozen_weights)
    has_loaded_weights = has_detector or config.backbone_weights != "none"
    norm = _choose_norm(config, weights, resume_point, has_loaded_weights)
    model_args = asdict(
        config.model_config(
            len(categories), class_agnostic=stored_args.get("class_agnostic", False), backbone_norm=norm
        )
    )
    if resume_point:
        resume_point.check(model_args=model_args, categories=categories.to_plain())
    torch.manual_seed(config.seed)
    new_model = weights is None and resume_point is None and not from_reference_checkpoint
    model = build_model(
        **model_args,
        backbone_weights=config.backbone_weights if new_model else None,
        image_mean=stored.mean,
        image_std=stored.std,
    )
    class_rows = fit_weights(model, weights, categories) if weights else []
    for note in fit_notes(model, foreign) if foreign else ():
        warnings.warn(DetrkitWarning(note), stacklevel=2)
    if config.frozen_weights:
        _check_known(class_rows, config.frozen_weights)
        model.freeze_detector()
    criterion = build_criterion(**asdict(config.loss_config(len(categories))))
    if not (has_loaded_weights or resume_point or config.lr_backbone):
        warnings.warn(DetrkitWarning(RANDOM_AND_FROZEN), stacklevel=2)
    trains_whole_backbone = norm != "frozen" and not has_loaded_weights and config.lr_backbone > 0
    lr_backbone = config.lr if trains_whole_backbone else config.lr_backbone
    norm_note = _describe_norm(norm, has_loaded_weights, lr_backbone, config.lr_base_size)
    if config.frozen_weights:
        norm_note = "unchanged, like the whole detector; only the mask head learns"
    image_size = stored.image_size if config.image_size == "auto" else config.image_size
    preprocessing = Preprocessing(image_size, config.square_resize, model.mean, model.std, tiling=config.tiling)
    return ModelSetup(
        model,
        criterion,
        config,
        settings_from_weights,
        model_args,
        preprocessing,
        lr_backbone,
        norm_note,
        class_rows,
        mask_head_note(model, weights) if weights else "",
    )


def _load_weights(config: TrainConfig, source: str) -> Weights:
    """Read weights, with a warning for each assumption about them."""
    weights = load_weights(
        source,
        dilation=config.dilation or None,
        nheads=config.nheads if config.nheads != _defaults(config).nheads else None,
        headless=not config.frozen_weights,  # a new class or box head of a frozen detector would not be trained
    )
    for note in weights.messages:
        warnings.warn(DetrkitWarning(note), stacklevel=2)
    return weights


def _settings_from_weights(config: TrainConfig, weights: Weights) -> dict[str, Any]:
    """The settings that weights change, among those that were left at their defaults."""
    stated = weights.model_args | {"square_resize": weights.preprocessing.square_resize}
    default, classic = _defaults(config), TrainConfig()
    stored = {name: stated.get(name, getattr(classic, name)) for name in _STORED}
    stored |= {name: stated[name] for name in _TRAINING_ONLY if name in stated}
    sigmoid = stated.get("sigmoid", False)
    if sigmoid != (config.class_loss != "softmax"):
        stored |= sigmoid_losses() if sigmoid else softmax_losses()
    changes = {
        name: value for name, value in stored.items() if getattr(config, name) == getattr(default, name) != value
    }
    architecture = set(_STORED) - {"num_queries"}
    if config.model and changes.keys() & architecture:  # it is no longer the named model
        changes["model"] = ""
    return changes


def _defaults(config: TrainConfig) -> TrainConfig:
    """The default settings for the recipe, the named model and the weights of a config."""
    return TrainConfig.from_recipe(config.recipe, model=config.model, weights=config.weights or config.frozen_weights)


def _check_known(class_rows: list[FitRow], source: str) -> None:
    """Refuse to train masks on a frozen detector that lacks classes of the data.

    Raises:
        ConfigError: it does.
    """
    missing = [row.name for row in class_rows if row.kept_from is None]
    if missing:
        raise ConfigError(
            f"expected a detector that knows all {len(class_rows)} classes of the data in --frozen_weights {source}, "
            f"but it lacks {first_names(missing, 3)}; train it for them first, or use --weights"
        )


def _stored_args(weights: Weights | None, resume_point: ResumePoint | None) -> Mapping[str, Any]:
    """The keywords of `build_model` that the loaded model was built with; empty for a new model."""
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
    counts: dict[Any, int] = {}
    for split in (data.train, data.val_inputs):
        for index in np.flatnonzero(split.arrays.counts > num_queries).tolist():
            image = split.images[index]
            counts[str(image.path), image.tile] = int(split.arrays.counts[index])
    if counts:
        most = max(counts, key=lambda key: counts[key])
        what = "tiles" if data.val_tiles else "images"
        warning = DetrkitWarning(
            f"{len(counts)} {what} have more objects than the {num_queries} queries can detect, {most[0]} the most "
            f"({counts[most]}); raise --num_queries to detect them all"
        )
        warnings.warn(warning, stacklevel=2)


def _choose_norm(
    config: TrainConfig, weights: Weights | None, resume_point: ResumePoint | None, has_loaded_weights: bool
) -> str:
    """The normalization of the backbone, with a value for `auto`."""
    if config.backbone_norm != "auto":
        return config.backbone_norm
    if resume_point:
        return str(resume_point.metadata["model_args"]["backbone_norm"])
    if weights and (config.frozen_weights or weights.model_args.get("backbone_norm") == "group"):
        return str(weights.model_args.get("backbone_norm", "frozen"))  # groups have no statistics to be frozen
    return "frozen" if has_loaded_weights else "batch"


def _describe_norm(norm: str, has_loaded_weights: bool, lr_backbone: float, lr_base_size: int) -> str:
    """A line about the normalization of the backbone: kind, reason and learning rate."""
    part = "the backbone beyond its first layers" if norm == "frozen" and lr_backbone else "the whole backbone"
    scaled = f" for {lr_base_size} images per step" if lr_base_size else ""
    rate = f"{part} learns at {lr_backbone:g}{scaled}" if lr_backbone else f"{part} is frozen, statistics included"
    if norm == "frozen" and has_loaded_weights:
        return f"frozen, with the statistics of the loaded weights; {rate}"
    if norm == "frozen":
        return "frozen without statistics, since no weights were loaded; --backbone_norm auto uses norms that learn"
    return f"{norm}{', on loaded weights' if has_loaded_weights else ''}; {rate}"


@dataclass(frozen=True)
class Processes:
    """Device type and number of processes."""

    accelerator: str
    """Device type, as Lightning names it: cpu, cuda or mps."""
    devices: int
    """Processes per node, one per device."""
    num_nodes: int
    """Number of nodes (machines)."""

    @property
    def world_size(self) -> int:
        """Number of processes on all nodes."""
        return self.devices * self.num_nodes


def find_processes(config: TrainConfig) -> Processes:
    """Find the device type, and the number of processes that torchrun or Slurm started, else that of the settings.

    Raises:
        ConfigError: there are no such devices, or fewer, or torchrun or Slurm started another number of processes.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(name for name in available if available[name]) if config.device == "auto" else config.device
    if not available[device]:
        raise ConfigError(
            f"--device {device}: PyTorch {torch.__version__} finds no such device here; use --device cpu or auto"
        )
    devices, nodes, starter = config.devices, config.num_nodes, ""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes, starter = int(os.environ["WORLD_SIZE"]) // devices, "torchrun"
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        devices, starter = int(os.environ["SLURM_NTASKS"]) // nodes, "Slurm"
    for name, chosen, started in (("devices", config.devices, devices), ("num_nodes", config.num_nodes, nodes)):
        if chosen not in (1, started):
            raise ConfigError(f"--{name} {chosen}, but {starter} started {started}; leave it out or make them equal")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"--devices {devices}, but this machine has {torch.cuda.device_count()} GPUs")
    return Processes(device, devices, nodes)


def choose_folder(config: TrainConfig, *, overwrite: bool = False) -> Path:
    """Choose the run folder: `--output_dir`, or runs/NAME-OF-DATA, numbered if that exists.

    With `--resume auto` and no `--output_dir`, it is the newest of the numbered folders that has a last.ckpt.

    Args:
        config: settings of the run.
        overwrite: accept an `--output_dir` with another run.

    Raises:
        ConfigError: the folder has another run.
    """
    if config.output_dir:
        folder = Path(config.output_dir)
        if (folder / FOLDS).exists():
            raise ConfigError(f"{folder} holds folds; continue with the same --folds, or name another --output_dir")
        if (folder / LAST).exists() and not config.resume and not overwrite:
            raise ConfigError(
                f"{folder} already holds a run; resume it with --resume auto, or name another --output_dir"
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
