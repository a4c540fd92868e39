"""The parts of `detrkit bench`: for each piece of work, the variants that are timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.benchmark.machine import Machine, count_work
from detrkit.benchmark.peak_memory import bytes_of
from detrkit.benchmark.random_detections import random_detections
from detrkit.benchmark.rows import PLAIN, Row, make_rows
from detrkit.benchmark.target import BenchmarkTarget
from detrkit.benchmark.timing import Variant, measure
from detrkit.benchmark.train_step import Step, one_thread
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.transforms.resize_crop import train_transform
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.inference import Detector
from detrkit.inference.optimized import HALVES
from detrkit.inference.postprocess import panoptic, postprocess
from detrkit.losses import DetectionCriterion
from detrkit.models import DetectionModel
from detrkit.structures import Batch, Output
from detrkit.training.optim import build_optimizer
from detrkit.training.step import DetectionLoss

FAST, CACHED = "fast", "cached"
CACHE = 2**30
"""Most bytes of decoded images in memory."""
MASKED_OBJECTS = 20
"""Objects per image that masks are made of; a threshold would find none with random weights."""


@dataclass
class BenchmarkContext:
    """Everything that the parts need."""

    target: BenchmarkTarget
    machine: Machine
    device: torch.device
    precision: str
    """Arithmetic of the fast variants: fp32, bf16 or fp16."""
    load: Callable[[], Detector]
    """Loads the target, optimized."""
    compiled: bool
    """Whether fast variants are compiled."""
    batch_size: int
    images: int
    evaluation_images: int
    seconds: float
    """Time for each variant."""
    _detectors: dict[str, Detector] = field(default_factory=dict)

    def detector(self, name: str) -> Detector:
        """The plain or the fast detector, loaded when it is first needed."""
        if name not in self._detectors:
            if name == FAST:
                self._detectors[name] = self.load()
            else:
                model = copy.deepcopy(self.target.setup.model).requires_grad_(False)
                weights = self.target.weights
                preprocessing = replace(weights.preprocessing, image_size=self.target.image_size)
                self._detectors[name] = Detector(model, weights.categories, preprocessing, self.device)
        return self._detectors[name]


def inference(context: BenchmarkContext) -> Iterator[list[Row]]:
    """Time the model alone, on a batch that is on the device; then from image files to detections."""
    batch = context.target.batch(context.batch_size)
    variants = model_variants(context, batch)
    timings = measure(variants, seconds=context.seconds, device=context.device)
    work = count_work(variants[0].run)
    yield make_rows("inference", "model", timings, context.batch_size, context.machine, work)

    paths = files_for(context, timings[0].percentile(50))
    timings = measure(
        file_variants(context, batch, paths), seconds=context.seconds, device=context.device, memory=False
    )
    yield make_rows("inference", "from files", timings, len(paths), context.machine)


def model_variants(context: BenchmarkContext, batch: Batch) -> list[Variant]:
    """Forward passes: every head and mask in plain, and in fast what a detector needs."""
    device = context.device
    images, padding = batch.images.to(device), batch.padding_mask.to(device)
    plain, fast = context.detector(PLAIN), context.detector(FAST)

    @torch.no_grad()
    def run_plain() -> Output:
        return plain.model(images, padding)

    @torch.no_grad()
    def run_fast() -> object:
        out = fast.backend.forward_detection(images, padding)
        if out.masks is None and out.predict_masks is not None:
            count = min(MASKED_OBJECTS, out.boxes.shape[1])
            rows = torch.arange(len(images) * count, device=device)
            return out.predict_masks(rows // count, rows % count)
        return out

    # the fast model has folded norms, and perhaps half precision
    return [
        Variant(PLAIN, run_plain, holds=bytes_of([*plain.model.parameters(), *plain.model.buffers()])),
        Variant(FAST, run_fast, context.precision, bytes_of([*fast.model.parameters(), *fast.model.buffers()])),
    ]


def files_for(context: BenchmarkContext, seconds: float) -> list[Path]:
    """As many image files as the plain model predicts in the time for a variant, in whole batches.

    Args:
        context: of the benchmark.
        seconds: that the plain model takes for a batch.
    """
    size = context.batch_size
    most = int(context.seconds / (seconds / size)) // size * size
    return context.target.files(max(size, min(context.images, most)))


def file_variants(context: BenchmarkContext, batch: Batch, paths: list[Path]) -> list[Variant]:
    """From image files to detections."""
    plain, fast, size = context.detector(PLAIN), context.detector(FAST), context.batch_size
    threshold = _threshold(plain, batch) if context.target.masks else 0.5
    return [
        Variant(PLAIN, lambda: plain.predict(paths, threshold, batch_size=size)),
        Variant(FAST, lambda: fast.predict(paths, threshold, batch_size=size), context.precision),
    ]


def _threshold(detector: Detector, batch: Batch) -> float:
    """The score that `MASKED_OBJECTS` detections of an image reach."""
    scores = detector.detect(batch)[0].scores
    return float(scores[min(MASKED_OBJECTS, len(scores)) - 1])


def training(context: BenchmarkContext) -> Iterator[list[Row]]:
    """Time a training step on a batch that is on the device."""
    batch = context.target.batch(context.batch_size).to(context.device)
    steps = training_steps(context, batch)
    timings = measure(step_variants(context, steps), seconds=context.seconds, device=context.device)
    shares = {name: step.shares() for name, step in steps.items()}
    work = count_work(steps[PLAIN])
    yield make_rows("training", "step", timings, len(batch), context.machine, work, shares)


def training_steps(context: BenchmarkContext, batch: Batch) -> dict[str, Step]:
    """The plain and the fast training step."""
    setup, device = context.target.setup, context.device
    return {
        PLAIN: _training_step(copy.deepcopy(setup.model), setup.criterion, batch, device),
        FAST: _training_step(
            copy.deepcopy(setup.model),
            setup.criterion,
            batch,
            device,
            context.precision,
            fused=context.precision != "fp16",
            compiled=context.compiled,
        ),
    }


def step_variants(context: BenchmarkContext, steps: dict[str, Step]) -> list[Variant]:
    """Training steps as variants; each has taken one step, so that the optimizer has its moments."""
    for step in steps.values():
        step()
    precisions = {FAST: context.precision}
    return [Variant(name, step, precisions.get(name, "fp32"), step.holds()) for name, step in steps.items()]


def _training_step(
    model: DetectionModel,
    criterion: DetectionCriterion,
    batch: Batch,
    device: torch.device,
    precision: str = "fp32",
    *,
    fused: bool = False,
    compiled: bool = False,
) -> Step:
    """A step as training takes it."""
    model.to(device).train()
    optimizer = build_optimizer(model, lr=1e-6, lr_backbone=1e-6, weight_decay=1e-4, fused=fused)
    dtype = HALVES.get(precision)
    loss_of = DetectionLoss(model, criterion, compiled=compiled)

    def forward() -> Output:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return loss_of.predict(batch.images, batch.padding_mask, batch.targets)

    def loss(out: Any) -> Tensor:
        return criterion.weighted_sum(criterion(out, batch.targets))

    return Step(forward, loss, model, optimizer, device)


def data(context: BenchmarkContext) -> Iterator[list[Row]]:
    """Time loading, on one core, from image files to training images under DETR's recipe; `cached` is every epoch but
    the first with decoded images in the cache."""
    count = min(context.images, len(context.target.split))
    with one_thread():
        timings = measure(
            data_variants(context, count), seconds=context.seconds, device=torch.device("cpu"), memory=False
        )
    yield make_rows("data", "images", timings, count, context.machine)


def data_variants(context: BenchmarkContext, count: int) -> list[Variant]:
    """Loading of the first `count` images; each call is another epoch, since sizes are drawn anew."""
    target = context.target
    transform = train_transform("detr", target.image_size, square_resize=target.weights.preprocessing.square_resize)
    sizes = [(image.height, image.width) for image in target.split.images]

    def variant(name: str, cache: ImageCache | None) -> Variant:
        dataset = DetectionDataset(
            target.split, target.weights.categories, transform, with_masks=target.masks, cache=cache
        )
        epochs = iter(range(10**9))

        def run() -> None:
            epoch = next(epochs)
            for k in range(count):
                dataset[epoch, k]

        return Variant(name, run)

    return [variant(FAST, None), variant(CACHED, ImageCache(sizes[:count], CACHE))]


def postprocessing(context: BenchmarkContext) -> Iterator[list[Row]]:
    """Time postprocessing: from outputs on the device to detections in main memory."""
    target, device, size = context.target, context.device, context.batch_size
    batch = target.batch(size)
    out = synthetic_output(target, batch, device)
    processed = torch.tensor([each["size"] for each in batch.targets])
    sizes = torch.tensor([each["original_size"] for each in batch.targets])

    def run() -> object:
        return [each.cpu() for each in postprocess(out, sizes, processed_sizes=processed, threshold=0.5)]

    timings = measure([Variant(FAST, run)], seconds=context.seconds, device=device)
    yield make_rows("postprocessing", "masks" if target.masks else "boxes", timings, size, context.machine)
    if target.masks:
        things = things_of(target)
        variants = [Variant(FAST, lambda: panoptic(out, processed, sizes, things, 0.5))]
        timings = measure(variants, seconds=context.seconds, device=device)
        yield make_rows("postprocessing", "panoptic", timings, size, context.machine)


def things_of(target: BenchmarkTarget) -> tuple[bool, ...]:
    """Which classes are things; every second one where the data does not say."""
    classes = target.weights.categories
    return classes.isthing or tuple(k % 2 == 0 for k in range(len(classes)))


def synthetic_output(target: BenchmarkTarget, batch: Batch, device: torch.device) -> Output:
    """An output like that of a trained model: some queries are sure of a class and, with masks, of a round region."""
    random = torch.Generator().manual_seed(0)
    model = target.setup.model
    count, queries, classes = len(batch), model.num_queries, len(target.weights.categories)
    logits = torch.randn(count, queries, classes + (not model.sigmoid), generator=random) - 4 * model.sigmoid
    sure = min(MASKED_OBJECTS, queries)
    logits[:, :sure] = -8
    picked = torch.randint(classes, (count, sure, 1), generator=random)
    logits[:, :sure].scatter_(-1, picked, 8.0)
    if not model.sigmoid:
        logits[:, sure:, -1] = 8  # the others are sure that there is no object
    boxes = torch.rand(count, queries, 4, generator=random) * 0.5 + 0.25
    out = Output(logits.to(device), boxes.to(device), sigmoid=model.sigmoid)
    if not target.masks:
        return out
    height, width = batch.images.shape[-2:]
    h, w = -(-height // 4), -(-width // 4)
    y, x = torch.linspace(0, 1, h)[:, None], torch.linspace(0, 1, w)
    cx, cy, bw, bh = boxes[..., None, None].unbind(2)  # [B, Q, 1, 1] each
    masks = 6 - 24 * (((x - cx) / bw) ** 2 + ((y - cy) / bh) ** 2)  # [B, Q, h, w]: an ellipse in each box
    return Output(out.logits, out.boxes, masks.to(device), padded_size=(height, width), sigmoid=model.sigmoid)


def evaluation(context: BenchmarkContext) -> Iterator[list[Row]]:
    """Time the twelve COCO metrics of 100 detections per image, on one core."""
    gt, detections = random_detections(context.evaluation_images, len(context.target.weights.categories))
    arrays = DetectionArrays.from_rows(detections)  # as the evaluation of a model keeps them
    variants = [Variant(FAST, lambda: compute_coco_metrics(gt, arrays))]
    timings = measure(variants, seconds=context.seconds, device=torch.device("cpu"), memory=False)
    yield make_rows("evaluation", "COCO metrics", timings, context.evaluation_images, context.machine)


PARTS: dict[str, Callable[[BenchmarkContext], Iterator[list[Row]]]] = {
    "inference": inference,
    "training": training,
    "data": data,
    "postprocessing": postprocessing,
    "evaluation": evaluation,
}
"""The parts by name, in the order in which they are measured."""
