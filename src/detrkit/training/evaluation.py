"""Evaluation during training: every rank takes its share of the images, and the numbers are those of one process."""

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
from detrkit.losses import Criterion
from detrkit.models import DETR
from detrkit.structures import Batch, Output, Target
from detrkit.training.monitor import class_columns

MAX_MASKS = 100
"""Detections of an image that are given masks, the best; what the official evaluation counts of one class."""


@dataclass(frozen=True)
class Validation:
    """What an evaluation found; the same on every rank."""

    losses: dict[str, float]
    """Mean over the images of each loss of the criterion, and "loss", their weighted sum."""
    metrics: dict[str, float]
    """The twelve COCO numbers of boxes; those of masks as mask_AP, mask_AP50, ..., and PQ, SQ, ... (see
    `PanopticMetrics.metrics`), where these were measured."""
    detections: DetectionArrays
    """With the data set's own category ids, every image once; masks as `segmentation`."""
    panoptic: PanopticMetrics | None = None
    """Panoptic quality by class, where it was measured."""
    per_class: dict[str, float] = field(default_factory=dict)
    """AP of each class that occurs, as class_AP/NAME; of masks as class_mask_AP/NAME, and class_PQ/NAME."""

    @property
    def row(self) -> dict[str, float]:
        """All of it by name."""
        return {**self.losses, **self.metrics, **self.per_class}


class Validator:
    """Measures a model on the validation images."""

    def __init__(
        self,
        criterion: Criterion,
        gt: dict[str, Any],
        category_ids: tuple[int | None, ...],
        *,
        masks: bool = False,
        max_masks: int | None = MAX_MASKS,
        panoptic: PanopticGroundTruth | None = None,
        panoptic_threshold: float | None = None,
    ) -> None:
        """Prepare.

        Args:
            criterion: whose losses to report.
            gt: COCO instances with the data set's own ids; of panoptic data its things alone.
            category_ids: own id of each class of the model; None for one that the data set does not know, whose
                detections are left out.
            masks: also measure the masks of detections. Objects of the ground truth without one have their box as mask,
                as in training.
            max_masks: of so many detections of an image, the best; None: of all.
            panoptic: also measure panoptic quality, on these.
            panoptic_threshold: a query takes part in a panoptic map if its score is above this, 0..1; None: the usual
                one, as in prediction.
        """
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
        model: DETR,
        loader: DataLoader[Batch],
        *,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        should_stop: Callable[[], bool] = lambda: False,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> Validation | None:
        """Losses and COCO numbers of `model` over the images of `loader`, this rank's share of them.

        Args:
            model: left in training mode.
            loader: each image on one rank only; batches may be of different counts from rank to rank.
            device: where the model is.
            precision: context to run the model in.
            should_stop: asked before each batch; where it says so on any rank, the evaluation is given up.
            advance: told (batches done, batches) on this rank.

        Returns:
            The numbers, the same on every rank, or None if given up.

        Raises:
            NonFiniteLossError: on every rank, if what the model says on any is not finite.
        """
        _copy_buffers_of_rank_zero(model)
        model.eval()
        found = self._collector()
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
            found.add(out, batch.targets)
            advance(done + 1, batches)
        model.train()
        return self._gather(found, sums, stopped, diverged)

    def _collector(self) -> DetectionAccumulator:
        ids = {index: i for index, i in enumerate(self.category_ids) if i is not None}
        return DetectionAccumulator(ids, **self.collecting)

    def _take_part(self, device: torch.device) -> None:
        """The criterion averages its count of objects over the ranks, so one without images left joins in empty."""
        if _world() > 1:
            nothing = Target(labels=torch.zeros(0, dtype=torch.int64), boxes=torch.zeros(0, 4))
            sigmoid = self.criterion.sigmoid
            logits = torch.zeros(1, 1, len(self.category_ids) + (not sigmoid))
            self.criterion(
                Output(logits.to(device), torch.full((1, 1, 4), 0.5, device=device), sigmoid=sigmoid),
                Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool), [nothing]).to(device).targets,
            )

    def _gather(
        self, found: DetectionAccumulator, sums: dict[str, float], stopped: bool, diverged: bool
    ) -> Validation | None:
        mine = (sums, len(found.image_ids), diverged, stopped, found.sums.sums if found.sums else None)
        every: list[Any] = [mine]
        if _world() > 1:
            every = [None] * _world()
            dist.all_gather_object(every, mine)
        if any(diverged for _, _, diverged, *_ in every):
            raise NonFiniteLossError("what the model says of the validation images is not finite any more")
        if any(stopped for *_, stopped, _ in every):
            return None
        images = sum(count for _, count, *_ in every)
        names = next((list(part) for part, *_ in every if part), [])
        losses = {name: sum(part.get(name, 0.0) for part, *_ in every) / max(1, images) for name in names}
        detections = gather_detections(found.image_ids, found.detections)
        box: list[Any] = [None]
        if _world() == 1 or dist.get_rank() == 0:
            box = [self._numbers(detections)]
        if _world() > 1:
            dist.broadcast_object_list(box, src=0)
        metrics, per_class = box[0]
        total = self._collector().sums
        if total:
            for *_, part in every:
                total.merge(part)
        panoptic = total.result() if total else None
        if panoptic:
            metrics |= panoptic.metrics
            per_class |= class_columns("PQ", [(row.name, row.pq) for row in panoptic.per_class if row.segments])
        return Validation(losses, metrics, detections, panoptic, per_class)

    def _numbers(self, detections: DetectionArrays) -> tuple[dict[str, float], dict[str, float]]:
        """The numbers of all classes together, and of each."""
        boxes = compute_coco_metrics(self.gt, detections)
        metrics, per_class = dict(boxes.metrics), class_columns("AP", _ap_of_classes(boxes))
        if self.masks:
            masks = compute_coco_metrics(self.gt, detections.with_masks(), "segm")
            metrics |= {f"mask_{name}": value for name, value in masks.metrics.items()}
            per_class |= class_columns("mask_AP", _ap_of_classes(masks))
        return metrics, per_class


def _ap_of_classes(result: CocoMetrics) -> list[tuple[str, float]]:
    return [(row.name, row.AP) for row in result.per_class]


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _most_over_ranks(count: int) -> int:
    """The largest `count` of any rank."""
    if _world() == 1:
        return count
    counts: list[int] = [0] * _world()
    dist.all_gather_object(counts, count)
    return max(counts)


def _then_empty(loader: Iterable[Batch], length: int) -> Iterable[Batch | None]:
    """The batches of `loader`, followed by None until there are `length`."""
    given = 0
    for batch in loader:
        given += 1
        yield batch
    yield from [None] * (length - given)


def _with_box_masks(gt: dict[str, Any]) -> dict[str, Any]:
    """COCO instances in which every object has a mask: those without one the rectangle of their box."""
    rows = []
    for row in gt["annotations"]:
        x, y, w, h = row["bbox"]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        rows.append(row if row.get("segmentation") else {**row, "segmentation": corners})
    return {**gt, "annotations": rows}


def _copy_buffers_of_rank_zero(model: nn.Module) -> None:
    """Batch norm statistics differ from rank to rank; all ranks evaluate with those that the checkpoint keeps."""
    if _world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
