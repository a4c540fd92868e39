"""The settings of each command but `train` (see `config.train`), as one frozen dataclass per command.

The text under a field is its help. Like the rest of `config`, this file imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from detrkit.config.data import DataChoice
from detrkit.config.fields import Fraction, NamesOf, NonNegativeFloat, NonNegativeInt, ParsedBy, PositiveInt, Settings
from detrkit.config.prediction import BatchChoice, TrackChoice
from detrkit.errors import ConfigError
from detrkit.ops.tiles import choose_tiling


@dataclass(frozen=True, kw_only=True)
class QuietChoice(Settings):
    """The setting that hides progress."""

    quiet: bool = False
    """Print no progress; results, warnings and errors are still printed."""


@dataclass(frozen=True, kw_only=True)
class WeightsChoice(Settings):
    """The setting that chooses the weights of a detector."""

    weights: str
    """The detector: a checkpoint, a run folder, a name of `detrkit models`, a Hugging Face folder or id, or a .pth of
    the reference DETR."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureChoice(WeightsChoice):
    """The settings that choose weights, and their architecture if the file does not state it."""

    dilation: bool | None = None
    """Dilate the backbone's last stage (DC5), for a file that does not state it; default: as stated, else false."""
    nheads: PositiveInt | None = None
    """Attention heads, for a file that does not state them; default: as stated, else 8."""


@dataclass(frozen=True, kw_only=True)
class RuntimeChoice(Settings):
    """The settings that say how a detector runs."""

    image_size: NonNegativeInt = 0
    """Shorter side of the images in pixels; 0: as in training."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to run on; auto: a GPU if there is one."""
    value_range: Annotated[str, ParsedBy("detrkit.ops.value_range:ValueRange.parse", "auto")] = "auto"
    """Pixel values that become black and white in images of more than 8 bits: LOW,HIGH, such as 0,4095 (with an equals
    sign where LOW is negative: --value_range=-40,120); auto: those of the training data."""


@dataclass(frozen=True, kw_only=True)
class DetectorChoice(RuntimeChoice, ArchitectureChoice):
    """The settings that choose a detector, its image size and its device."""


@dataclass(frozen=True, kw_only=True)
class OverlapChoice(Settings):
    """The setting that leaves one detection per object."""

    max_overlap: Fraction | None = None
    """Leave one detection per object: of every two whose boxes have a larger IoU than this, 0..1, only the one with the
    higher score stays, whatever their classes; default: all stay."""


@dataclass(frozen=True, kw_only=True)
class RunnableChoice(OverlapChoice, DetectorChoice):
    """The settings that choose a detector to run, which may be an exported file."""

    weights: str
    """The detector: a checkpoint, a run folder, a name of `detrkit models`, a Hugging Face folder or id, a .pth of the
    reference DETR, or an exported file."""


@dataclass(frozen=True, kw_only=True)
class TilesChoice(Settings):
    """The settings that cut images into tiles."""

    tiles: PositiveInt | Literal["auto", "off"] = "auto"
    """Side of the tiles that large images are cut into, in pixels of the image; detections of neighboring tiles are
    merged. off: whole images; auto: as in training."""
    tile_overlap: NonNegativeInt | Literal["auto"] = "auto"
    """Least number of pixels that neighboring tiles share, at most half a tile; auto: as in training, or a quarter of
    --tiles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tiles, int):
            choose_tiling(self.tiles, self.tile_overlap, None)
        elif self.tiles == "off" and self.tile_overlap != "auto":
            raise ConfigError(f"--tile_overlap {self.tile_overlap} is for images cut into tiles, found --tiles off")


@dataclass(frozen=True, kw_only=True)
class CheckConfig(QuietChoice, DataChoice):
    """Check a data set before training: report sizes, classes, and every defect with its file and record."""

    data: str = field()  # required, unlike that of the base class
    """Folder or file of the data set."""
    num_queries: PositiveInt = 100
    """Object queries of the planned model; images with more objects are reported."""
    json: str = ""
    """Also write the report as JSON to this file."""
    html: str = ""
    """Also write the report, with images and their objects, as one HTML page to this file, such as report.html."""


@dataclass(frozen=True, kw_only=True)
class ConvertDataConfig(QuietChoice, DataChoice):
    """Convert a data set to another format: images, boxes, masks, classes and splits. Nothing is overwritten."""

    data: str = field()  # required, unlike that of the base class
    """Folder or file of the data set."""
    output: str
    """Folder to write; it must be new or empty."""
    to: Literal["coco", "voc", "yolo"]
    """Format to write: coco (boxes and masks), voc (boxes) or yolo (boxes, or one polygon per object)."""
    polygon_tolerance: NonNegativeFloat = 0.0
    """Largest distance in pixels of polygons from the masks that they are made of; larger: fewer corners; 0: exact, and
    in COCO RLE. Masks that are polygons already stay as they are."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(QuietChoice, TilesChoice, RunnableChoice, DataChoice):
    """Evaluate a detector, or a file of detections, on a data set: the twelve COCO metrics of boxes and of masks,
    panoptic quality, and an analysis of the errors."""

    weights: str = ""
    detections: str = ""
    """Evaluate this file instead of a detector: COCO results, or COCO panoptic predictions."""
    split: Literal["train", "val"] = "val"
    """Split of the data set to evaluate on."""
    output_dir: str = ""
    """Folder of the report; empty: beside the weights or detections, in report/."""
    batch_size: PositiveInt = 1
    """Images per forward pass; only images of one shape share a pass."""
    num_workers: NonNegativeInt = 2
    """Processes that load images; 0 loads in the main process."""
    max_errors: NonNegativeInt = 24
    """Number of images with the worst errors to draw."""
    max_dets: PositiveInt = 100
    """Maximum number of detections per class and image. The official COCO metrics use 100; a larger number, for images
    with more objects, adds AP@K and ARK."""
    bootstrap: NonNegativeInt = 1000
    """Number of resamples of the images for the 95 % intervals of the metrics; 0: no intervals."""
    panoptic_threshold: Fraction | None = None
    """Lowest score of a query in a panoptic map, 0..1; default: 0.85, or 0.4 for a model with an independent sigmoid
    per class."""
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "plain"
    """Arithmetic; plain: as in validation during training, so that the metrics are the same; others: as in predict."""
    compile: Literal["auto", "off", "on"] = "off"
    """Compile the model, as in predict."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(QuietChoice, TilesChoice, DataChoice):
    """Compare detectors, or files of detections, on the same images: differences of their metrics with paired bootstrap
    intervals, their speed, and the images on which they differ most."""

    sources: list[str]
    """Two or more detectors (run folders, checkpoints, names of `detrkit models`, exported files) or files of
    predictions (COCO results or COCO panoptic predictions, .json). All are compared with the first."""
    data: str = ""
    """Folder or file of the data set; empty: that of the runs."""
    split: Literal["train", "val"] = "val"
    """Split of the data set to compare on."""
    output_dir: str = "comparison"
    """Folder of report.html, comparison.json and the drawn images."""
    batch_size: PositiveInt = 1
    """Images per forward pass; only images of one shape share a pass."""
    num_workers: NonNegativeInt = 2
    """Processes that load images; 0 loads in the main process."""
    max_images: NonNegativeInt = 12
    """Number of images to draw, those on which the detectors differ most."""
    max_dets: PositiveInt = 100
    """Maximum number of detections per class and image, as in eval."""
    bootstrap: PositiveInt = 1000
    """Number of resamples of the images for the 95 % intervals of the differences."""
    speed_images: NonNegativeInt = 20
    """Number of images on which the time per image is measured, one image at a time; 0: not measured."""
    panoptic_threshold: Fraction | None = None
    """Lowest score of a query in a panoptic map, 0..1; default: as in eval."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to run on; auto: a GPU if there is one."""
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic, as in predict; plain: as in validation during training, without any optimization."""
    compile: Literal["auto", "off", "on"] = "off"
    """Compile the models, as in predict."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(QuietChoice, BatchChoice, TrackChoice, TilesChoice, RunnableChoice):
    """Find objects in images, folders, globs and videos, segment them, or track them in videos and cameras."""

    source: list[str]
    """One or several images, folders, globs or videos; with --track also a camera or a network stream."""
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: fp32, bf16 or fp16; auto: bf16 on CUDA, else fp32; plain: fp32 without any other optimization."""
    compile: Literal["auto", "off", "on"] = "auto"
    """Compile the model for a few shapes, to which images are padded; auto: on CUDA."""
    output_dir: str = "predictions"
    """Folder of the annotated copies, detections.json (COCO results, with masks as RLE) and detections.csv."""
    threshold: Fraction | None = None
    """Lowest score to keep, 0..1; default: 0.5, with --panoptic 0.85, or 0.4 for a model with an independent sigmoid
    per class."""
    top_k: NonNegativeInt | None = None
    """Keep the K best of all pairs of query and class, as newer detectors do; 0: one class per query, as the reference
    DETR does; default: as the model was trained."""
    batch_size: PositiveInt = 1
    """Images per forward pass; only images of one shape share a pass."""
    no_images: bool = False
    """Write no annotated copies, only the tables and the files requested by other flags."""
    panoptic: bool = False
    """Segment each image into things and stuff that do not overlap: draw the segments, write panoptic.json and the
    folder panoptic/ (COCO panoptic format), and list segments instead of detections in all other files."""
    cutouts: bool = False
    """Write each object, cut out along its mask, as a transparent PNG: cutouts/IMAGE/NUMBER-CLASS.png."""
    polygons: bool = False
    """Write polygons.json: a COCO data set with the outlines of masks as polygons, for annotation tools."""
    polygon_tolerance: NonNegativeFloat = 1.0
    """Largest distance of the polygons from the outlines, in pixels; larger: fewer corners; 0: exact."""
    write: Annotated[str, NamesOf("detrkit.inference.prelabels:WRITERS", ("",))] = ""
    """Also write the images, as links or copies, with their detections as labels that tools import, to the folder of
    this name in --output_dir: coco, yolo, voc, labelme, cvat or label_studio."""
    label_map: bool = False
    """Write label_maps/IMAGE.png of 16 bits: the number of the object at each pixel, 0 for no object. The entries of
    detections.json state the number as `label`."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Settings):
    """Merge the results of all shards of a batch job into one file. Missing, incomplete or overlapping shards are
    refused."""

    folder: str
    """Folder of the results, the --output_dir of `detrkit predict --shard`."""
    output: str = ""
    """File to write: .jsonl, one line per image; .parquet, one row per image; or .json, detections in COCO format, for
    `detrkit eval --detections`; empty: results.jsonl in the folder."""


@dataclass(frozen=True, kw_only=True)
class PlotConfig(Settings):
    """Plot the training curves and precision-recall curves of one or several runs side by side."""

    runs: list[str]
    """Run folders."""
    output_dir: str = ""
    """Folder of the plots; empty: report/ of the first run."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(DetectorChoice):
    """Draw the attention of a detector: of the decoder for its best detections, of the encoder at points."""

    image: str
    """The image to run the detector on."""
    output_dir: str = "explanation"
    """Folder of the drawn images."""
    threshold: Fraction = 0.5
    """Lowest score of a detection to explain, 0..1; if no detection reaches it, the best few are drawn."""
    max_detections: PositiveInt = 6
    """Maximum number of detections to explain."""
    points: str = ""
    """Points for the encoder's self-attention, `x,y` in pixels of the image, separated by spaces ("40,60 120,80");
    empty: centers of the best detections."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ArchitectureChoice):
    """Convert weights to the Hugging Face format (safetensors and config.json) or to a .pth of the reference DETR."""

    output: str
    """Folder to write (Hugging Face format), or a file ending in .pth (format of the reference DETR)."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(QuietChoice, TilesChoice, ArchitectureChoice, DataChoice):
    """Export a model to a file for another runtime, and compare the file with the model: outputs on images and, with
    --data, accuracy."""

    format: Annotated[str, NamesOf("detrkit.exporting.formats.table:FORMATS")] = "onnx"
    """onnx (.onnx), openvino (.xml with .bin), torch (torch.export, .pt2) or tensorrt (.engine, for the GPU of this
    machine)."""
    output: str = ""
    """File to write; empty: beside the weights, with the ending of the format."""
    triton: str = ""
    """Add the model, with preprocessing and postprocessing built in (--builtin), to this model repository of Triton
    Inference Server, as a folder named after the weights; OpenVINO Model Server reads it too."""
    image_size: NonNegativeInt = 0
    """Shorter side in pixels to which images are resized; 0: as in training."""
    size: Annotated[str, ParsedBy("detrkit.exporting.writing:parse_size", "")] = ""
    """Fix the input size of the graph to HEIGHTxWIDTH in pixels; smaller images are padded to it; empty: any size."""
    fixed_batch: NonNegativeInt = 0
    """Fix the number of images per batch of the graph; 0: any number."""
    builtin: bool = False
    """Include preprocessing and postprocessing in the graph: pixels of any size in; boxes in pixels, scores and labels
    out. The model inside works at --size, which may be left out for models of square images."""
    for_tensorrt: bool = False
    """Write ONNX that TensorRT builds correct engines of: deformable attention by lookups in place of GridSample, which
    TensorRT 10.13 to 11.1 compile wrongly, and only operators of its parser. Always so with --format tensorrt."""
    max_queries: NonNegativeInt = 0
    """Return only this many queries per image, those of the highest scores, and only their masks; 0: all."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Arithmetic: fp32; bf16 (openvino and torch), for processors that support it; fp16, for GPUs (OpenVINO: weights
    only); int8 (onnx and openvino), with ranges measured on images of --data. Of int8, convolutions that cost too much
    AP (--max_ap_drop) stay in fp32."""
    calibration: PositiveInt = 100
    """Number of images of --data on which int8 ranges are measured, from the training split if there is one."""
    split: Literal["train", "val"] = "val"
    """Split of --data on which accuracy is measured."""
    batch_size: PositiveInt = 1
    """Images per forward pass when accuracy is measured."""
    num_workers: NonNegativeInt = 2
    """Processes that load images when accuracy is measured; 0 loads in the main process."""
    max_images: NonNegativeInt = 0
    """Measure accuracy on this many images, the first of the split; 0: on all."""
    max_ap_drop: NonNegativeFloat = 0.005
    """Largest allowed loss of AP of the file against the model, 0..1; a larger loss is an error."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig(QuietChoice, WeightsChoice, DataChoice):
    """Measure the speed of a model on this machine, unoptimized and optimized, and the peak speed of the machine.
    Without --weights and --model, the classic DETR is measured; without --data, on generated images."""

    part: Literal["all", "inference", "training", "data", "postprocessing", "evaluation"] = "all"
    """Part to measure: all, inference, training, data, postprocessing or evaluation."""
    weights: str = ""
    model: Annotated[str, NamesOf("detrkit.config.presets:MODELS", ("",))] = ""
    """Measure this named model with random weights instead; empty: the classic DETR."""
    masks: bool = False
    """Add a mask head to the model of random weights."""
    image_size: NonNegativeInt = 0
    """Shorter side of the images in pixels; 0: as in training, or 800."""
    batch_size: PositiveInt = 1
    """Images per forward pass or training step."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to run on; auto: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the optimized variant; the unoptimized one uses fp32."""
    compile: Literal["auto", "off", "on"] = "auto"
    """Compile the optimized variant; auto: on GPUs, since compiling gains little on CPUs."""
    images: PositiveInt = 32
    """Maximum number of images for the measurement from files to detections."""
    evaluation_images: PositiveInt = 500
    """Number of images, with 100 detections each, on which the computation of COCO metrics is measured."""
    seconds: NonNegativeFloat = 3.0
    """Seconds per measurement and variant; a slow variant runs three times at least."""
    output_dir: str = "bench"
    """Folder of bench.json and bench.png."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(QuietChoice):
    """Make a small data set of surface defects, train a DETR on it without a GPU, evaluate and draw its predictions."""

    task: Literal["detect", "instance", "panoptic"] = "detect"
    """Task: boxes; boxes and masks; or panoptic segmentation of defects and metal, for every pixel."""
    output_dir: str = "runs/demo"
    """Folder to write to."""
    images: PositiveInt = 900
    """Number of training images to generate; a fifth as many are generated for evaluation."""
    size: PositiveInt = 128
    """Side of the images in pixels."""
    difficulty: Fraction = 0.2
    """Difficulty of the images, 0..1; higher: smaller and fainter defects."""
    minutes: NonNegativeFloat | None = None
    """Minutes to train; default: 1.5 for boxes, 5 with masks."""
    threshold: Fraction = 0.5
    """Lowest score of the predictions to draw, 0..1."""
    seed: NonNegativeInt = 0
    """Random seed of the images and of the training."""

    @property
    def max_minutes(self) -> float:
        """Training time in minutes, with the default of the task."""
        return self.minutes if self.minutes is not None else 1.5 if self.task == "detect" else 5.0


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settings):
    """List the models that have a name: architectures of --model and trained weights of --weights, with their size,
    published accuracy and license, and whether the weights are on this machine."""

    filter: str = ""
    """List only models with this text in their name, id or description."""
    json: bool = False
    """Print JSON in place of the table."""
