"""Parity of an exported file with the model that it was made from: outputs on images, then AP on a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.config.commands import ExportConfig
from detrkit.data.dataset import crop_tile
from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.class_match import match_classes
from detrkit.evaluation.coco_metrics import IouType, compute_coco_metrics
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.graph import BuiltinGraph, Graph
from detrkit.inference.detector import Detector
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Output

Result = TypeVar("Result")

KINDS: tuple[IouType, ...] = ("bbox", "segm")
LOWEST_SCORE = 0.05
"""Queries are compared whose score, in the file or in the model, is at least this."""
FEWEST = 5
"""So many of the best queries are compared in any case."""
MOST_COMPARED = 20
"""So many of the best queries count in `prediction_error`."""
BATCHES = (1, 2, 5)
"""Numbers of images per batch that outputs are compared on."""


@dataclass(frozen=True)
class OutputRow:
    """The largest differences between the file's outputs and the model's on one batch."""

    batch: int
    """Number of images."""
    size: tuple[int, int]
    """(H, W) in pixels, padding included."""
    padded: bool
    """Whether some of the batch is padding."""
    scores: float
    """Largest difference of a score, in 0..1, over the compared queries (`LOWEST_SCORE`)."""
    boxes: float
    """Largest difference of a box coordinate, relative to the image."""
    masks: float | None
    """Largest difference of a mask logit; None without masks."""
    ms: float
    """Milliseconds per image of the exported file, after a first run."""
    reference_ms: float
    """Milliseconds per image of the model in PyTorch, likewise."""


@dataclass(frozen=True)
class Accuracy:
    """AP on a data set, of the model and of the exported file."""

    name: str
    """AP of boxes, or AP of masks."""
    reference: float
    """AP of the model in PyTorch."""
    exported: float
    """AP of the exported file."""

    @property
    def drop(self) -> float:
        """AP lost by exporting."""
        return self.reference - self.exported


@dataclass(frozen=True)
class Report:
    """The parity report of an export."""

    outputs: list[OutputRow]
    accuracy: list[Accuracy]
    images: int
    """Images that accuracy was measured on; 0: there was no data set."""
    max_ap_drop: float

    @property
    def failed(self) -> list[Accuracy]:
        """Metrics that fell by more than `max_ap_drop`."""
        return [row for row in self.accuracy if row.drop > self.max_ap_drop]

    def to_plain(self) -> dict[str, Any]:
        """As JSON-like data."""
        rows = [asdict(row) | {"drop": row.drop} for row in self.accuracy]
        return asdict(self) | {"accuracy": rows, "passed": not self.failed}


def compare(
    config: ExportConfig,
    reference: Detector,
    exported: Detector,
    split: Split | None,
    accuracy: list[Accuracy] | None = None,
) -> Report:
    """Compare outputs on images of a split, or on noise without one; then accuracy on the split, unless it is given."""
    if split:
        images = [read_input(image, split.value_range, reference) for image in split.images[: max(BATCHES)]]
    else:
        metadata: ExportMetadata | None = getattr(exported.backend, "metadata", None)
        images = _noise(reference, metadata.size if metadata and not metadata.builtin else None)
    outputs = compare_outputs(reference, exported, images, BATCHES)
    if accuracy is None:
        accuracy = compare_accuracy(config, reference, exported, split) if split else []
    return Report(outputs, accuracy, len(split) if split else 0, config.max_ap_drop)


def read_input(image: ImageRecord, value_range: ValueRange | None, detector: Detector) -> Tensor:
    """Read an image, or the tile in its middle if the detector cuts images; uint8 [3, H, W]."""
    pixels = read_image(image.path, value_range, unknown=ignore_unknown_range)
    tiling = detector.preprocessing.tiling
    if tiling is None:
        return pixels
    grid = tiling.grid(pixels.shape[1], pixels.shape[2])
    return crop_tile(pixels, grid[len(grid) // 2])


def _noise(detector: Detector, size: tuple[int, int] | None) -> list[Tensor]:
    """Images of coarse noise in two shapes; both fit into a graph of a fixed size (H, W)."""
    generator = torch.Generator().manual_seed(0)
    side = detector.image_size
    shapes = [(side, side * 4 // 3), (side, side)]
    if size and size[1] < shapes[0][1] and not detector.preprocessing.square_resize:
        shapes[0] = (side, side)
    coarse = [torch.randint(0, 256, (1, 3, 6, 6), generator=generator).float() for _ in range(max(BATCHES))]
    return [
        F.interpolate(each, size=shapes[k % 2], mode="bilinear")[0].to(torch.uint8) for k, each in enumerate(coarse)
    ]


def compare_outputs(
    reference: Detector, exported: Detector, samples: Sequence[Tensor], counts: Iterable[int]
) -> list[OutputRow]:
    """Compare outputs on batches of several sizes.

    Model and file get the same pixels: with the padding that a file of a fixed size adds, and unresized where the file
    resizes them itself, for then the model does so in the same way. So any difference is due to the file.

    Args:
        reference: the model in PyTorch.
        exported: the file.
        samples: images, uint8 [3, H, W], at least 1; they take turns.
        counts: numbers of images per batch.

    Raises:
        ConfigError: the file's outputs have NaN.
    """
    metadata: ExportMetadata | None = getattr(exported.backend, "metadata", None)
    if metadata and metadata.builtin:
        shown = [each for each in samples if each.shape == samples[0].shape]  # since it takes no padding
        batches = [torch.stack([shown[k % len(shown)] for k in range(count)]) for count in counts]
        given = [(images, torch.zeros(images[:, 0].shape, dtype=torch.bool)) for images in batches]
    else:
        prepared = [reference.prepare([samples[k % len(samples)] for k in range(count)]) for count in counts]
        size = metadata.size if metadata else None
        given = [fill_up(each.images, each.padding_mask, size) for each in prepared]
    return [_compared(reference, exported, metadata, *each) for each in given]


def fill_up(images: Tensor, padding_mask: Tensor, size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Pad images [B, 3, H, W] and their padding mask [B, H, W] to a size (H, W); None: leave them as they are."""
    if size is None:
        return images, padding_mask
    missing = (0, size[1] - images.shape[-1], 0, size[0] - images.shape[-2])
    return F.pad(images, missing), F.pad(padding_mask, missing, value=True)


@dataclass(frozen=True)
class _Predictions:
    """Predictions for a batch, in one form for all kinds of outputs."""

    scores: Tensor
    """[B, Q, C], in 0..1."""
    boxes: Tensor
    """[B, Q, 4], relative to the image."""
    masks: Callable[[int, Tensor], Tensor] | None
    """Image and queries [n] -> mask logits [n, h, w]."""

    @classmethod
    def of_output(cls, out: Output) -> _Predictions:
        """From the output of a model, or of a file that holds the model alone."""
        logits, masks = out.logits.float().cpu(), None
        if out.masks is not None:
            of_all = out.masks
            masks = lambda image, queries: of_all[image, queries]  # noqa: E731
        elif out.predict_masks is not None:
            segment = out.predict_masks
            masks = lambda image, queries: segment(torch.full_like(queries, image), queries)  # noqa: E731
        return cls(logits.sigmoid() if out.sigmoid else logits.softmax(-1)[..., :-1], out.boxes.float().cpu(), masks)

    @classmethod
    def of_detections(cls, outputs: Mapping[str, Tensor], classes: int, size: tuple[int, int]) -> _Predictions:
        """From a graph with built-in steps: each of its detections becomes a query that knows one class."""
        scores = torch.zeros(*outputs["scores"].shape, classes).scatter(
            2, outputs["labels"][..., None].long(), outputs["scores"][..., None]
        )
        x1, y1, x2, y2 = outputs["boxes"].unbind(-1)
        height, width = size
        boxes = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        return cls(scores, torch.stack(boxes, -1), None)


@torch.no_grad()
def _compared(
    reference: Detector, exported: Detector, metadata: ExportMetadata | None, images: Tensor, padding_mask: Tensor
) -> OutputRow:
    """Run both on a batch, time them, and measure how far apart they are."""
    size = images.shape[-2], images.shape[-1]
    out, ms = _timed(lambda: exported.backend.forward_detection(images, padding_mask), len(images))
    if metadata and metadata.builtin:
        assert metadata.size
        graph = BuiltinGraph(Graph(reference.model), metadata.preprocessing, metadata.size)
        detections, reference_ms = _timed(lambda: graph(images), len(images))
        expected = _Predictions.of_detections(detections, len(metadata.categories), size)
    else:
        model_out, reference_ms = _timed(lambda: reference.backend.forward_detection(images, padding_mask), len(images))
        expected = _Predictions.of_output(model_out)
    if any(each.isnan().any() for each in (out.logits, out.boxes, out.masks) if each is not None):
        precision = metadata.precision if metadata else "fp32"
        why = "though the model gives none; export it in another --format"
        if expected.scores.isnan().any() or expected.boxes.isnan().any():
            why = "and from the model as well: its weights are broken, so export an earlier checkpoint"
        elif precision != "fp32":
            why = f"though the model gives none: {precision} has overflowed, so export with --precision fp32"
        raise ConfigError(f"expected numbers from the exported file, found NaN, {why}")
    distances = [_distances(expected, _Predictions.of_output(out), i) for i in range(len(images))]
    masks = [each["masks"] for each in distances if "masks" in each]
    return OutputRow(
        batch=len(images),
        size=size,
        padded=bool(padding_mask.any()),
        scores=max(each["scores"] for each in distances),
        boxes=max(each["boxes"] for each in distances),
        masks=max(masks) if masks else None,
        ms=ms,
        reference_ms=reference_ms,
    )


def _distances(expected: _Predictions, predicted: _Predictions, i: int) -> dict[str, float]:
    """The largest differences on image i.

    Files may order queries differently, and give only the best. So each query of the file is compared with the most
    similar query of the model; sorted scores show whether one is missing.
    """
    best, order = predicted.scores[i].amax(-1).sort(descending=True)  # [Q]
    expected_best = expected.scores[i].amax(-1).sort(descending=True).values[: len(best)]
    count = max(FEWEST, int((best >= LOWEST_SCORE).sum()), int((expected_best >= LOWEST_SCORE).sum()))
    chosen = order[:count]
    scores, boxes = predicted.scores[i, chosen], predicted.boxes[i, chosen]
    distance = torch.cdist(boxes, expected.boxes[i], p=1) + torch.cdist(scores, expected.scores[i], p=1)
    partner = distance.argmin(1)  # the model's query for each of the file's
    differences = {
        "scores": torch.cat([(best - expected_best)[:count], scores.amax(-1) - expected.scores[i, partner].amax(-1)]),
        "boxes": boxes - expected.boxes[i, partner],
    }
    if predicted.masks:
        assert expected.masks
        masks = expected.masks(i, partner)
        differences["masks"] = masks - predicted.masks(i, chosen)[:, : masks.shape[1], : masks.shape[2]]
    return {name: float(each.abs().max()) for name, each in differences.items()}


def _timed(run: Callable[[], Result], count: int) -> tuple[Result, float]:
    """Run twice: the result, and milliseconds per image of the second run."""
    run()
    start = time.perf_counter()
    out = run()
    return out, (time.perf_counter() - start) * 1000 / count


def prediction_error(expected: Output, predicted: Output) -> float:
    """Mean difference of scores and boxes over the best queries of both, each with its most similar one."""
    first, second = _Predictions.of_output(expected), _Predictions.of_output(predicted)
    errors = []
    for i in range(len(first.boxes)):
        chosen = first.scores[i].amax(-1).topk(min(MOST_COMPARED, len(first.scores[i]))).indices
        rows = torch.cat([first.boxes[i], first.scores[i]], -1)[chosen]  # [n, 4 + C]
        others = torch.cat([second.boxes[i], second.scores[i]], -1)
        errors.append(float(torch.cdist(rows, others, p=1).amin(1).mean()))
    return sum(errors) / len(errors)


def compare_accuracy(
    config: ExportConfig,
    reference: Detector,
    exported: Detector,
    split: Split,
    reference_aps: Sequence[float] | None = None,
) -> list[Accuracy]:
    """AP of model and file on checked records: of boxes and, where both have masks, of masks.

    Args:
        config: `batch_size`, `num_workers` and `quiet`.
        reference: the model.
        exported: the file.
        split: the images.
        reference_aps: of the model, from `measure_aps`; None: they are measured.
    """
    masks = exported.backend.makes_masks and split.has_masks
    if reference_aps is None:
        reference_aps = measure_aps(config, reference, split, masks=masks)
    pairs = zip(reference_aps, measure_aps(config, exported, split, masks=masks), strict=True)
    return [Accuracy(name, *pair) for name, pair in zip(("AP of boxes", "AP of masks"), pairs, strict=False)]


def measure_aps(config: ExportConfig, detector: Detector, split: Split, *, masks: bool) -> list[float]:
    """AP of a detector on checked records, of boxes and with `masks` of masks."""
    match = match_classes(detector.categories, split.categories)
    gt = split.to_coco(masks=masks)
    collector = DetectionAccumulator(match.id_of, counted=split.categories.thing_ids, masks=masks)
    collect_split(
        detector.backend,
        split,
        detector.categories,
        collector,
        preprocessing=detector.preprocessing,
        device=detector.device,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        quiet=config.quiet,
    )
    return [compute_coco_metrics(gt, collector.detections, kind).metrics["AP"] for kind in KINDS[: 1 + masks]]
