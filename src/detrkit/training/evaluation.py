"""Evaluation during training: the ranks divide the images, and the metrics equal those of one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from detrkit.errors import NonFiniteLossError
from detrkit.evaluation.accumulator import DetectionAccumulator
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.coco_metrics import CocoMetrics, compute_coco_metrics, gather_detections
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticMetrics
from detrkit.losses import DetectionCriterion
from detrkit.models import DetectionModel
from detrkit.structures import Batch, Output, Target
from detrkit.training.monitor import class_columns

MAX_MASKS = 100
"""Largest number of detections per image that get masks, the best by score; COCO evaluates as many per class."""


@dataclass(frozen=True)
class Validation:
    """Losses, metrics and detections of one evaluation; the same on every rank."""

    losses: dict[str, float]
    """Mean over the images, or tiles, of each loss of the criterion, and "loss", their weighted sum."""
    metrics: dict[str, float]
    """The twelve COCO metrics of boxes; those of masks as mask_AP, mask_AP50, ..., and PQ, SQ, ... (see
    `PanopticMetrics.metrics`), where these were measured."""
    detections: DetectionArrays
    """Detections of every image, with the category ids of the data set; masks as `segmentation`."""
    panoptic: PanopticMetrics | None = None
    """Panoptic quality by class, if it was measured."""
    per_class: dict[str, float] = field(default_factory=dict)
    """AP of each class that occurs, as class_AP/NAME; of masks as class_mask_AP/NAME, and class_PQ/NAME."""

    @property
    def row(self) -> dict[str, float]:
        """All losses and metrics by name."""
        return {**self.losses, **self.metrics, **self.per_class}


class Validator:
    """Evaluates a model on the validation images.

    Args:
        criterion: losses to report.
        gt: ground truth as COCO instances with the ids of the data set; of panoptic data, the things alone.
        category_ids: id of each class of the model in the data set; None for a class that the data set lacks, whose
            detections are left out.
        masks: also evaluate the masks of detections. Ground-truth objects without a mask get their box as mask, as in
            training.
        max_masks: largest number of detections per image that get masks, the best by score; None: all.
        panoptic: ground truth of the panoptic quality, or None.
        panoptic_threshold: lowest score of queries in a panoptic map, 0..1; None: as in prediction.
    """

    def __init__(
        self,
        criterion: DetectionCriterion,
        gt: dict[str, Any],
        category_ids: tuple[int | None, ...],
        *,
        masks: bool = False,
        max_masks: int | None = MAX_MASKS,
        panoptic: PanopticGroundTruth | None = None,
        panoptic_threshold: float | None = None,
    ) -> None:
        self.criterion, self.category_ids, self.masks = criterion, category_ids, masks
        self.gt = _with_box_masks(gt) if masks else gt
        self.collecting: dict[str, Any] = {
            "counted": {int(row["id"]) for row in gt["categories"]},
            "masks": masks,
            "max_masks": max_masks,
            "panoptic_gt": panoptic,
            "panoptic_threshold": panoptic_threshold,
        }

    @torch.no_grad()
    def run(
        self,
        model: DetectionModel,
        loader: DataLoader[Batch],
        *,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        should_stop: Callable[[], bool] = lambda: False,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> Validation | None:
        """Compute losses and COCO metrics of a model over the images of all ranks.

        Args:
            model: model to evaluate; it is left in training mode.
            loader: this rank's batches; each image is on one rank only, and the number of batches may differ by rank.
            device: device of the model.
            precision: context in which the model is run.
            should_stop: called before each batch; the evaluation is given up once it is true on any rank.
            advance: called with the number of finished batches and of all batches of this rank.

        Returns:
            The evaluation, the same on every rank, or None if given up.

        Raises:
            NonFiniteLossError: on every rank, if an output or a loss on any rank is not finite.
        """
        _copy_buffers_of_rank_zero(model)
        model.eval()
        accumulator = self._accumulator()
        sums: dict[str, float] = {}
        stopped = diverged = False
        batches = len(loader)
        for done, batch in enumerate(_then_empty(loader, _most_over_ranks(batches))):
            stopped = stopped or should_stop()
            if batch is None or stopped:
                self._take_part(device)
                continue
            batch = batch.to(device, non_blocking=True)
            with precision():
                out = model.forward_detection(batch.images, batch.padding_mask)
            losses = self.criterion(out, batch.targets)
            losses = {"loss": self.criterion.weighted_sum(losses), **losses}
            values = torch.stack([v.float() for v in (*losses.values(), out.logits.sum(), out.boxes.sum())]).tolist()
            diverged = diverged or not all(map(math.isfinite, values))
            if diverged:
                continue
            for name, value in zip(losses, values, strict=False):
                sums[name] = sums.get(name, 0.0) + value * len(batch)
            accumulator.add(out, batch.targets)
            advance(done + 1, batches)
        model.train()
        return self._gather(accumulator, sums, stopped, diverged)

    def _accumulator(self) -> DetectionAccumulator:
        ids = {index: i for index, i in enumerate(self.category_ids) if i is not None}
        return DetectionAccumulator(ids, **self.collecting)

    def _take_part(self, device: torch.device) -> None:
        """Call the criterion on a rank that has no images left, since it averages the object count over the ranks."""
        if _world_size() > 1:
            empty = Target(labels=torch.zeros(0, dtype=torch.int64), boxes=torch.zeros(0, 4))
            sigmoid = self.criterion.sigmoid
            logits = torch.zeros(1, 1, len(self.category_ids) + (not sigmoid))
            self.criterion(
                Output(logits.to(device), torch.full((1, 1, 4), 0.5, device=device), sigmoid=sigmoid),
                Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool), [empty]).to(device).targets,
            )

    def _gather(
        self, accumulator: DetectionAccumulator, sums: dict[str, float], stopped: bool, diverged: bool
    ) -> Validation | None:
        panoptic_counts = accumulator.sums.counts if accumulator.sums else None
        own = (sums, accumulator.samples, diverged, stopped, panoptic_counts)
        ranks: list[Any] = [own]
        if _world_size() > 1:
            ranks = [None] * _world_size()
            dist.all_gather_object(ranks, own)
        if any(diverged for _, _, diverged, *_ in ranks):
            raise NonFiniteLossError("the outputs of the model for the validation images are not finite any more")
        if any(stopped for *_, stopped, _ in ranks):
            return None
        samples = sum(count for _, count, *_ in ranks)
        names = next((list(part) for part, *_ in ranks if part), [])
        losses = {name: sum(part.get(name, 0.0) for part, *_ in ranks) / max(1, samples) for name in names}
        detections = gather_detections(accumulator.image_ids, accumulator.detections)
        computed: list[Any] = [None]
        if _world_size() == 1 or dist.get_rank() == 0:
            computed = [self._compute(detections)]
        if _world_size() > 1:
            dist.broadcast_object_list(computed, src=0)
        metrics, per_class = computed[0]
        total = self._accumulator().sums
        if total:
            for *_, part in ranks:
                total.merge(part)
        panoptic = total.result() if total else None
        if panoptic:
            metrics |= panoptic.metrics
            per_class |= class_columns("PQ", [(row.name, row.pq) for row in panoptic.per_class if row.segments])
        return Validation(losses, metrics, detections, panoptic, per_class)

    def _compute(self, detections: DetectionArrays) -> tuple[dict[str, float], dict[str, float]]:
        """Compute the metrics of all classes together, and of each class."""
        boxes = compute_coco_metrics(self.gt, detections)
        metrics, per_class = dict(boxes.metrics), class_columns("AP", _ap_of_classes(boxes))
        if self.masks:
            masks = compute_coco_metrics(self.gt, detections.with_masks(), "segm")
            metrics |= {f"mask_{name}": value for name, value in masks.metrics.items()}
            per_class |= class_columns("mask_AP", _ap_of_classes(masks))
        return metrics, per_class


def _ap_of_classes(result: CocoMetrics) -> list[tuple[str, float]]:
    return [(row.name, row.AP) for row in result.per_class]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _most_over_ranks(count: int) -> int:
    """The largest count of all ranks."""
    if _world_size() == 1:
        return count
    counts: list[int] = [0] * _world_size()
    dist.all_gather_object(counts, count)
    return max(counts)


def _then_empty(loader: Iterable[Batch], length: int) -> Iterable[Batch | None]:
    """Yield the batches of a loader, then None until there are `length`."""
    count = 0
    for batch in loader:
        count += 1
        yield batch
    yield from [None] * (length - count)


def _with_box_masks(gt: dict[str, Any]) -> dict[str, Any]:
    """Give each COCO object that has no mask the rectangle of its box as mask."""
    rows = []
    for row in gt["annotations"]:
        x, y, w, h = row["bbox"]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        rows.append(row if row.get("segmentation") else {**row, "segmentation": corners})
    return {**gt, "annotations": rows}


def _copy_buffers_of_rank_zero(model: nn.Module) -> None:
    """Copy the batch norm statistics of rank 0, which the checkpoint has, to all ranks for the evaluation."""
    if _world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
