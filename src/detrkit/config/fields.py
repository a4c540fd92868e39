"""The settings of a training run, in groups: `config.TrainConfig` is all of them together.

The text under a field is its help on the command line. Where the original DETR has a setting, its name and default are
kept. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypedDict


def at_home(text: str) -> str:
    """A path that begins with `~` in the user's own folder; any other text as it is."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # there is no such user
        return text


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings have in common."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and value.startswith("~"):
                object.__setattr__(self, field.name, at_home(value))
            elif isinstance(value, list):
                object.__setattr__(self, field.name, [at_home(each) for each in value])


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Model."""

    model: str = ""
    """Named model whose settings are the defaults: detrkit_n, detrkit_s, detrkit_m, detrkit_l, detr_resnet50,
    detr_resnet50_dc5, detr_resnet101, detr_resnet101_dc5, deformable_r50, h_deformable_r50, dab_r50, dn_r50, dino_r50,
    rtdetr_r18 or rtdetr_r50; empty: the original's, or those of --weights. Without a GPU, the recipe fast takes
    detrkit_n. (In Python: TrainConfig.from_recipe.)"""
    backbone: str = "resnet50"
    """Feature extractor: resnet18, resnet34, resnet50, resnet101, resnet152, resnet18vd, resnet34vd, resnet50vd,
    resnet101vd, nano (for CPUs), or timm:NAME for any timm model with feature outputs (needs the timm extra)."""
    backbone_weights: str = "imagenet"
    """Weights the backbone starts from: imagenet (published ones, downloaded once), none, or the path of a file."""
    backbone_norm: Literal["auto", "frozen", "batch", "group"] = "auto"
    """Normalisation of the backbone. auto: frozen where weights were loaded, else batch, and then the whole backbone
    learns at --lr, since frozen statistics that were never measured cannot learn."""
    dilation: bool = False
    """Dilate the last stage instead of striding it (DC5): features at 1/16 instead of 1/32 of the image."""
    position_embedding: Literal["sine", "learned"] = "sine"
    """Position encoding added to the features."""
    enc_layers: int = 6
    """Encoder layers."""
    dec_layers: int = 6
    """Decoder layers."""
    dim_feedforward: int = 2048
    """Width of the feed-forward blocks."""
    hidden_dim: int = 256
    """Width of the transformer."""
    dropout: float = 0.1
    """Dropout in the transformer, 0..1."""
    nheads: int = 8
    """Attention heads; must divide hidden_dim."""
    num_queries: int | Literal["auto"] = 100
    """Object queries: the most objects that can be found in one image; auto: suggested by the training images."""
    pre_norm: bool = False
    """Normalise before each block instead of after it."""
    activation: Literal["relu", "gelu", "glu"] = "relu"
    """Activation of the feed-forward blocks."""
    masks: bool = False
    """Add the mask head; --task instance and --task panoptic do, and --masks alone means --task instance."""
    feature_levels: str = ""
    """Strides of the feature levels, for example 8,16,32 or 8,16,32,64; empty: the last map alone, as the original."""
    encoder: Literal["full", "deformable", "hybrid"] = "full"
    """dense: attention over all places; deformable: over a few sampled points of each level; hybrid: attention on the
    coarsest level and convolutions across levels (RT-DETR)."""
    encoder_expansion: float = 1.0
    """Width of the hybrid encoder's fusion blocks, relative to hidden_dim."""
    decoder: Literal["full", "conditional", "deformable"] = "full"
    """How queries look at the image. dense: at all places; conditional: at all places, with the position of the
    query's anchor beside its content; deformable: at a few sampled points of each level."""
    num_points: int = 4
    """Points that each head of deformable attention samples on each level."""
    query_init: Literal["learned", "anchors", "two_stage", "topk_features", "mixed_selection"] = "learned"
    """Where queries come from. learned: vectors; anchors: learned boxes; the others: the boxes of the best places of
    the encoder, with contents made of those boxes (two_stage), of the features there (features), or learned (mixed)."""
    two_stage_head: Literal["encoder", "dense"] = "encoder"
    """What picks the best places: a head of its own on the encoder, or the --dense_head."""
    query_nms_iou: float = 0.0
    """Of two places whose boxes overlap by more than this IoU only the better becomes a query; 0: off."""
    box_refine: bool = False
    """Each decoder layer corrects the boxes of the layer before."""
    look_forward_twice: bool = False
    """With box_refine: let each layer's box loss also teach the layer before."""
    score_refine: bool = False
    """Each decoder layer corrects the class scores of the layer before, the first those of the seeds."""
    dense_head: Literal["none", "fcos", "atss", "tood"] = "none"
    """A head on the encoder's levels that supervises many places per object, chosen as FCOS, ATSS or TOOD do."""
    dense_convs: int = 2
    """Convolutions of the dense head before its predictions."""
    query_groups: int = 1
    """Groups of queries in training, each matched with the objects for itself; 1: no further group."""
    num_queries_one2many: int = 0
    """Further queries in training, of which each object is matched with several (k_one2many)."""
    k_one2many: int = 6
    """How many of the hybrid queries each object is matched with."""
    denoising: Literal["none", "plain", "contrastive"] = "none"
    """In training, further queries that start from the objects themselves, with noise; contrastive: also from boxes
    too far off, which shall say no."""
    dn_queries: int = 100
    """The most denoising queries per image."""
    dn_label_noise: float = 0.5
    """Chance that a denoising query starts from a random class, halved as in DN-DETR."""
    dn_box_noise: float = 0.4
    """How far a denoising query's box is moved, relative to its size."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """Matching and losses."""

    no_aux_loss: bool = False
    """Leave out the losses at the earlier decoder layers."""
    set_cost_class: float = 1.0
    """Weight of the class probability in the matching cost."""
    set_cost_bbox: float = 5.0
    """Weight of the L1 box distance in the matching cost."""
    set_cost_giou: float = 2.0
    """Weight of the generalised IoU in the matching cost."""
    mask_loss_coef: float = 1.0
    """Weight of the focal mask loss."""
    dice_loss_coef: float = 1.0
    """Weight of the dice mask loss."""
    ignore_mask_padding: bool = False
    """Leave padding out of the mask losses, where the original counts it as background."""
    bbox_loss_coef: float = 5.0
    """Weight of the L1 box loss."""
    giou_loss_coef: float = 2.0
    """Weight of the generalised IoU loss."""
    eos_coef: float = 0.1
    """Relative weight of the no-object class in the classification loss."""
    class_loss: Literal["softmax", "focal", "varifocal", "matchability"] = "softmax"
    """softmax: cross-entropy with a no-object class; focal: an independent sigmoid per class; varifocal and
    matchability: the same,
    with the IoU of the box as what the score should be."""
    cls_loss_coef: float = 1.0
    """Weight of the classification loss."""
    dense_loss_coef: float = 1.0
    """Weight of the losses of the dense head."""
    dn_loss_coef: float = 1.0
    """Weight of the losses of the denoising queries."""


class DatasetKwargs(TypedDict):
    """What `open_dataset` has to know of a data set."""

    data: str
    data_format: str
    train_json: str
    val_json: str
    train_images: str
    val_images: str
    panoptic_json: str
    panoptic_dir: str
    strict: bool
    box_format: str


@dataclass(frozen=True, kw_only=True)
class DataChoice(Settings):
    """Which data set."""

    data: str = ""
    """Folder or file of the data set; its format is found (see --data_format)."""
    data_format: Literal["auto", "coco", "voc", "yolo", "labelme", "via", "masks", "coco_panoptic"] = "auto"
    """Format of the data set."""
    train_json: str = ""
    """COCO annotations of the training images, where they are not found by themselves."""
    val_json: str = ""
    """COCO annotations of the validation images, where they are not found by themselves."""
    train_images: str = ""
    """Folder of the training images, where it is not found by itself."""
    val_images: str = ""
    """Folder of the validation images, where it is not found by itself."""
    panoptic_json: str = ""
    """COCO panoptic annotations, where they are not found by themselves: a file, or the folder of those of both
    sides."""
    panoptic_dir: str = ""
    """Folder of their PNGs, where it is not found by itself, or the folder above those of both splits."""
    strict: bool = False
    """Refuse a data set of which anything is left out: images, annotation files, objects."""
    box_format: Literal[
        "auto",
        "xywh",
        "xyxy",
        "cxcywh",
        "yxhw",
        "yxyx",
        "xywh_relative",
        "xyxy_relative",
        "cxcywh_relative",
        "yxhw_relative",
        "yxyx_relative",
        "xywh_percent",
        "xyxy_percent",
        "cxcywh_percent",
        "yxhw_percent",
        "yxyx_percent",
    ] = "auto"
    """How the four numbers of a box are written: from a corner (x, y, w, h), as two corners (x, y, x, y) or from the
    center (cx, cy, w, h), with y first likewise; in pixels, or relative (0..1) or in percent (0..100) of the image.
    auto: as the data format has it (COCO xywh, VOC xyxy, YOLO cxcywh_relative); boxes that do not look so are
    refused."""

    def dataset_kwargs(self, data_format: str = "") -> DatasetKwargs:
        """Keywords for `open_dataset`; `data_format` instead of the one that was chosen."""
        return DatasetKwargs(
            data=self.data,
            data_format=data_format or self.data_format,
            train_json=self.train_json,
            val_json=self.val_json,
            train_images=self.train_images,
            val_images=self.val_images,
            panoptic_json=self.panoptic_json,
            panoptic_dir=self.panoptic_dir,
            strict=self.strict,
            box_format=self.box_format,
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataChoice):
    """Data."""

    task: Literal["detect", "instance", "panoptic"] = "detect"
    """What to learn: boxes; boxes and masks; or boxes and masks of things and stuff alike, so that every pixel of a
    image belongs to one of them."""
    val_fraction: float = 0.2
    """Share of the images held out for validation where the data set has no such split, 0..1."""
    value_range: str = "auto"
    """Values that become black and white in images of more than 8 bits: LOW,HIGH, such as 0,4095 (with an equals
    sign where LOW is negative: --value_range=-40,120); auto: found over the training images."""
    image_size: int | Literal["auto"] = 800
    """Shorter side in pixels at evaluation and at most in training; the longer side is at most 1333/800 of it, and
    every size of the augmentation recipe scales with it. auto: suggested by the training images."""
    square_resize: bool = False
    """Resize both sides to image_size, whatever the image's shape: batches need no padding, and images of different
    shapes share one."""
    augmentation: Literal["detr", "flip", "none"] = "detr"
    """detr: the original's recipe (flip, random size, random crop); flip: only mirror; none: nothing, none of the
    chances below either."""
    mosaic: float = 0.0
    """Chance, 0..1, that a training image is a mosaic of four, as large as one: more objects per step, and smaller
    ones, for four decodes."""
    mixup: float = 0.0
    """Chance, 0..1, that it is blended with another one, the objects of both counting."""
    copy_paste: float = 0.0
    """Chance, 0..1, that objects of another one are pasted on it along their masks; for data with segmentations."""
    zoom_out: float = 0.0
    """Chance, 0..1, that it is put on a grey canvas up to twice as long and wide: smaller objects."""
    iou_crop: float = 0.0
    """Chance, 0..1, of a random crop that overlaps some object by a random IoU (SSD): larger objects."""
    color_jitter: float = 0.0
    """Chance, 0..1, of another brightness, contrast, saturation and hue."""
    vertical_flip: float = 0.0
    """Chance, 0..1, that it is turned upside down; for images without an up, as from above or a microscope."""
    multi_scale: float = 0.0
    """Share of image_size, 0..1, by which sizes vary in training, up and down; a batch is padded to its largest."""
    no_aug_epochs: int = 0
    """The last of the epochs, in which of mosaic to multi_scale only vertical_flip goes on: images as they will be
    at evaluation. --augmentation stays as it is."""
    group_by_aspect: bool = False
    """Batch images of similar aspect ratio together, which saves padding."""
    num_workers: int = 2
    """Processes that load images; 0 loads in the main process."""
    cache_gb: float | Literal["auto"] = "auto"
    """Memory for decoded images in GB (10^9 bytes) a node, so that they are not decoded again in every epoch; what
    does not fit is decoded as ever. 0: none; auto: for all or nothing, in a quarter of the memory that is free and
    16 GB at most."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimisation."""

    lr: float = 1e-4
    """Learning rate of the transformer and heads per step."""
    lr_backbone: float = 1e-5
    """Learning rate of the backbone per step; 0 freezes it, running statistics and all."""
    lr_linear_proj_mult: float = 1.0
    """Multiple of --lr at which sampling offsets and reference points learn (Deformable DETR: 0.1); 0 freezes them."""
    batch_size: int | Literal["auto", "max"] = 2
    """Images per step and device; auto: suggested by the number of training images; max: the largest power of two that
    fits into memory."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    norm_decay: bool = True
    """Whether norms and biases decay too (RT-DETR: false)."""
    epochs: int = 300
    """Passes over the training images."""
    max_minutes: float = 0.0
    """Stop after so many minutes, whichever comes first; 0: no limit."""
    lr_schedule: Literal["step", "cosine", "flat_cosine"] = "step"
    """step: a tenth after lr_drop epochs; cosine: down to 0 at the end; flat_cosine: full for the first half of the
    epochs, then down to a twentieth."""
    lr_drop: int = 200
    """Epoch after which the step schedule drops the learning rates to a tenth."""
    warmup_steps: int = 0
    """Steps over which the learning rates rise linearly from 0; they are up after a tenth of the run at the latest."""
    clip_max_norm: float = 0.1
    """Largest norm of the gradient; 0: no clipping."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients are added up before each step."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights per step; that average is evaluated and kept. 0: none."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Arithmetic of the forward pass."""
    compile: bool = False
    """Compile the model (torch.compile): minutes before the first steps, then faster ones on a GPU. Without
    --square_resize, batches are padded to multiples of 128 pixels, so that few shapes have to be compiled."""
    checkpoint_activations: bool = False
    """Keep less of the encoder's and decoder's layers for the backward pass, and compute it again there: less memory
    for more time, and the same gradients."""
    monitor: str = ""
    """The number that best.ckpt and early stopping go by, as metrics.csv names it without val/: AP, AP50, AP75, AR100,
    ...; mask_AP, mask_AP50, ... and PQ, SQ or RQ where they are measured; class_AP/NAME of one class; or loss, of which
    less is better. Empty: AP, or mask_AP with --task instance, PQ with --task panoptic."""
    patience: int = 0
    """Stop after so many evaluations without a better --monitor; 0: never."""
    seed: int = 42
    """Seed of weights, order, augmentation and dropout."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """The run."""

    recipe: Literal["classic", "fast"] = "classic"
    """Whose settings are the defaults: classic: the original's; fast: what converges on small data. (In Python:
    TrainConfig.from_recipe.)"""
    output_dir: str = ""
    """Folder the run writes to; empty: runs/NAME-OF-DATA, numbered if that exists."""
    weights: str = ""
    """Start from these weights, classes matched by name: a published name such as detr_resnet50, a checkpoint of
    detrkit, a .pth of the original, or a Hugging Face folder."""
    frozen_weights: str = ""
    """Train only the mask head, on the detector in these weights, which stays as it is; the original's second stage."""
    resume: str = ""
    """Go on with a run: auto (the last checkpoint in output_dir, or start anew if there is none), a run folder, which
    means its last checkpoint, or a checkpoint."""
    overfit: int = 0
    """Train and evaluate on the first N images only: the first thing to try on new data. 0: off."""
    eval_every: int = 1
    """Epochs between evaluations."""
    checkpoint_every: int = 0
    """Keep a further checkpoint every N epochs; 0: only best and last."""
    save_minutes: float = 10.0
    """Minutes between saves of last.ckpt inside an epoch; it is also saved at the end of each epoch."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    devices: int = 1
    """Processes (GPUs) a node."""
    num_nodes: int = 1
    """Nodes."""
    quiet: bool = False
    """Print no progress: neither what the run is made of nor its epochs. What was reached in the end, where to go on
    after a stop, warnings and errors are still printed."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the wandb extra)."""
    mlflow: bool = False
    """Also log to MLflow (needs the mlflow extra)."""


LOWEST = {
    1: (
        "batch_size", "epochs", "num_queries", "accumulate_grad_batches", "image_size", "devices", "num_nodes",
        "eval_every", "lr_drop", "hidden_dim", "nheads", "dim_feedforward", "dec_layers", "num_points", "query_groups",
        "k_one2many",
    ),
    0: (
        "enc_layers", "num_workers", "cache_gb", "lr_backbone", "lr_linear_proj_mult", "weight_decay", "max_minutes",
        "warmup_steps", "clip_max_norm", "patience", "seed", "overfit", "checkpoint_every", "save_minutes",
        "val_fraction", "dropout", "set_cost_class", "set_cost_bbox", "set_cost_giou", "bbox_loss_coef",
        "giou_loss_coef", "mask_loss_coef", "dice_loss_coef", "eos_coef", "cls_loss_coef", "dense_loss_coef",
        "dn_loss_coef", "query_nms_iou", "dense_convs", "num_queries_one2many", "dn_queries", "dn_label_noise",
        "dn_box_noise", "mosaic", "mixup", "copy_paste", "zoom_out", "iou_crop", "color_jitter", "vertical_flip",
        "multi_scale", "no_aug_epochs",
    ),
}  # fmt: skip
"""The lowest value of each setting that is a number."""

CHANCES = ("mosaic", "mixup", "copy_paste", "zoom_out", "iou_crop", "color_jitter", "vertical_flip", "multi_scale")
"""Augmentations, each of at most 1."""
