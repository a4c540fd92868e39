"""What an exported file says beside the model that it was made from: outputs on images, then AP on a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split
from detrkit.evaluation.class_match import match_classes
from detrkit.evaluation.coco_metrics import IouType, compute_coco_metrics
from detrkit.export.graph import BuiltinGraph, Graph
from detrkit.inference.detector import Detector
from detrkit.inference.metadata import ExportMetadata
from detrkit.structures import Output

Result = TypeVar("Result")

KINDS: tuple[IouType, ...] = ("bbox", "segm")
LOWEST_SCORE = 0.05
"""As many queries of the file are compared as it, or the model, gives this score at least,"""
FEWEST = 5
"""and the best so many in any case."""


@dataclass(frozen=True)
class OutputRow:
    """How far outputs of a batch lie apart, at most."""

    batch: int
    """Images."""
    size: tuple[int, int]
    """(H, W) in pixels, with padding."""
    padded: bool
    """Whether some of it is padding."""
    scores: float
    """Largest difference of a score, in 0..1, of the queries that are compared (`LOWEST_SCORE`)."""
    boxes: float
    """That of a box, relative to the image."""
    masks: float | None
    """That of a mask logit; None without masks."""
    ms: float
    """Milliseconds an image of the exported file, after a first run."""
    reference_ms: float
    """Those of PyTorch."""


@dataclass(frozen=True)
class Accuracy:
    """The official numbers on a data set."""

    name: str
    """AP of boxes, or of masks."""
    reference: float
    """Of the model in PyTorch."""
    exported: float
    """Of the exported file."""

    @property
    def drop(self) -> float:
        """How much is lost."""
        return self.reference - self.exported


@dataclass(frozen=True)
class Report:
    """All of it."""

    outputs: list[OutputRow]
    accuracy: list[Accuracy]
    images: int
    """Of the data set that accuracy was measured on; 0: none was given."""
    max_ap_drop: float

    @property
    def failed(self) -> list[Accuracy]:
        """What fell by more than it may."""
        return [row for row in self.accuracy if row.drop > self.max_ap_drop]

    def to_plain(self) -> dict[str, Any]:
        """As JSON-like data."""
        rows = [asdict(row) | {"drop": row.drop} for row in self.accuracy]
        return asdict(self) | {"accuracy": rows, "passed": not self.failed}


def compare_outputs(
    reference: Detector, exported: Detector, samples: Sequence[Tensor], counts: Iterable[int]
) -> list[OutputRow]:
    """Both on batches of so many images each; those of several shapes with padding.

    Both get the same pixels: with the padding that a file of a fixed size adds, and as they are where the file resizes
    them itself, for then the model does likewise. So what is left between them is the file.

    Args:
        reference: the model in PyTorch.
        exported: the file.
        samples: images, uint8 [3, H, W], at least 1; they take turns.
        counts: numbers of images.

    Raises:
        ConfigError: the file gives what is no number.
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
    """Images [B, 3, H, W] and their padding [B, H, W], padded to a size (H, W); None: as they are."""
    if size is None:
        return images, padding_mask
    missing = (0, size[1] - images.shape[-1], 0, size[0] - images.shape[-2])
    return F.pad(images, missing), F.pad(padding_mask, missing, value=True)


@dataclass(frozen=True)
class _Rows:
    """What is said of a batch, in a form that every kind of output has."""

    scores: Tensor
    """[B, Q, C], in 0..1."""
    boxes: Tensor
    """[B, Q, 4], relative to the image."""
    masks: Callable[[int, Tensor], Tensor] | None
    """Image and queries [n] -> mask logits [n, h, w]."""

    @classmethod
    def of_output(cls, out: Output) -> _Rows:
        """Of a model, or a file that is the model alone."""
        logits, masks = out.logits.float().cpu(), None
        if out.masks is not None:
            of_all = out.masks
            masks = lambda image, queries: of_all[image, queries]  # noqa: E731
        elif out.predict_masks is not None:
            segment = out.predict_masks
            masks = lambda image, queries: segment(torch.full_like(queries, image), queries)  # noqa: E731
        return cls(logits.sigmoid() if out.sigmoid else logits.softmax(-1)[..., :-1], out.boxes.float().cpu(), masks)

    @classmethod
    def of_detections(cls, found: Mapping[str, Tensor], classes: int, size: tuple[int, int]) -> _Rows:
        """Of a graph with built-in steps: each of its detections as a query that knows one class."""
        scores = torch.zeros(*found["scores"].shape, classes).scatter(
            2, found["labels"][..., None].long(), found["scores"][..., None]
        )
        x1, y1, x2, y2 = found["boxes"].unbind(-1)
        height, width = size
        boxes = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        return cls(scores, torch.stack(boxes, -1), None)


@torch.no_grad()
def _compared(
    reference: Detector, exported: Detector, metadata: ExportMetadata | None, images: Tensor, padding_mask: Tensor
) -> OutputRow:
    size = images.shape[-2], images.shape[-1]
    found, ms_found = _timed(lambda: exported.backend.forward_detection(images, padding_mask), len(images))
    if metadata and metadata.builtin:
        assert metadata.size
        graph = BuiltinGraph(Graph(reference.model), metadata.image_size, metadata.size)
        told, ms_wanted = _timed(lambda: graph(images), len(images))
        wanted = _Rows.of_detections(told, len(metadata.categories), size)
    else:
        out, ms_wanted = _timed(lambda: reference.backend.forward_detection(images, padding_mask), len(images))
        wanted = _Rows.of_output(out)
    if any(each.isnan().any() for each in (found.logits, found.boxes, found.masks) if each is not None):
        precision = metadata.precision if metadata else "fp32"
        why = "though the model gives none; export it in another --format"
        if wanted.scores.isnan().any() or wanted.boxes.isnan().any():
            why = "and from the model as well: its weights are broken, so export an earlier checkpoint"
        elif precision != "fp32":
            why = f"though the model gives none: {precision} has overflowed, so export with --precision fp32"
        raise ConfigError(f"expected numbers from the exported file, found NaN, {why}")
    far = [_distances(wanted, _Rows.of_output(found), i) for i in range(len(images))]
    masks = [each["masks"] for each in far if "masks" in each]
    return OutputRow(
        batch=len(images),
        size=size,
        padded=bool(padding_mask.any()),
        scores=max(each["scores"] for each in far),
        boxes=max(each["boxes"] for each in far),
        masks=max(masks) if masks else None,
        ms=ms_found,
        reference_ms=ms_wanted,
    )


def _distances(wanted: _Rows, found: _Rows, i: int) -> dict[str, float]:
    """How far the two lie apart on one image, at most.

    Files may order queries differently, and give only the best. So each query of the file is held against the one of
    the model that says the most similar thing; and that none is missing is seen by the scores in their order.
    """
    best, order = found.scores[i].amax(-1).sort(descending=True)
    expected = wanted.scores[i].amax(-1).sort(descending=True).values[: len(best)]
    count = max(FEWEST, int((best >= LOWEST_SCORE).sum()), int((expected >= LOWEST_SCORE).sum()))
    chosen = order[:count]
    scores, boxes = found.scores[i, chosen], found.boxes[i, chosen]
    apart = torch.cdist(boxes, wanted.boxes[i], p=1) + torch.cdist(scores, wanted.scores[i], p=1)
    partner = apart.argmin(1)
    far = {
        "scores": torch.cat([(best - expected)[:count], scores.amax(-1) - wanted.scores[i, partner].amax(-1)]),
        "boxes": boxes - wanted.boxes[i, partner],
    }
    if found.masks:
        assert wanted.masks
        masks = wanted.masks(i, partner)
        far["masks"] = masks - found.masks(i, chosen)[:, : masks.shape[1], : masks.shape[2]]
    return {name: float(each.abs().max()) for name, each in far.items()}


def _timed(run: Callable[[], Result], count: int) -> tuple[Result, float]:
    """The result, and milliseconds per image of a second run."""
    run()
    start = time.perf_counter()
    out = run()
    return out, (time.perf_counter() - start) * 1000 / count


def compare_accuracy(
    reference: Detector, exported: Detector, split: Split, *, batch_size: int, num_workers: int, quiet: bool = False
) -> list[Accuracy]:
    """AP of both on checked records, of boxes and, where both have masks, of masks."""
    masks = exported.backend.makes_masks and split.has_masks
    match = match_classes(reference.categories, split.categories)
    gt, kinds = split.to_coco(masks=masks), KINDS[: 1 + masks]
    found = []
    for detector in (reference, exported):
        collector = DetectionAccumulator(match.id_of, counted=split.categories.thing_ids, masks=masks)
        collect_split(
            detector.backend,
            split,
            detector.categories,
            collector,
            image_size=detector.image_size,
            device=detector.device,
            batch_size=batch_size,
            num_workers=num_workers,
            quiet=quiet,
        )
        found.append([compute_coco_metrics(gt, collector.found, kind).metrics["AP"] for kind in kinds])
    names = {"bbox": "AP of boxes", "segm": "AP of masks"}
    return [Accuracy(names[kind], *pair) for kind, *pair in zip(kinds, *found, strict=True)]
