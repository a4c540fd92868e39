"""Settings of a training run: `TrainConfig` has the flags, the `--config` file and the config.yaml of a run folder.

Each setting has one owner and one flat name, so `lr` is `--lr` on the command line, `lr:` in YAML and `config.lr` in
Python. Nothing here imports torch: `detrkit train --help` must answer at once. Parts below
the setup of training and the builders take plain arguments and finished parts, never a config.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Lt

from detrkit.config.data import AugmentConfig, DataConfig
from detrkit.config.fields import (
    NamesOf,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Settings,
    StoredAs,
    fields_stored_as,
)
from detrkit.config.loss import LossConfig, LossFlags
from detrkit.config.model import ModelConfig, ModelFlags, has_published_weights
from detrkit.config.options import config_from_options
from detrkit.config.presets import MODELS, NO_WEIGHTS, WITH_WEIGHTS, default_settings
from detrkit.config.yaml_file import dump_settings, read_settings
from detrkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimization."""

    lr: Annotated[float, Gt(0)] = 1e-4
    """Learning rate of the transformer and heads per step."""
    lr_backbone: NonNegativeFloat = 1e-5
    """Learning rate of the backbone per step; 0 freezes it, running statistics included."""
    lr_base_size: NonNegativeInt = 0
    """Images per step that --lr and --lr_backbone are meant for; with another number, both are multiplied by the square
    root of the ratio. Counted over all devices and accumulated batches. 0: they are used as they are."""
    lr_linear_proj_mult: NonNegativeFloat = 1.0
    """Factor on --lr for sampling offsets and reference points (Deformable DETR: 0.1); 0 freezes them."""
    batch_size: PositiveInt | Literal["auto", "max"] = 2
    """Images per step and device. auto: chosen from the number of training images; max: the largest power of two that
    fits into memory."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""
    norm_decay: bool = True
    """Apply weight decay to norms and biases as well (RT-DETR: false)."""
    epochs: PositiveInt = 300
    """Passes over the training images."""
    max_minutes: NonNegativeFloat = 0.0
    """Limit of the whole run in minutes, the last evaluation included; 0: no limit. If the epochs do not fit, the
    schedule is compressed: learning rates and --no_aug_epochs go by the share of the steps or of the time, whichever is
    larger, so that the model is trained to the end. An earlier evaluation is left out if these would take more than a
    tenth of the time."""
    lr_schedule: Literal["step", "cosine", "flat_cosine"] = "step"
    """step: the learning rates drop to a tenth every lr_drop epochs; cosine: they fall to 0 at the end; flat_cosine:
    they are constant for the first half of the epochs, then fall to a twentieth."""
    lr_drop: PositiveInt = 200
    """Epochs between drops of the learning rates to a tenth (schedule step)."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rates rise linearly from 0, at most a tenth of the run."""
    no_aux_loss: bool = False
    """Leave out the losses at the earlier decoder layers."""
    clip_max_norm: NonNegativeFloat = 0.1
    """Largest norm of the gradient; 0: no clipping."""
    accumulate_grad_batches: PositiveInt = 1
    """Batches whose gradients are added up before each step."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay per step of an exponential moving average of the weights, which is evaluated and saved in their place. 0:
    no average."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Number format of training: float32, or mixed with bfloat16 or float16."""
    compile: bool = False
    """Compile the model (torch.compile): minutes before the first steps, then faster ones on a GPU. Without
    --square_resize, batches are padded to multiples of 128 pixels, so that few shapes have to be compiled."""
    checkpoint_activations: bool = False
    """Keep fewer activations of encoder and decoder layers for the backward pass and compute them again there: less
    memory for more time, and the same gradients."""
    monitor: str = ""
    """Metric that chooses best.ckpt and is used by --patience, named as in metrics.csv without val/: AP, AP50, AP75,
    AR100, ...; mask_AP, mask_AP50, ... and PQ, SQ or RQ if they are measured; class_AP/NAME of one class; or loss
    (lower is better). Empty: AP, or mask_AP with --task instance, PQ with --task panoptic."""
    patience: NonNegativeInt = 0
    """Stop after this many evaluations without a better --monitor; 0: never."""
    seed: NonNegativeInt = 42
    """Random seed of the weights, the order of images, augmentation and dropout."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Run."""

    recipe: Annotated[str, NamesOf("detrkit.config.presets:RECIPES")] = "classic"
    """Set of defaults. classic: those of the reference DETR; fast: for training on little data. (In Python:
    TrainConfig.from_recipe.)"""
    model: Annotated[str, NamesOf("detrkit.config.presets:MODELS", ("",))] = ""
    """Named model whose settings are the defaults. Empty: the reference DETR, or the model of --weights. Without a GPU,
    the recipe fast takes detrkit_n. (In Python: TrainConfig.from_recipe.)"""
    output_dir: str = ""
    """Run folder; empty: runs/NAME-OF-DATA, numbered if that exists."""
    weights: str = ""
    """Weights to start from, with classes matched by name: a checkpoint, a run folder, a name of `detrkit models` such
    as dfine_n, a Hugging Face folder or id, or a .pth of the reference DETR. auto: the weights of the named model that
    come with detrkit (detrkit_n has them), unless its architecture or backbone is changed; none: random ones."""
    frozen_weights: str = ""
    """Train only the mask head, on the frozen detector of these weights (the second stage of segmentation in the
    reference DETR)."""
    backbone_weights: str = "imagenet"
    """Weights of the backbone without --weights: imagenet (published weights, downloaded once), none (random), or the
    path of a file."""
    resume: str = ""
    """Resume a run: auto (the last checkpoint in output_dir, or a new run if there is none), a run folder (its last
    checkpoint), or a checkpoint."""
    overfit: NonNegativeInt = 0
    """Train and evaluate on the first N images only, as a first test of new data; 0: off."""
    eval_every: PositiveInt = 1
    """Epochs between evaluations."""
    checkpoint_every: NonNegativeInt = 0
    """Keep a further checkpoint every N epochs; 0: only best and last."""
    save_minutes: NonNegativeFloat = 10.0
    """Minutes between saves of last.ckpt within an epoch, in addition to those after each epoch."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on; auto: a GPU if there is one."""
    devices: PositiveInt = 1
    """Processes (GPUs) per node."""
    num_nodes: PositiveInt = 1
    """Number of machines."""
    num_threads: PositiveInt | Literal["auto"] = "auto"
    """CPU threads of training, which a resumed run keeps, since rounding depends on them. auto: PyTorch's number; with
    --max_minutes on a CPU, and OMP_NUM_THREADS not set, the number that is fastest at the start: several threads are
    slower than one on a busy machine."""
    quiet: bool = False
    """Print no progress, neither the settings of the run nor its epochs; final metrics, the command to resume, warnings
    and errors are still printed."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the wandb extra)."""
    mlflow: bool = False
    """Also log to MLflow (needs the mlflow extra)."""


@dataclass(frozen=True, kw_only=True)
class FoldsConfig(Settings):
    """Folds."""

    folds: NonNegativeInt = 0
    """Cross-validation: divide all images, train and val together, into this many folds, and train a model for each on
    the images of the others; 0: off. A limit such as --max_minutes is that of one fold."""
    group_by: str = ""
    """Regular expression with a group, searched for in file names: images in which the group is the same text stay in
    one fold, as copies of one image always do."""
    final: bool = False
    """After the folds, train a model on all images, for as many epochs as were best in the folds."""


CONFIG_GROUPS = (DataConfig, AugmentConfig, OptimConfig, RunConfig, FoldsConfig, ModelFlags, LossFlags)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LossFlags, ModelFlags, FoldsConfig, RunConfig, OptimConfig, AugmentConfig, DataConfig):
    """All settings of a training run. Unset fields take the defaults of the recipe.

        config = TrainConfig.from_recipe("fast", data="images", epochs=20)
        config = TrainConfig.from_yaml("runs/images/config.yaml")

    Raises:
        ConfigError: a value is out of range, or does not fit the others.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks and self.task == "detect":
            object.__setattr__(self, "task", "instance")
        object.__setattr__(self, "masks", self.task != "detect")
        self._check_folds()
        if self.weights in NO_WEIGHTS:
            start = self.model if self.weights == "auto" and not self.frozen_weights and self._is_named_model() else ""
            object.__setattr__(self, "weights", start)
        if self.frozen_weights and (self.weights or not self.masks):
            wrong = "--weights as well; leave one out" if self.weights else "no --task instance or panoptic; add it"
            raise ConfigError(f"--frozen_weights trains a mask head on the detector in a file, found {wrong}")
        if not (self.fine_tunes or self.frozen_weights):  # else settings of the model may come from the weights
            self.model_config(num_classes=1)
            if self.backbone_weights == "imagenet" and not self.resume and not has_published_weights(self.backbone):
                raise ConfigError(
                    f"expected --backbone_weights none or a file with --backbone {self.backbone}, found imagenet, but "
                    "no weights are published under that name"
                )

    @property
    def fine_tunes(self) -> bool:
        """Whether training starts from the weights of another detector, whose settings it takes."""
        return bool(self.weights) and not self.starts_from_package

    @property
    def starts_from_package(self) -> bool:
        """Whether training starts from the weights of the named model that come with detrkit."""
        return bool(self.weights) and self.weights == self.model

    def _is_named_model(self) -> bool:
        """Whether there are weights of the named model, and no setting that they depend on is changed."""
        if self.model not in WITH_WEIGHTS:
            return False
        named = {field.name: field.default for field in fields(self)} | MODELS[self.model]()
        depends = {*fields_stored_as(ModelConfig, StoredAs.SHAPE, StoredAs.ARCHITECTURE), "backbone", "dense_convs"}
        return all(getattr(self, name) == named[name] for name in {*depends, "backbone_weights"})

    def _check_folds(self) -> None:
        """Refuse settings that do not fit --folds."""
        if self.folds == 1:
            raise ConfigError("--folds must be 0 (off) or at least 2, found 1")
        if not self.folds:
            for name in ("group_by", "final"):
                if getattr(self, name):
                    raise ConfigError(f"--{name} needs --folds; add --folds 5, or leave --{name} out")
            return
        reasons = {
            "val_json": "the folds take the place of validation images; leave it out, or name its file in --train_json",
            "val_images": "the folds take the place of validation images; leave it out",
            "overfit": "--folds measures images that a model has not seen; leave one of the two out",
        }
        for name, reason in reasons.items():
            if getattr(self, name):
                raise ConfigError(f"--folds {self.folds} does not fit --{name} {getattr(self, name)}: {reason}")
        if self.resume not in ("", "auto"):
            raise ConfigError(
                f"--folds {self.folds} does not fit --resume {self.resume}: the same command continues the folds in "
                "its --output_dir; leave --resume out"
            )
        if self.devices * self.num_nodes > 1:
            raise ConfigError(
                f"--folds {self.folds} trains in one process, found {self.devices * self.num_nodes}; leave --devices "
                "and --num_nodes out"
            )

    def model_config(self, num_classes: int, **others: Any) -> ModelConfig:
        """Make the settings that the model is built from.

        Args:
            num_classes: number C of classes.
            others: settings of `ModelConfig` that override those of this config.

        Raises:
            ConfigError: settings of the model do not fit each other.
        """
        flags = {field.name: getattr(self, field.name) for field in fields(ModelFlags)}
        derived = {"sigmoid": self.class_loss != "softmax", "aux_loss": not self.no_aux_loss}
        return ModelConfig(num_classes=num_classes, **{**flags, **derived, **others})

    def loss_config(self, num_classes: int) -> LossConfig:
        """Make the settings that the criterion is built from, for C = `num_classes`."""
        flags = {field.name: getattr(self, field.name) for field in fields(LossFlags)}
        return LossConfig(num_classes=num_classes, masks=self.masks, dense_head=self.dense_head, **flags)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, as YAML and checkpoints store it."""
        return asdict(self)

    def to_yaml(self) -> str:
        """Format as the text of config.yaml, which `from_yaml` reads back equal."""
        return dump_settings(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a config from plain data, the inverse of `to_dict`; absent keys take their defaults.

        Raises:
            ConfigError: a key is not a setting (the message suggests the nearest name), or a value does not fit.
        """
        return config_from_options(cls, **values)

    @classmethod
    def from_recipe(cls, recipe: str, **changes: Any) -> Self:
        """Make the settings of a recipe with changes: `TrainConfig.from_recipe("fast", data="images", epochs=20)`.

        Args:
            recipe: name of the recipe, classic or fast.
            changes: settings by name; with `model`, other settings default to those of the named model.

        Raises:
            ConfigError: there is no such recipe, model or setting, or a value does not fit.
        """
        return cls.from_dict({**default_settings({**changes, "recipe": recipe}), **changes})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a config.yaml.

        Raises:
            ConfigError: the file cannot be read, or a setting does not fit.
        """
        return cls.from_dict(read_settings(path, [f.name for f in fields(cls)]))
