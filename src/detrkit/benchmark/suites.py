"""The parts of the bench: for each, the ways of doing its things, measured."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from detrkit.benchmark import baseline as plain
from detrkit.benchmark.machine import Machine, count_work
from detrkit.benchmark.peak_memory import bytes_of
from detrkit.benchmark.rows import PLAIN, Row, make_rows
from detrkit.benchmark.target import BenchmarkTarget, Reference
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
from detrkit.losses import Criterion
from detrkit.models import DETR
from detrkit.structures import Batch, Output
from detrkit.training.optim import build_optimizer
from detrkit.training.step import DetectionLoss

FAST, CACHED, REFERENCE = "fast", "cached", "transformers"
CACHE = 2**30
"""Most bytes of decoded images in memory."""
KEPT = 20
"""Objects of an image that masks are made of, where the weights are random and would find none."""


@dataclass
class Setting:
    """What all parts need."""

    subject: BenchmarkTarget
    machine: Machine
    device: torch.device
    precision: str
    """Of the fast ways: fp32, bf16 or fp16."""
    load: Callable[[], Detector]
    """Loads the subject, made fast."""
    compiled: bool
    """Whether fast ways are compiled."""
    batch_size: int
    images: int
    evaluation_images: int
    seconds: float
    reference: Reference | None
    _detectors: dict[str, Detector] = field(default_factory=dict)

    def detector(self, way: str) -> Detector:
        """The plain or the fast detector, loaded when first asked for."""
        if way not in self._detectors:
            if way == FAST:
                self._detectors[way] = self.load()
            else:
                model = copy.deepcopy(self.subject.start.model).requires_grad_(False)
                size = self.subject.image_size
                weights = self.subject.weights
                self._detectors[way] = Detector(
                    model, weights.categories, replace(weights.preprocessing, image_size=size), self.device
                )
        return self._detectors[way]


def inference(setting: Setting) -> Iterator[list[Row]]:
    """The model by itself, for a batch that is on the device; and from files to detections."""
    subject, device, size = setting.subject, setting.device, setting.batch_size
    batch = subject.batch(size)
    images, padding = batch.images.to(device), batch.padding_mask.to(device)
    slow, fast = setting.detector(PLAIN), setting.detector(FAST)

    @torch.no_grad()
    def run_plain() -> Output:
        out: Output = slow.model(images, padding)
        return out

    @torch.no_grad()
    def run_fast() -> object:
        out = fast.backend.forward_detection(images, padding)
        if out.masks is None and out.predict_masks is not None:
            each = min(KEPT, out.boxes.shape[1])
            places = torch.arange(size * each, device=device)
            return out.predict_masks(places // each, places % each)
        return out

    held = bytes_of([*slow.model.parameters(), *slow.model.buffers()])
    model = fast.model  # folded, and in half precision where that was asked for
    kept = bytes_of([*model.parameters(), *model.buffers()])
    ways = [Variant(PLAIN, run_plain, holds=held), Variant(FAST, run_fast, setting.precision, kept)]
    if setting.reference:
        ways.append(Variant(REFERENCE, _twin_forward(setting.reference, slow.model, images, padding), holds=held))
    timings = measure(ways, seconds=setting.seconds, device=device)
    yield make_rows("inference", "model", timings, size, setting.machine, count_work(run_plain))

    alone = timings[0].percentile(50) / size
    most = int(setting.seconds / alone) // size * size
    count = max(size, min(setting.images, most))
    paths = subject.files(count)
    threshold = _threshold(slow, batch) if subject.masks else 0.5
    ways = [
        Variant(PLAIN, lambda: slow.predict(paths, threshold, batch_size=size)),
        Variant(FAST, lambda: fast.predict(paths, threshold, batch_size=size), setting.precision),
    ]
    if setting.reference:
        ways.append(
            Variant(REFERENCE, lambda: _twin_predict(setting.reference, paths, size, subject.image_size, device))
        )
    timings = measure(ways, seconds=setting.seconds, device=device, memory=False)
    yield make_rows("inference", "from files", timings, count, setting.machine)


def _threshold(detector: Detector, batch: Batch) -> float:
    """The score that `KEPT` detections of an image reach."""
    scores = detector.detect(batch)[0].scores
    return float(scores[min(KEPT, len(scores)) - 1])


def _twin_forward(reference: Reference, model: DETR, images: Tensor, padding: Tensor) -> Callable[[], object]:
    """The pass of the model of transformers over the same batch, normalised beforehand."""
    theirs = reference.model.to(images.device).eval()
    inputs = {"pixel_values": model.backbone.normalise(images, padding), "pixel_mask": (~padding).long()}

    @torch.no_grad()
    def run() -> object:
        return theirs(**inputs)

    return run


@torch.no_grad()
def _twin_predict(
    reference: Reference | None, paths: list[Any], size: int, image_size: int, device: torch.device
) -> object:
    """From files to detections, as the pages of transformers do it."""
    assert reference
    sides = {"shortest_edge": image_size, "longest_edge": round(image_size * 1333 / 800)}
    found = []
    for start in range(0, len(paths), size):
        rgb_images = [Image.open(path).convert("RGB") for path in paths[start : start + size]]
        inputs = reference.processor(images=rgb_images, return_tensors="pt", size=sides).to(device)
        out = reference.model(**inputs)
        sizes = [rgb_image.size[::-1] for rgb_image in rgb_images]
        found += reference.processor.post_process_object_detection(out, threshold=0.5, target_sizes=sizes)
    return found


def training(setting: Setting) -> Iterator[list[Row]]:
    """A training step of a batch that is on the device."""
    subject, device = setting.subject, setting.device
    batch = subject.batch(setting.batch_size).to(device)
    start = subject.start
    steps = {
        PLAIN: _own_step(copy.deepcopy(start.model), start.criterion, batch, device),
        FAST: _own_step(
            copy.deepcopy(start.model),
            start.criterion,
            batch,
            device,
            setting.precision,
            fused=setting.precision != "fp16",
            compiled=setting.compiled,
        ),
    }
    if setting.reference:
        steps[REFERENCE] = _twin_step(setting.reference, start.model, batch, device)
    for step in steps.values():
        step()  # so that the moments are there
    precisions = {FAST: setting.precision}
    ways = [Variant(name, step, precisions.get(name, "fp32"), step.holds()) for name, step in steps.items()]
    timings = measure(ways, seconds=setting.seconds, device=device)
    shares = {name: step.shares() for name, step in steps.items()}
    if REFERENCE in shares:  # whose forward pass computes the losses too
        shares[REFERENCE]["forward"] += shares[REFERENCE].pop("criterion")
    work = count_work(steps[PLAIN])
    yield make_rows("training", "step", timings, len(batch), setting.machine, work, shares)


def _own_step(
    model: DETR,
    criterion: Criterion,
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


def _twin_step(reference: Reference, model: DETR, batch: Batch, device: torch.device) -> Step:
    """The same with the model and the losses of transformers."""
    theirs: Any = copy.deepcopy(reference.model).to(device).train()
    theirs.config.auxiliary_loss = True  # the losses of all decoder layers, as ours
    rgb_images = model.backbone.normalise(batch.images.cpu(), batch.padding_mask.cpu()).to(device)
    inputs = {"pixel_values": rgb_images, "pixel_mask": (~batch.padding_mask).long()}
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in batch.targets]
    optimizer = build_optimizer(theirs, lr=1e-6, lr_backbone=1e-6, weight_decay=1e-4, fused=False)

    def loss(out: Any) -> Tensor:
        total: Tensor = out.loss
        return total

    return Step(lambda: theirs(**inputs, labels=labels), loss, theirs, optimizer, device)


def data(setting: Setting) -> Iterator[list[Row]]:
    """Images from files to what the model learns from, under the original's recipe, on one core; and in all epochs
    but the first where the cache keeps what was decoded."""
    subject = setting.subject
    count = min(setting.images, len(subject.split))
    transform = train_transform("detr", subject.image_size, square_resize=subject.weights.preprocessing.square_resize)
    sizes = [(image.height, image.width) for image in subject.split.images]
    dataset, cached = (
        DetectionDataset(subject.split, subject.weights.categories, transform, with_masks=subject.masks, cache=cache)
        for cache in (None, ImageCache(sizes[:count], CACHE))
    )
    recipe = plain.PilRecipe(subject.image_size, square_resize=subject.weights.preprocessing.square_resize)
    epochs = {PLAIN: 0, FAST: 0, CACHED: 0}  # each call is another epoch, since sizes are drawn anew

    def run(way: str, load: Callable[[int, int], object]) -> None:
        for k in range(count):
            load(epochs[way], k)
        epochs[way] += 1

    ways = [
        Variant(PLAIN, lambda: run(PLAIN, lambda epoch, k: recipe(subject.split.images[k].path, epoch))),
        Variant(FAST, lambda: run(FAST, lambda epoch, k: dataset[epoch, k])),
        Variant(CACHED, lambda: run(CACHED, lambda epoch, k: cached[epoch, k])),
    ]
    with one_thread():
        timings = measure(ways, seconds=setting.seconds, device=torch.device("cpu"), memory=False)
    yield make_rows("data", "images", timings, count, setting.machine)


def postprocessing(setting: Setting) -> Iterator[list[Row]]:
    """Outputs that are on the device to detections in main memory."""
    subject, device, size = setting.subject, setting.device, setting.batch_size
    batch = subject.batch(size)
    out = _stand_in(subject, batch, device)
    processed = torch.tensor([target["size"] for target in batch.targets])
    sizes = torch.tensor([target["original_size"] for target in batch.targets])
    threshold = 0.5
    ways = [
        Variant(PLAIN, lambda: plain.detections(out, processed, sizes, threshold)),
        Variant(
            FAST,
            lambda: [found.cpu() for found in postprocess(out, sizes, processed_sizes=processed, threshold=threshold)],
        ),
    ]
    if setting.reference:
        processor = setting.reference.processor
        theirs = SimpleNamespace(logits=out.logits, pred_boxes=out.boxes)
        ways.append(
            Variant(
                REFERENCE,
                lambda: processor.post_process_object_detection(theirs, threshold=threshold, target_sizes=sizes),
            )
        )
    timings = measure(ways, seconds=setting.seconds, device=device)
    yield make_rows("postprocessing", "masks" if subject.masks else "boxes", timings, size, setting.machine)
    if subject.masks:
        classes = subject.weights.categories
        things = classes.isthing or tuple(k % 2 == 0 for k in range(len(classes)))
        ways = [
            Variant(PLAIN, lambda: plain.panoptic_maps(out, processed, sizes, things, threshold)),
            Variant(FAST, lambda: panoptic(out, processed, sizes, things, threshold)),
        ]
        timings = measure(ways, seconds=setting.seconds, device=device)
        yield make_rows("postprocessing", "panoptic", timings, size, setting.machine)


def _stand_in(subject: BenchmarkTarget, batch: Batch, device: torch.device) -> Output:
    """What a trained model might say: of some queries, it is sure of a class and, with masks, of a round region."""
    random = torch.Generator().manual_seed(0)
    model = subject.start.model
    count, queries, classes = len(batch), model.num_queries, len(subject.weights.categories)
    logits = torch.randn(count, queries, classes + (not model.sigmoid), generator=random) - 4 * model.sigmoid
    sure = min(KEPT, queries)
    logits[:, :sure] = -8
    picked = torch.randint(classes, (count, sure, 1), generator=random)
    logits[:, :sure].scatter_(-1, picked, 8.0)
    if not model.sigmoid:
        logits[:, sure:, -1] = 8
    boxes = torch.rand(count, queries, 4, generator=random) * 0.5 + 0.25
    out = Output(logits.to(device), boxes.to(device), sigmoid=model.sigmoid)
    if not subject.masks:
        return out
    height, width = batch.images.shape[-2:]
    h, w = -(-height // 4), -(-width // 4)
    y, x = torch.linspace(0, 1, h)[:, None], torch.linspace(0, 1, w)
    cx, cy, bw, bh = boxes[..., None, None].unbind(2)
    masks = 6 - 24 * (((x - cx) / bw) ** 2 + ((y - cy) / bh) ** 2)
    return Output(out.logits, out.boxes, masks.to(device), padded_size=(height, width), sigmoid=model.sigmoid)


def evaluation(setting: Setting) -> Iterator[list[Row]]:
    """The twelve COCO numbers of 100 detections per image, on one core."""
    gt, found = plain.detections_to_judge(setting.evaluation_images, len(setting.subject.weights.categories))
    columns = DetectionArrays.from_rows(found)  # in which the evaluation of a model keeps what it finds
    ways = [
        Variant(PLAIN, lambda: plain.compute_coco_metrics(gt, found, "faster_coco_eval")),
        Variant(FAST, lambda: compute_coco_metrics(gt, columns)),
    ]
    if importlib.util.find_spec("pycocotools"):
        ways.append(Variant("pycocotools", lambda: plain.compute_coco_metrics(gt, found, "pycocotools")))
    timings = measure(ways, seconds=setting.seconds, device=torch.device("cpu"), memory=False)
    yield make_rows("evaluation", "COCO numbers", timings, setting.evaluation_images, setting.machine)


PARTS: dict[str, Callable[[Setting], Iterator[list[Row]]]] = {
    "inference": inference,
    "training": training,
    "data": data,
    "postprocessing": postprocessing,
    "evaluation": evaluation,
}
"""By name, in the order in which they are measured."""
