"""What an exported file says beside the model that it was made from: outputs on pictures, then AP on a data set."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.evaluation.coco import IouType, coco_numbers
from detrkit.evaluation.collect import Collector, collect_split
from detrkit.evaluation.run import match_classes
from detrkit.inference.detector import Detector
from detrkit.structures import Batch, Output

KINDS: tuple[IouType, ...] = ("bbox", "segm")
LOWEST_SCORE = 0.05
"""Queries of the model whose score is at least this much are compared,"""
FEWEST = 5
"""and the best so many in any case."""


@dataclass(frozen=True)
class OutputRow:
    """How far outputs of a batch lie apart, at most."""

    batch: int
    """Pictures."""
    size: tuple[int, int]
    """(H, W) in pixels, with padding."""
    padded: bool
    """Whether some of it is padding."""
    scores: float
    """Largest difference of a score, in 0..1, of the queries that are compared (`LOWEST_SCORE`)."""
    boxes: float
    """That of a box, relative to the picture."""
    masks: float | None
    """That of a mask logit; None without masks."""
    ms: float
    """Milliseconds a picture of the exported file, after a first run."""
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
    pictures: int
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
    reference: Detector, exported: Detector, pictures: Sequence[Tensor], counts: Iterable[int]
) -> list[OutputRow]:
    """Both on batches of so many pictures each; those of several shapes with padding.

    Args:
        reference: the model in PyTorch.
        exported: the file.
        pictures: uint8 [3, H, W], at least 1; they take turns.
        counts: numbers of pictures.

    Raises:
        ConfigError: the file gives what is no number.
    """
    rows = []
    for count in counts:
        batch = reference.prepare([pictures[k % len(pictures)] for k in range(count)])
        rows.append(_compared(reference, exported, batch))
    return rows


@torch.no_grad()
def _compared(reference: Detector, exported: Detector, batch: Batch) -> OutputRow:
    given = batch.images, batch.padding_mask
    wanted, ms_wanted = _timed(reference, *given)
    found, ms_found = _timed(exported, *given)
    if any(each.isnan().any() for each in (found.logits, found.boxes, found.masks) if each is not None):
        raise ConfigError(
            "expected numbers from the exported file, found NaN; where the model itself gives none, float16 has "
            "overflowed: export with --precision fp32"
        )
    size = batch.images.shape[-2], batch.images.shape[-1]
    far: dict[str, list[Tensor]] = {"scores": [], "boxes": [], "masks": []}
    for i in range(len(batch)):
        rows = {}
        for name, out in (("wanted", wanted), ("found", found)):
            logits = out.logits[i].float().cpu()
            rows[name] = logits.sigmoid() if out.sigmoid else logits.softmax(-1)[:, :-1], out.boxes[i].float().cpu()
        scores, boxes = rows["wanted"]
        best, order = scores.amax(-1).sort(descending=True)
        chosen = order[: max(FEWEST, int((best >= LOWEST_SCORE).sum()))]
        partner = _partners(*rows["wanted"], *rows["found"])[chosen]
        far["scores"].append(scores.amax(-1)[chosen] - rows["found"][0].amax(-1)[partner])
        far["boxes"].append(boxes[chosen] - rows["found"][1][partner])
        if found.masks is not None:
            assert wanted.segment is not None
            masks = wanted.segment(torch.full_like(chosen, i), chosen)
            far["masks"].append(masks - found.masks[i, partner][:, : masks.shape[1], : masks.shape[2]])
    largest = {name: max(float(each.abs().max()) for each in parts) for name, parts in far.items() if parts}
    return OutputRow(
        batch=len(batch),
        size=size,
        padded=bool(batch.padding_mask.any()),
        scores=largest["scores"],
        boxes=largest["boxes"],
        masks=largest.get("masks"),
        ms=ms_found,
        reference_ms=ms_wanted,
    )


def _partners(scores: Tensor, boxes: Tensor, other_scores: Tensor, other_boxes: Tensor) -> Tensor:
    """For each query the one of the other output that says the most similar thing: exported files may order queries
    differently, or give only the best."""
    apart = torch.cdist(boxes, other_boxes, p=1) + torch.cdist(scores, other_scores, p=1)
    return apart.argmin(1)


def _timed(detector: Detector, images: Tensor, padding_mask: Tensor) -> tuple[Output, float]:
    detector.network.objects(images, padding_mask)
    start = time.perf_counter()
    out = detector.network.objects(images, padding_mask)
    return out, (time.perf_counter() - start) * 1000 / len(images)


def compare_accuracy(
    reference: Detector, exported: Detector, split: Split, *, batch_size: int, num_workers: int
) -> list[Accuracy]:
    """AP of both on checked records, of boxes and, where both have masks, of masks."""
    masks = exported.network.makes_masks and split.has_masks
    match = match_classes(reference.categories, split.categories)
    truth, kinds = split.to_coco(masks=masks), KINDS[: 1 + masks]
    found = []
    for detector in (reference, exported):
        collector = Collector(match.id_of, counted=split.categories.thing_ids, masks=masks)
        collect_split(
            detector.network,
            split,
            detector.categories,
            collector,
            image_size=detector.image_size,
            device=detector.device,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        found.append([coco_numbers(truth, collector.found, kind).numbers["AP"] for kind in kinds])
    names = {"bbox": "AP of boxes", "segm": "AP of masks"}
    return [Accuracy(names[kind], *pair) for kind, *pair in zip(kinds, *found, strict=True)]
