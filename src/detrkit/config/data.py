"""Settings of the data set, of loading and of augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict, cast

from detrkit.config.fields import Fraction, NamesOf, NonNegativeFloat, NonNegativeInt, PositiveInt, Settings, StoredAs


class DatasetKwargs(TypedDict):
    """Keyword arguments of `open_dataset`."""

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
    """Folder or file of the data set; its format is detected (see --data_format)."""
    data_format: Annotated[str, NamesOf("detrkit.data.formats.registry:FORMATS", ("auto",))] = "auto"
    """Format of the data set: coco, voc, yolo, labelme, via, masks or coco_panoptic; auto: detected."""
    train_json: str = ""
    """COCO annotations of the training images, where they are not detected."""
    val_json: str = ""
    """COCO annotations of the validation images, where they are not detected."""
    train_images: str = ""
    """Folder of the training images, where it is not detected."""
    val_images: str = ""
    """Folder of the validation images, where it is not detected."""
    panoptic_json: str = ""
    """COCO panoptic annotations, where they are not detected: a file, or the folder that holds those of both splits."""
    panoptic_dir: str = ""
    """Folder of the panoptic PNGs, where it is not detected, or the folder above those of both splits."""
    strict: bool = False
    """Refuse a data set if anything in it is not used: images, annotation files, objects."""
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
    """Meaning of the four numbers of a box: a corner and the size (x, y, w, h), two corners (x, y, x, y) or the center
    and the size (cx, cy, w, h), with y first likewise; in pixels, relative to the image (0..1) or in percent (0..100).
    auto: that of the data format (COCO xywh, VOC xyxy, YOLO cxcywh_relative); boxes that do not look so are refused."""

    def dataset_kwargs(self, data_format: str = "") -> DatasetKwargs:
        """Keyword arguments for `open_dataset`; `data_format` overrides the chosen one."""
        settings = {name: getattr(self, name) for name in DatasetKwargs.__annotations__}
        return cast(DatasetKwargs, settings | ({"data_format": data_format} if data_format else {}))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings):
    """Augmentation."""

    augmentation: Literal["detr", "flip", "none"] = "detr"
    """detr: flip, random size and random crop, as in the reference DETR; flip: only mirror; none: nothing, neither
    mosaic nor any other random change."""
    mosaic: Fraction = 0.0
    """Chance, 0..1, that a training image is a mosaic of four, as large as one: more and smaller objects per step, for
    the decoding of four images."""
    mixup: Fraction = 0.0
    """Chance, 0..1, that a training image is blended with another one; the objects of both count."""
    copy_paste: Fraction = 0.0
    """Chance, 0..1, that objects of another image are pasted along their masks; for data with segmentations."""
    zoom_out: Fraction = 0.0
    """Chance, 0..1, that an image is put on a gray canvas up to twice as long and wide: smaller objects."""
    iou_crop: Fraction = 0.0
    """Chance, 0..1, of a random crop that overlaps some object by a random IoU (SSD): larger objects."""
    color_jitter: Fraction = 0.0
    """Chance, 0..1, of a change of brightness, contrast, saturation and hue."""
    vertical_flip: Fraction = 0.0
    """Chance, 0..1, that an image is turned upside down; for images without a fixed upright direction, as from above or
    a microscope."""
    multi_scale: Fraction = 0.0
    """Share of image_size, 0..1, by which sizes vary in training, up and down; batches are padded to their largest."""
    no_aug_epochs: NonNegativeInt = 0
    """Number of last epochs without mosaic, mixup and the other random changes; only vertical_flip stays, and
    --augmentation. The images are then as at evaluation."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataChoice):
    """Data."""

    task: Literal["detect", "instance", "panoptic"] = "detect"
    """detect: boxes; instance: boxes and masks; panoptic: boxes and masks of things and stuff alike, so that every
    pixel of an image belongs to one of them."""
    val_fraction: Fraction = 0.2
    """Share of the images held out for validation where the data set has no such split, 0..1."""
    value_range: str = "auto"
    """Values that become black and white in images of more than 8 bits: LOW,HIGH, such as 0,4095 (with an equals
    sign where LOW is negative: --value_range=-40,120); auto: measured on the training images."""
    image_size: PositiveInt | Literal["auto"] = 800
    """Shorter side in pixels at evaluation and at most in training; the longer side is at most 1333/800 of it, and
    every size of the augmentation recipe scales with it. auto: chosen from the training images."""
    square_resize: Annotated[bool, StoredAs.SETTING] = False
    """Resize both sides to image_size, whatever the image's shape: batches need no padding, and images of different
    shapes share one."""
    group_by_aspect: bool = False
    """Batch images of similar aspect ratio together, which saves padding."""
    num_workers: NonNegativeInt = 2
    """Processes that load images; 0 loads in the main process."""
    cache_gb: NonNegativeFloat | Literal["auto"] = "auto"
    """Memory per node for decoded images in GB (10^9 bytes), so that they are not decoded again in every epoch; images
    that do not fit are decoded each time. 0: none; auto: room for all images or none, in a quarter of the free memory
    and at most 16 GB."""
