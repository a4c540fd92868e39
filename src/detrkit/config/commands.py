"""What each command-line verb can be told, apart from `train` (see `config`): one frozen dataclass a verb.

The text under a field is its help. Like `config`, this file imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrkit.config.data import DataChoice
from detrkit.config.fields import Count, Index, Settings, Share, Weight


@dataclass(frozen=True, kw_only=True)
class QuietChoice(Settings):
    """Whether progress is shown, for the verbs that show some."""

    quiet: bool = False
    """Print no progress; results, warnings and errors are still printed."""


@dataclass(frozen=True, kw_only=True)
class WeightsChoice(Settings):
    """Which weights, for the verbs that take some."""

    weights: str
    """The detector: a checkpoint, a run folder, a published name, a .pth of the original or a Hugging Face folder."""
    dilation: bool | None = None
    """Whether the last stage is dilated (DC5), for a file that does not say; default: what the file says, else not."""
    nheads: Count | None = None
    """Attention heads, for a file that does not say; default: what the file says, else 8."""


@dataclass(frozen=True, kw_only=True)
class DetectorChoice(WeightsChoice):
    """Which detector and where it runs, for the verbs that use one."""

    image_size: Index = 0
    """Shorter side in pixels; 0: what the weights were trained with."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    value_range: str = "auto"
    """Values that become black and white in images of more than 8 bits: LOW,HIGH, such as 0,4095 (with an equals
    sign where LOW is negative: --value_range=-40,120); auto: those of the training data."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(QuietChoice, DataChoice):
    """Look through a data set before training on it: sizes, classes, and every defect with file and record."""

    data: str
    """Folder or file of the data set."""
    num_queries: Count = 100
    """Object queries of the model to come; images with more objects are reported."""
    json: str = ""
    """Also write the report as JSON to this file."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(QuietChoice, DetectorChoice, DataChoice):
    """Measure a detector, or a file of detections, on a data set: the twelve COCO numbers, of boxes and of masks,
    panoptic quality, and where it goes wrong."""

    weights: str = ""
    """The detector: a checkpoint, a run folder, a published name, a .pth of the original or a Hugging Face folder."""
    detections: str = ""
    """Measure this file instead of a detector: COCO results, or COCO panoptic predictions."""
    split: Literal["train", "val"] = "val"
    """Which images."""
    output_dir: str = ""
    """Folder of the report; empty: beside the weights or detections, in report/."""
    batch_size: Count = 1
    """Images a forward pass; only images of one shape share a pass."""
    num_workers: Index = 2
    """Processes that load images; 0 loads in the main process."""
    max_errors: Index = 24
    """Images of the worst errors to draw."""
    max_dets: Count = 100
    """Most detections of one class counted in one image. The official numbers use 100; more, for images with more
    objects than that, adds AP@K and ARK."""
    panoptic_threshold: Share | None = None
    """Score above which a query takes part in a panoptic map, 0..1; default: 0.85, or 0.4 for a model with an
    independent sigmoid per class."""
    precision: Literal["plain", "auto", "fp32", "bf16", "fp16"] = "plain"
    """Arithmetic: plain, as in validation during training, so that the numbers are the same; or as in predict."""
    compile: Literal["off", "auto", "on"] = "off"
    """Whether to compile the model, see predict."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(QuietChoice, DetectorChoice):
    """Find objects in images, folders, globs and videos, or cut them into segments."""

    source: list[str]
    """Images, folders, globs or videos; several are fine."""
    precision: Literal["auto", "plain", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: fp32, bf16 or fp16; auto: fp32, but bf16 on CUDA; plain: fp32, and nothing else made fast either."""
    compile: Literal["auto", "off", "on"] = "auto"
    """Whether to compile the model, for few shapes, which images are padded to; auto: on CUDA."""
    output_dir: str = "predictions"
    """Folder of the annotated copies, detections.json (COCO results, with masks as RLE) and detections.csv."""
    threshold: Share | None = None
    """Lowest score to keep, 0..1; default: 0.5, with --panoptic 0.85, or 0.4 for a model with an independent sigmoid
    per class."""
    top_k: Index | None = None
    """Keep the best K of all pairs of query and class, as newer detectors score; 0: one class a query, as the
    original. Not given: as the model was trained."""
    batch_size: Count = 1
    """Images a forward pass; only images of one shape share a pass."""
    no_images: bool = False
    """Write only the tables and what is asked for below, no annotated copies."""
    panoptic: bool = False
    """Cut each image into segments that do not overlap, things and stuff: draw these, write panoptic.json and the
    folder panoptic/ (COCO panoptic format), and let all other files hold segments instead of detections."""
    cutouts: bool = False
    """Write each object, cut out along its mask, as a transparent PNG: cutouts/IMAGE/NUMBER-CLASS.png."""
    polygons: bool = False
    """Write polygons.json: a COCO data set with the outlines of masks as polygons, for annotation tools."""
    polygon_tolerance: Weight = 1.0
    """How far the polygons may lie off the outlines, in pixels; larger: fewer corners; 0: exact."""
    label_map: bool = False
    """Write label_maps/IMAGE.png of 16 bits: at each pixel the number of the object there, 0 where there is none.
    Entries of detections.json tell theirs as `label`."""


@dataclass(frozen=True, kw_only=True)
class PlotConfig(Settings):
    """Draw the training curves of one or several runs side by side, and their precision-recall curves."""

    runs: list[str]
    """Run folders."""
    output_dir: str = ""
    """Folder of the plots; empty: report/ of the first run."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(DetectorChoice):
    """Show where the model looked: decoder attention of its strongest detections, encoder attention at points."""

    image: str
    """The image."""
    output_dir: str = "explanation"
    """Folder of the images."""
    threshold: Share = 0.5
    """Lowest score of a detection to explain, 0..1; if none reaches it, the best few are shown."""
    max_detections: Count = 6
    """Most detections to explain."""
    points: str = ""
    """Points for the encoder's self-attention, `x,y` in pixels of the image, several with spaces between them
    ("40,60 120,80"); empty: centres of the strongest detections."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(WeightsChoice):
    """Write weights in Hugging Face format (safetensors and config.json), or as a bare .pth of the original."""

    weights: str
    """What to convert: a checkpoint, a run folder, a published name, a .pth of the original, a Hugging Face folder."""
    output: str
    """Folder to write (Hugging Face format), or a file ending in .pth (the original's format)."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(QuietChoice, WeightsChoice, DataChoice):
    """Write a model as a file that other programs run, and compare it with the model: outputs on images and, with
    --data, accuracy."""

    weights: str
    """What to export: a checkpoint, a run folder, a published name, a .pth of the original or a Hugging Face folder."""
    format: str = "onnx"
    """onnx (.onnx), openvino (.xml with .bin), torch (torch.export, .pt2) or tensorrt (.engine, for the GPU at
    hand)."""
    output: str = ""
    """File to write; empty: beside the weights, with the ending of the format."""
    image_size: Index = 0
    """Shorter side in pixels that images are resized to; 0: what the weights were trained with."""
    size: str = ""
    """HEIGHTxWIDTH in pixels of the only size that the graph takes, which smaller images are padded to; empty: any
    size."""
    fixed_batch: Index = 0
    """The only number of images that the graph takes; 0: any."""
    builtin: bool = False
    """Put the steps before and after the model into the graph: pixels of any size in; boxes in pixels, scores and
    labels out. The model itself then works at --size, which square models know by themselves."""
    max_queries: Index = 0
    """Give only the best so many queries of each image, and masks of these alone; 0: all."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Arithmetic: fp32; bf16 (openvino and torch), for processors that have it; fp16, for GPUs (OpenVINO: weights
    alone); int8 (onnx and openvino), with ranges measured on images of --data."""
    calibration: Count = 100
    """Images of --data that int8 measures ranges on, of the training split where there is one."""
    split: Literal["train", "val"] = "val"
    """Images of --data that accuracy is measured on."""
    batch_size: Count = 1
    """Images a forward pass while accuracy is measured."""
    num_workers: Index = 2
    """Processes that load images meanwhile; 0 loads in the main process."""
    max_images: Index = 0
    """Measure accuracy on the first so many images; 0: on all."""
    max_ap_drop: Weight = 0.005
    """How much less AP than the model's own the file may have, 0..1; more is an error."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig(QuietChoice, DataChoice):
    """Measure how fast a model is on this machine, beside its plain form and transformers, and what the machine could
    do at best. Without --weights and --model it is the classic DETR; without --data, images are drawn."""

    part: Literal["all", "inference", "training", "data", "postprocessing", "evaluation"] = "all"
    """What to measure: all, inference, training, data, postprocessing or evaluation."""
    weights: str = ""
    """The detector: a checkpoint, a run folder, a published name, a .pth of the original or a Hugging Face folder."""
    model: str = ""
    """Named model with random weights instead, as in training; empty: the classic DETR."""
    masks: bool = False
    """Let the model without weights have a mask head."""
    image_size: Index = 0
    """Shorter side in pixels; 0: what the weights were trained with, or 800."""
    batch_size: Count = 1
    """Images a forward pass or training step."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the fast path; the plain one is in fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the fast path is compiled; auto: on GPUs, since it gains little on CPUs."""
    images: Count = 32
    """Most images read in one go, from files to detections."""
    evaluation_images: Count = 500
    """Images, of 100 detections each, whose COCO numbers are computed."""
    seconds: Weight = 3.0
    """Time for each measurement of each way; slow ones are done three times in any case."""
    output_dir: str = "bench"
    """Folder of bench.json and bench.png."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(QuietChoice):
    """Make a small data set of surface defects, train a DETR on it with no GPU, measure it and draw what it finds."""

    task: Literal["detect", "instance", "panoptic"] = "detect"
    """What to learn: boxes; boxes and masks; or boxes and masks of defects and metal alike, for every pixel."""
    output_dir: str = "runs/demo"
    """Folder the demo writes to."""
    images: Count = 900
    """Training images to draw; a fifth of that is held out besides."""
    size: Count = 128
    """Side of the images in pixels."""
    difficulty: Share = 0.2
    """How faint and small the defects are, 0..1."""
    minutes: Weight | None = None
    """Minutes to train; not given: 2.5 for boxes, 5 with masks."""
    threshold: Share = 0.5
    """Lowest score of a prediction that is drawn, 0..1."""
    seed: Index = 0
    """Seed of the images and of the training."""

    @property
    def max_minutes(self) -> float:
        """Minutes to train."""
        return self.minutes if self.minutes is not None else 2.5 if self.task == "detect" else 5.0
