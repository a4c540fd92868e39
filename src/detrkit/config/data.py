"""Settings of the data set, of loading and of augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict, cast

from annotated_types import Ge, Lt

from detrkit.config.fields import (
    Fraction,
    NamesOf,
    NonNegativeFloat,
    NonNegativeInt,
    ParsedBy,
    PositiveInt,
    Settings,
    StoredAs,
)
from detrkit.errors import ConfigError
from detrkit.ops.tiles import Tiling


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
    """Settings that choose the data set."""

    data: str = ""
    """Folder, file or address of the data set; its format is detected (see --data_format)."""
    data_format: Annotated[str, NamesOf("detrkit.data.formats.registry:FORMATS", ("auto",))] = "auto"
    """Format of the data set: coco, voc, yolo, labelme, via, cvat, label_studio, masks, coco_panoptic or packed; auto:
    detected."""
    train_json: str = ""
    """COCO annotations of the training images, if they are not detected."""
    val_json: str = ""
    """COCO annotations of the validation images, if they are not detected."""
    train_images: str = ""
    """Folder of the training images, if it is not detected."""
    val_images: str = ""
    """Folder of the validation images, if it is not detected."""
    panoptic_json: str = ""
    """COCO panoptic annotations, if they are not detected: a file, or the folder with the files of both splits."""
    panoptic_dir: str = ""
    """Folder of the panoptic PNGs, if it is not detected, or the folder above the folders of both splits."""
    strict: bool = False
    """Refuse a data set if anything in it is not used: images, annotation files, objects."""
    box_format: Annotated[str, NamesOf("detrkit.data.validation.box_formats:BOX_FORMATS", ("auto",))] = "auto"
    """Meaning of the four numbers of a box: xywh (a corner and the size), xyxy (two corners), cxcywh (the center and
    the size), or yxhw and yxyx (with y first); in pixels, or with _relative (0..1) or _percent (0..100), as in
    cxcywh_relative. auto: that of the data format (COCO xywh, VOC xyxy, YOLO cxcywh_relative); boxes that do not look
    so are refused."""

    def dataset_kwargs(self, data_format: str = "") -> DatasetKwargs:
        """Keyword arguments for `open_dataset`; `data_format` overrides the chosen one."""
        settings = {name: getattr(self, name) for name in DatasetKwargs.__annotations__}
        return cast(DatasetKwargs, settings | ({"data_format": data_format} if data_format else {}))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings):
    """Augmentation."""

    augmentation: Literal["detr", "flip", "none"] = "detr"
    """detr: flip, random size and random crop, as in the reference DETR; flip: mirror only; none: no random change,
    mosaic and the other settings of augmentation included."""
    mosaic: Fraction = 0.0
    """Probability, 0..1, that a training image is a mosaic of four, as large as one: more and smaller objects per step,
    at the cost of decoding four images."""
    mixup: Fraction = 0.0
    """Probability, 0..1, that a training image is blended with another one; the objects of both count."""
    copy_paste: Fraction = 0.0
    """Probability, 0..1, that objects of another image are pasted along their masks; for data with segmentations."""
    zoom_out: Fraction = 0.0
    """Probability, 0..1, that an image is placed on a gray canvas up to twice as long and wide: smaller objects."""
    iou_crop: Fraction = 0.0
    """Probability, 0..1, of a random crop that overlaps some object by a random IoU (SSD): larger objects."""
    color_jitter: Fraction = 0.0
    """Probability, 0..1, of a change of brightness, contrast, saturation and hue."""
    vertical_flip: Fraction = 0.0
    """Probability, 0..1, that an image is turned upside down; for images without a fixed upright direction, as from
    above or a microscope."""
    multi_scale: Fraction = 0.0
    """Fraction of image_size, 0..1, by which sizes vary in training, up and down; batches are padded to the largest."""
    no_aug_epochs: NonNegativeInt = 0
    """Number of last epochs without mosaic, mixup and the other random changes; only --augmentation and vertical_flip
    are kept, so that images are as at evaluation."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataChoice):
    """Data."""

    task: Literal["detect", "instance", "panoptic"] = "detect"
    """detect: boxes; instance: boxes and masks; panoptic: boxes and masks of things and stuff, so that every pixel of
    an image belongs to a segment."""
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Fraction of the images held out for validation if the data set has no validation split, 0..1."""
    value_range: Annotated[str, ParsedBy("detrkit.ops.value_range:ValueRange.parse", "auto")] = "auto"
    """Pixel values that become black and white in images of more than 8 bits: LOW,HIGH, such as 0,4095 (with an equals
    sign where LOW is negative: --value_range=-40,120); auto: measured on the training images."""
    image_size: PositiveInt | Literal["auto"] = 800
    """Shorter side of images in pixels: at evaluation, and at most in training. The longer side is at most 1333/800 of
    the shorter, and the sizes of the augmentation are scaled alike. auto: chosen from the training images."""
    tiles: PositiveInt | Literal["auto", "off"] = "off"
    """Side of the tiles that large images are cut into, in pixels of the image, in training and evaluation; each tile
    is then resized as an image. off: whole images; auto: tiles if objects would be too small after the resize."""
    tile_overlap: NonNegativeInt | Literal["auto"] = "auto"
    """Least number of pixels that neighboring tiles share, at most half a tile. auto: as much as nearly all objects are
    long, so that some tile shows them whole, but at least an eighth and at most half of a tile."""
    repeat_threshold: Fraction | Literal["auto"] = 0.0
    """Fraction of the images, 0..1, below which a class is rare (repeat-factor sampling, Gupta et al. 2019): the images
    of a class that a fraction f shows occur sqrt(repeat_threshold / f) times per epoch. 0: every image occurs once;
    auto: 0 unless less than a tenth of the images show some class."""
    square_resize: Annotated[bool, StoredAs.SETTING] = False
    """Resize both sides to image_size, whatever the shape of the image: batches need no padding, and images of all
    shapes share a batch."""
    group_by_aspect: bool = False
    """Batch images of similar aspect ratio together, which saves padding."""
    num_workers: NonNegativeInt = 2
    """Processes that load images; 0 loads in the main process."""
    cache_gb: NonNegativeFloat | Literal["auto"] = "auto"
    """Memory per node for decoded images, which are then decoded once instead of in every epoch, in GB (10^9 bytes). 0:
    none; auto: for all images or none, in a quarter of the free memory and at most 16 GB."""

    def __post_init__(self) -> None:
        if self.tiles is False:  # YAML reads a bare `off` so
            object.__setattr__(self, "tiles", "off")
        super().__post_init__()
        if self.tiles != "off" and self.task == "panoptic":
            raise ConfigError(
                f"--tiles {self.tiles} is for --task detect and instance, found --task panoptic, whose segments would "
                "be cut at the borders; use --tiles off"
            )
        if self.tile_overlap != "auto" and self.tiles == "off":
            raise ConfigError(f"--tile_overlap {self.tile_overlap} is for images cut into tiles; add --tiles")
        _ = self.tiling  # refuses an overlap that does not fit

    @property
    def tiling(self) -> Tiling | None:
        """The tiles of the run; None: none, or size or overlap is still `auto`."""
        if isinstance(self.tiles, int) and isinstance(self.tile_overlap, int):
            return Tiling(self.tiles, self.tile_overlap)
        return None
