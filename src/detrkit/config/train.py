"""Settings of a training run: `TrainConfig` is the flags, the `--config` file and what a run folder stores.

Each setting has one owner and one flat name, so `lr` is `--lr` on the command line, `lr:` in YAML and `config.lr` in
Python. Nothing here imports torch: `detrkit train --help` must answer at once. Below `config`, `commands` and `cli`,
constructors take plain arguments and finished parts, never a config.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Lt

from detrkit.config.data import AugmentConfig, DataConfig
from detrkit.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings, check_named
from detrkit.config.loss import LossConfig, LossFlags
from detrkit.config.model import ModelConfig, ModelFlags
from detrkit.config.options import config_from_options
from detrkit.config.presets import MODELS, default_settings
from detrkit.config.yaml_file import dump_settings, read_settings
from detrkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimization."""

    lr: Annotated[float, Gt(0)] = 1e-4
    """Learning rate of the transformer and heads per step."""
    lr_backbone: NonNegativeFloat = 1e-5
    """Learning rate of the backbone per step; 0 freezes it, running statistics included."""
    lr_linear_proj_mult: NonNegativeFloat = 1.0
    """Factor on --lr for sampling offsets and reference points (Deformable DETR: 0.1); 0 freezes them."""
    batch_size: PositiveInt | Literal["auto", "max"] = 2
    """Images per step and device. auto: chosen from the number of training images; max: the largest power of two that
    fits into memory."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""
    norm_decay: bool = True
    """Apply weight decay to norms and biases, too (RT-DETR: false)."""
    epochs: PositiveInt = 300
    """Passes over the training images."""
    max_minutes: NonNegativeFloat = 0.0
    """Stop after this many minutes, if the epochs are not done before; 0: no limit."""
    lr_schedule: Literal["step", "cosine", "flat_cosine"] = "step"
    """step: a tenth after lr_drop epochs; cosine: down to 0 at the end; flat_cosine: full for the first half of the
    epochs, then down to a twentieth."""
    lr_drop: PositiveInt = 200
    """Epoch after which the step schedule drops the learning rates to a tenth."""
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
    """Metric that best.ckpt and --patience go by, as metrics.csv names it without val/: AP, AP50, AP75, AR100, ...;
    mask_AP, mask_AP50, ... and PQ, SQ or RQ where they are measured; class_AP/NAME of one class; or loss (lower is
    better). Empty: AP, or mask_AP with --task instance, PQ with --task panoptic."""
    patience: NonNegativeInt = 0
    """Stop after this many evaluations without a better --monitor; 0: never."""
    seed: NonNegativeInt = 42
    """Seed of weights, order, augmentation and dropout."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Run."""

    recipe: Literal["classic", "fast"] = "classic"
    """Set of defaults. classic: those of the reference DETR; fast: for training on little data. (In Python:
    TrainConfig.from_recipe.)"""
    model: str = ""
    """Named model whose settings are the defaults: detrkit_n, detrkit_s, detrkit_m, detrkit_l, detr_resnet50,
    detr_resnet50_dc5, detr_resnet101, detr_resnet101_dc5, deformable_r50, h_deformable_r50, dab_r50, dn_r50, dino_r50,
    rtdetr_r18 or rtdetr_r50. Empty: the reference DETR's, or those of --weights. Without a GPU, the recipe fast takes
    detrkit_n. (In Python: TrainConfig.from_recipe.)"""
    output_dir: str = ""
    """Folder of the run; empty: runs/NAME-OF-DATA, numbered if that exists."""
    weights: str = ""
    """Start from these weights, classes matched by name: a name of `detrkit models`, such as dfine_n, a checkpoint of
    detrkit, a Hugging Face folder or id, or a .pth of the reference DETR."""
    frozen_weights: str = ""
    """Train only the mask head, on the detector in these weights, which stays as it is (the second stage of
    segmentation in the reference DETR)."""
    backbone_weights: str = "imagenet"
    """Weights of the backbone at the start, without --weights: imagenet (published ones, downloaded once), none, or
    the path of a file."""
    resume: str = ""
    """Continue a run: auto (the last checkpoint in output_dir, or a new run if there is none), a run folder, which
    means its last checkpoint, or a checkpoint."""
    overfit: NonNegativeInt = 0
    """Train and evaluate on the first N images only: the first thing to try on new data. 0: off."""
    eval_every: PositiveInt = 1
    """Epochs between evaluations."""
    checkpoint_every: NonNegativeInt = 0
    """Keep a further checkpoint every N epochs; 0: only best and last."""
    save_minutes: NonNegativeFloat = 10.0
    """Minutes between saves of last.ckpt inside an epoch; it is also saved at the end of each epoch."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    devices: PositiveInt = 1
    """Processes (GPUs) per node."""
    num_nodes: PositiveInt = 1
    """Number of machines."""
    quiet: bool = False
    """Print no progress: neither the settings of the run nor its epochs. The final metrics, how to continue after a
    stop, warnings and errors are still printed."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the wandb extra)."""
    mlflow: bool = False
    """Also log to MLflow (needs the mlflow extra)."""


CONFIG_GROUPS = (DataConfig, AugmentConfig, OptimConfig, RunConfig, ModelFlags, LossFlags)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LossFlags, ModelFlags, RunConfig, OptimConfig, AugmentConfig, DataConfig):
    """All settings of a training run. Unset fields take the defaults of the recipe.

        config = TrainConfig.from_recipe("fast", data="images", epochs=20)
        config = TrainConfig.from_yaml("runs/images/config.yaml")

    Raises:
        ConfigError: a value is out of its range, or does not fit the others.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks and self.task == "detect":
            object.__setattr__(self, "task", "instance")
        object.__setattr__(self, "masks", self.task != "detect")
        if self.frozen_weights and (self.weights or not self.masks):
            wrong = "--weights as well; leave one out" if self.weights else "no --task instance or panoptic; add it"
            raise ConfigError(f"--frozen_weights trains a mask head on the detector in a file, found {wrong}")
        if self.model:
            check_named("model", self.model, MODELS)
        if not (self.weights or self.frozen_weights):  # which bring settings of the model
            self.model_config(num_classes=1)

    def model_config(self, num_classes: int, **others: Any) -> ModelConfig:
        """The settings that the model is built from.

        Args:
            num_classes: C.
            others: settings that weights or a checkpoint state, in place of those here.

        Raises:
            ConfigError: settings of the model do not fit each other.
        """
        flags = {field.name: getattr(self, field.name) for field in fields(ModelFlags)}
        derived = {"sigmoid": self.class_loss != "softmax", "aux_loss": not self.no_aux_loss}
        return ModelConfig(num_classes=num_classes, **{**flags, **derived, **others})

    def loss_config(self, num_classes: int) -> LossConfig:
        """The settings that the criterion is built from, for C = `num_classes`."""
        flags = {field.name: getattr(self, field.name) for field in fields(LossFlags)}
        return LossConfig(num_classes=num_classes, masks=self.masks, dense_head=self.dense_head, **flags)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, which YAML and checkpoints hold."""
        return asdict(self)

    def to_yaml(self) -> str:
        """As the text of `config.yaml`; `from_yaml` reads it back equal."""
        return dump_settings(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; absent keys take their defaults.

        Raises:
            ConfigError: a key is not a setting; the sentence suggests the nearest name.
        """
        return config_from_options(cls, **values)

    @classmethod
    def from_recipe(cls, recipe: str, **changes: Any) -> Self:
        """The settings of a recipe with changes: `TrainConfig.from_recipe("fast", data="images", epochs=20)`.

        `model="detrkit_n"` names a model; see `default_settings`.

        Raises:
            ConfigError: there is no such recipe, model or setting.
        """
        return cls.from_dict({**default_settings({**changes, "recipe": recipe}), **changes})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a `config.yaml`."""
        return cls.from_dict(read_settings(path, [f.name for f in fields(cls)]))
