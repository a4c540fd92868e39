"""The parts of `detrkit bench` beside `transformers` and beside baselines straight from the papers.

    python benchmarks/others.py [inference training postprocessing data evaluation] [--image_size 800] [--batch_size 1]
        [--weights WEIGHTS] [--masks] [--device cpu] [--seconds 3]

All variants of a piece of work take turns in one run. `transformers` is its DETR with the very same weights, so it
takes part for the classic DETR alone, and only for boxes. The baselines of data, postprocessing and evaluation are in
`benchmarks/baseline.py`; evaluation also takes pycocotools where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import baseline
from detrkit.benchmark import suites
from detrkit.benchmark.machine import Machine
from detrkit.benchmark.random_detections import random_detections
from detrkit.benchmark.rows import PLAIN, Row, make_rows
from detrkit.benchmark.suites import FAST, BenchmarkContext
from detrkit.benchmark.target import BenchmarkTarget, make_target
from detrkit.benchmark.timing import Variant, measure
from detrkit.benchmark.train_step import Step, one_thread
from detrkit.config.commands import BenchConfig
from detrkit.errors import WeightsError
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.inference import Detector
from detrkit.inference.optimized import HALVES, chosen_precision
from detrkit.inference.postprocess import panoptic, postprocess
from detrkit.models import DETR
from detrkit.models.checkpoints import write_huggingface
from detrkit.structures import Batch
from detrkit.training.optim import build_optimizer

TRANSFORMERS, BASELINE = "transformers", "baseline"


@dataclass(frozen=True)
class Reference:
    """The target's model, with the same weights, as `transformers` has it."""

    model: nn.Module
    processor: Any
    """Prepares images, and makes detections of outputs."""


def find_reference(target: BenchmarkTarget, folder: Path) -> Reference | str:
    """The model in `transformers`, or why there is none."""
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed; pip install transformers"
    if target.masks:
        return "beside transformers only boxes are timed, and this model has a mask head"
    try:
        write_huggingface(target.weights, folder)
    except WeightsError:
        return "transformers has the classic DETR alone in this form"
    import transformers

    with _quiet():
        model = transformers.DetrForObjectDetection.from_pretrained(folder)
        processor = transformers.DetrImageProcessor.from_pretrained(folder)
    return Reference(model, processor)


def reference_forward(reference: Reference, model: DETR, images: Tensor, padding: Tensor) -> Callable[[], Any]:
    """The forward pass of `transformers` over the same batch, normalized beforehand."""
    other = reference.model.to(images.device).eval()
    inputs = {"pixel_values": model.normalize(images, padding), "pixel_mask": (~padding).long()}

    @torch.no_grad()
    def run() -> Any:
        return other(**inputs)

    return run


@torch.no_grad()
def reference_predict(reference: Reference, paths: Sequence[Path], size: int, image_size: int) -> list[Any]:
    """From image files to detections, as the pages of `transformers` do it."""
    sides = {"shortest_edge": image_size, "longest_edge": round(image_size * 1333 / 800)}
    device = next(reference.model.parameters()).device
    detections = []
    for start in range(0, len(paths), size):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + size]]
        inputs = reference.processor(images=images, return_tensors="pt", size=sides).to(device)
        out = reference.model(**inputs)
        sizes = [image.size[::-1] for image in images]
        detections += reference.processor.post_process_object_detection(out, threshold=0.5, target_sizes=sizes)
    return detections


def reference_step(reference: Reference, model: DETR, batch: Batch, device: torch.device) -> Step:
    """A training step with the model and the losses of `transformers`, whose forward pass computes the losses too."""
    other: Any = copy.deepcopy(reference.model).to(device).train()
    other.config.auxiliary_loss = True  # the losses of all decoder layers, as ours
    images = model.normalize(batch.images.cpu(), batch.padding_mask.cpu()).to(device)
    inputs = {"pixel_values": images, "pixel_mask": (~batch.padding_mask).long()}
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in batch.targets]
    optimizer = build_optimizer(other, lr=1e-6, lr_backbone=1e-6, weight_decay=1e-4, fused=False)
    return Step(lambda: other(**inputs, labels=labels), lambda out: out.loss, other, optimizer, device)


def inference(context: BenchmarkContext, reference: Reference | None) -> Iterator[list[Row]]:
    """The model alone, then from image files to detections, beside `transformers`."""
    batch, size = context.target.batch(context.batch_size), context.batch_size
    variants = suites.model_variants(context, batch)
    images, padding = batch.images.to(context.device), batch.padding_mask.to(context.device)
    if reference:
        run = reference_forward(reference, context.detector(PLAIN).model, images, padding)
        variants.append(Variant(TRANSFORMERS, run, holds=variants[0].holds))
    timings = measure(variants, seconds=context.seconds, device=context.device)
    yield make_rows("inference", "model", timings, size, context.machine)
    paths = suites.files_for(context, timings[0].percentile(50))
    variants = suites.file_variants(context, batch, paths)
    if reference:
        image_size = context.target.image_size
        variants.append(Variant(TRANSFORMERS, lambda: reference_predict(reference, paths, size, image_size)))
    timings = measure(variants, seconds=context.seconds, device=context.device, memory=False)
    yield make_rows("inference", "from files", timings, len(paths), context.machine)


def training(context: BenchmarkContext, reference: Reference | None) -> Iterator[list[Row]]:
    """A training step beside `transformers`."""
    batch = context.target.batch(context.batch_size).to(context.device)
    steps = suites.training_steps(context, batch)
    if reference:
        steps[TRANSFORMERS] = reference_step(reference, context.target.setup.model, batch, context.device)
    timings = measure(suites.step_variants(context, steps), seconds=context.seconds, device=context.device)
    yield make_rows("training", "step", timings, len(batch), context.machine)


def postprocessing(context: BenchmarkContext, reference: Reference | None) -> Iterator[list[Row]]:
    """Outputs to detections, and to panoptic maps, beside the baselines and `transformers`."""
    target, size = context.target, context.batch_size
    batch = target.batch(size)
    out = suites.synthetic_output(target, batch, context.device)
    processed = torch.tensor([each["size"] for each in batch.targets])
    sizes = torch.tensor([each["original_size"] for each in batch.targets])
    variants = [
        Variant(BASELINE, lambda: baseline.detections(out, processed, sizes, 0.5)),
        Variant(FAST, lambda: [d.cpu() for d in postprocess(out, sizes, processed_sizes=processed, threshold=0.5)]),
    ]
    if reference:
        process = reference.processor.post_process_object_detection
        other = SimpleNamespace(logits=out.logits, pred_boxes=out.boxes)
        variants.append(Variant(TRANSFORMERS, lambda: process(other, threshold=0.5, target_sizes=sizes)))
    timings = measure(variants, seconds=context.seconds, device=context.device)
    yield make_rows("postprocessing", "masks" if target.masks else "boxes", timings, size, context.machine)
    if target.masks:
        things = suites.things_of(target)
        variants = [
            Variant(BASELINE, lambda: baseline.panoptic_maps(out, processed, sizes, things, 0.5)),
            Variant(FAST, lambda: panoptic(out, processed, sizes, things, 0.5)),
        ]
        timings = measure(variants, seconds=context.seconds, device=context.device)
        yield make_rows("postprocessing", "panoptic", timings, size, context.machine)


def data(context: BenchmarkContext, reference: Reference | None) -> Iterator[list[Row]]:
    """Image files to training images, on one core, beside PIL and torchvision."""
    target = context.target
    count = min(context.images, len(target.split))
    recipe = baseline.PilRecipe(target.image_size, square_resize=target.weights.preprocessing.square_resize)
    epochs = iter(range(10**9))

    def run() -> None:
        epoch = next(epochs)
        for image in target.split.images[:count]:
            recipe(image.path, epoch)

    variants = [Variant(BASELINE, run), *suites.data_variants(context, count)]
    with one_thread():
        timings = measure(variants, seconds=context.seconds, device=torch.device("cpu"), memory=False)
    yield make_rows("data", "images", timings, count, context.machine)


def evaluation(context: BenchmarkContext, reference: Reference | None) -> Iterator[list[Row]]:
    """The twelve COCO metrics, on one core, beside the packages with the official interface."""
    gt, detections = random_detections(context.evaluation_images, len(context.target.weights.categories))
    arrays = DetectionArrays.from_rows(detections)
    packages = ["faster_coco_eval", *["pycocotools"] * bool(importlib.util.find_spec("pycocotools"))]
    variants = [
        Variant(name, lambda name=name: baseline.official_coco_metrics(gt, detections, name))  # type: ignore[misc]
        for name in packages
    ]
    variants.append(Variant(FAST, lambda: compute_coco_metrics(gt, arrays)))
    timings = measure(variants, seconds=context.seconds, device=torch.device("cpu"), memory=False)
    yield make_rows("evaluation", "COCO metrics", timings, context.evaluation_images, context.machine)


PARTS = {
    "inference": inference,
    "training": training,
    "postprocessing": postprocessing,
    "data": data,
    "evaluation": evaluation,
}


def make_context(config: BenchConfig, target: BenchmarkTarget, device: torch.device) -> BenchmarkContext:
    """The context of `detrkit bench`, without measuring the machine."""
    half = chosen_precision(config.precision, device)
    precision = next((name for name, dtype in HALVES.items() if dtype == half), "fp32")
    return BenchmarkContext(
        target,
        Machine(device.type, "", torch.get_num_threads(), {}, 1.0),
        device,
        precision,
        lambda: Detector.load(
            target.checkpoint, device=device.type, image_size=target.image_size, precision=config.precision
        ),
        compiled=False,
        batch_size=config.batch_size,
        images=config.images,
        evaluation_images=config.evaluation_images,
        seconds=config.seconds,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Time the chosen parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--weights", default="", help="a trained model instead of random weights")
    parser.add_argument("--model", default="", help="a named model instead of the classic DETR")
    parser.add_argument("--masks", action="store_true", help="give a model without weights a mask head")
    parser.add_argument("--image_size", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--evaluation_images", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = vars(parser.parse_args(argv))
    parts = options.pop("parts") or list(PARTS)
    config = BenchConfig(**options)
    device = torch.device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        target = make_target(config, Path(folder))
        context = make_context(config, target, device)
        reference = find_reference(target, Path(folder) / "transformers")
        if isinstance(reference, str):
            print(reference)
        print("| work | variant | ms (median) | images/s |\n|---|---|--:|--:|")
        for part in parts:
            for rows in PARTS[part](context, None if isinstance(reference, str) else reference):
                for row in rows:
                    work = f"{row.part}, {row.what}"
                    print(f"| {work} | {row.variant} | {row.p50_ms:.3g} | {row.images_per_second:.3g} |", flush=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and notes of `transformers`."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


if __name__ == "__main__":
    main()
