"""Accumulate the predictions of a model over a stream of batches, in the form that metrics are computed from.

Nothing of the size of an image is kept: boxes and scores become arrays, masks run lengths, panoptic maps counts.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.data.dataset import DetectionDataset
from detrkit.data.loader import eval_loader
from detrkit.data.records import Split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticSums
from detrkit.inference.backend import Backend
from detrkit.inference.postprocess import best_boxes, panoptic, query_masks, usual_threshold
from detrkit.models import DetectionModel
from detrkit.ops.console import track
from detrkit.ops.masks import encode_rles
from detrkit.structures import Batch, Categories, Output, Preprocessing, Target


class DetectionAccumulator:
    """Accumulates the outputs of a model, batch by batch.

    Args:
        id_of: class index of the model -> category id of the data set; other classes are dropped.
        counted: category ids of the ground-truth objects that detections are compared with, which are the things of
            panoptic data; detections of others are dropped. None: all.
        masks: keep the masks of detections, which `segm` metrics need.
        max_masks: most detections per image whose masks are kept, the best; None: all.
        panoptic_gt: also make panoptic maps, and compare them with these.
        panoptic_threshold: score above which a query takes part in a map, 0..1; None: the usual one of the model.
    """

    def __init__(
        self,
        id_of: Mapping[int, int],
        *,
        counted: Container[int] | None = None,
        masks: bool = False,
        max_masks: int | None = None,
        panoptic_gt: PanopticGroundTruth | None = None,
        panoptic_threshold: float | None = None,
    ) -> None:
        self.id_of, self.masks, self.max_masks = dict(id_of), masks, max_masks
        self.gt, self.threshold = panoptic_gt, panoptic_threshold
        self.image_ids: list[int] = []
        """Ids of the images, in the order they were added."""
        self._parts: list[DetectionArrays] = []
        self.sums = PanopticSums(panoptic_gt.categories) if panoptic_gt else None
        """Sums of panoptic quality; None without panoptic ground truth."""
        self.counted = {index: i for index, i in self.id_of.items() if counted is None or i in counted}

    @property
    def detections(self) -> DetectionArrays:
        """All detections so far, in the order they were added; `segmentation` where a mask was made."""
        self._parts = [DetectionArrays.concatenate(self._parts)]
        return self._parts[0]

    @torch.no_grad()
    def add(self, out: Output, targets: Sequence[Target]) -> None:
        """Add the output for a batch.

        Args:
            out: output of the model, with `masks` or `predict_masks` where masks are needed.
            targets: targets of an evaluation loader, with `image_id`, `original_size` and `size`.
        """
        sizes = torch.tensor([target["original_size"] for target in targets])
        processed = torch.tensor([target["size"] for target in targets])
        self._parts.append(self._detections(out, targets, sizes, processed))
        self.image_ids += [target["image_id"] for target in targets]
        if self.gt and self.sums:
            classes = range(out.logits.shape[-1])
            is_thing = [self.sums.things.get(self.id_of.get(index, -1), True) for index in classes]
            threshold = usual_threshold(out.sigmoid) if self.threshold is None else self.threshold
            maps = panoptic(out, processed, sizes, is_thing, threshold)
            for target, (ids, segments) in zip(targets, maps, strict=True):
                known = [
                    {**row, "category_id": self.id_of[row["category_id"]]}
                    for row in segments
                    if row["category_id"] in self.id_of
                ]
                self.sums.add(*self.gt.of(target["image_id"]), ids, known, image_id=target["image_id"])

    def _detections(self, out: Output, targets: Sequence[Target], sizes: Tensor, processed: Tensor) -> DetectionArrays:
        """The detections of the counted classes; sizes int [B, 2] of the files, and in the batch without padding."""
        batch = best_boxes(out).to("cpu")
        boxes = batch.xyxy(sizes).double().numpy()
        boxes[..., 2:] -= boxes[..., :2]
        scores, labels = batch.scores.double().numpy(), batch.labels.numpy()
        counted = np.isin(labels, list(self.counted))
        category_of = np.zeros(out.logits.shape[-1], dtype=np.int64)
        for index, category_id in self.counted.items():
            category_of[index] = category_id
        masks: NDArray[np.object_] | None = None
        if self.masks:
            masks = np.full(labels.shape, None, dtype=np.object_)
            for i, target in enumerate(targets):
                kept = np.flatnonzero(counted[i])
                best = kept[np.argsort(-scores[i, kept], kind="stable")][: self.max_masks]
                unique, inverse = np.unique(batch.queries[i].numpy()[best], return_inverse=True)
                queries = torch.from_numpy(unique).to(out.boxes.device)
                parts = query_masks(out, i, queries, processed, target["original_size"])
                codes = [code for part in parts for code in encode_rles(part)]
                for k, position in zip(best, inverse, strict=True):
                    masks[i, k] = codes[position]
        image_ids = np.array([target["image_id"] for target in targets], dtype=np.int64)
        return DetectionArrays(
            image_ids=np.repeat(image_ids, counted.sum(axis=1)),
            category_ids=category_of[labels[counted]],
            boxes=boxes[counted],
            scores=scores[counted],
            segmentations=None if masks is None else tuple(masks[counted]),
        )


def collect_split(
    model: DetectionModel | Backend,
    split: Split,
    categories: Categories,
    collector: DetectionAccumulator,
    *,
    preprocessing: Preprocessing,
    device: torch.device | str,
    batch_size: int = 1,
    num_workers: int = 0,
    quiet: bool = False,
) -> None:
    """Run a model over a split, with a progress bar.

    Images stream through: at no time are more of them in memory than the loader prefetches.

    Args:
        model: model on `device`, which is set to evaluation mode, or the backend of a detector.
        split: checked records.
        categories: the model's classes.
        collector: takes the outputs.
        preprocessing: size and resizing of the images.
        device: device of the model.
        batch_size: most images per forward pass; only images of one shape share one.
        num_workers: processes that load images; 0: this one.
        quiet: show no progress bar.
    """
    transform = eval_transform(preprocessing.image_size, square_resize=preprocessing.square_resize)
    loader = eval_loader(DetectionDataset(split, categories, transform), batch_size=batch_size, num_workers=num_workers)
    if isinstance(model, DetectionModel):
        model.eval()
    collect_batches(model, track(loader, "Detecting", quiet=quiet), collector, device=device)


@torch.no_grad()
def collect_batches(
    model: DetectionModel | Backend,
    batches: Iterable[Batch],
    collector: DetectionAccumulator,
    *,
    device: torch.device | str,
) -> None:
    """Run a model, in evaluation mode on `device`, on a stream of batches and add its outputs to a collector."""
    for batch in batches:
        collector.add(model.forward_detection(batch.images.to(device), batch.padding_mask.to(device)), batch.targets)
