"""Accumulate the predictions of a model over a stream of batches, in the form that metrics are computed from.

Nothing of the size of an image is kept: boxes and scores become arrays, masks run lengths, panoptic maps counts.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.data.dataset import DetectionDataset
from detrkit.data.loader import eval_loader
from detrkit.data.records import Split
from detrkit.data.tile_records import tile_split
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.evaluation.arrays import DetectionArrays, Ints
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticSums
from detrkit.inference.backend import Backend
from detrkit.inference.postprocess import BoxesOfBatch, best_boxes, panoptic, query_masks, usual_threshold
from detrkit.inference.tile_merging import MaskPatch, TileDetections, merge_tiles
from detrkit.models import DetectionModel
from detrkit.ops.console import track
from detrkit.ops.masks import encode_patch, encode_rles
from detrkit.ops.tiles import Tile
from detrkit.structures import Batch, Categories, Output, Preprocessing, Target

MOST_OF_TILES = 10_000
"""Detections that are kept of an image of several tiles, the best: each tile has hundreds, most of them doubtful."""


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
        """Ids of the finished images, in their order."""
        self.samples = 0
        """Number of images and tiles that were added."""
        self._unfinished: dict[int, list[TileDetections]] = {}
        self._parts: list[DetectionArrays] = []
        self.sums = PanopticSums(panoptic_gt.categories) if panoptic_gt else None
        """Sums of panoptic quality; None without panoptic ground truth."""
        self.counted = {index: i for index, i in self.id_of.items() if counted is None or i in counted}

    @property
    def detections(self) -> DetectionArrays:
        """The detections of all finished images, in their order; `segmentation` where a mask was made."""
        self._parts = [DetectionArrays.concatenate(self._parts)]
        return self._parts[0]

    @torch.no_grad()
    def add(self, out: Output, targets: Sequence[Target]) -> None:
        """Add the output for a batch. The tiles of an image are merged once all of them were added.

        Args:
            out: output of the model, with `masks` or `predict_masks` where masks are needed.
            targets: targets of an evaluation loader, with `image_id`, `original_size`, `size` and, if so, `tile`.
        """
        sizes = torch.tensor([target["original_size"] for target in targets])
        processed = torch.tensor([target["size"] for target in targets])
        self.samples += len(targets)
        if any("tile" in target for target in targets):
            self._add_tiles(out, targets, sizes, processed)
        else:
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
        masks: NDArray[np.object_] | None = None
        if self.masks:
            masks = np.full(labels.shape, None, dtype=np.object_)
            for i, target in enumerate(targets):
                kept = np.flatnonzero(counted[i])
                rows, parts = self._best_masks(out, i, batch, kept, processed, target["original_size"])
                codes = [code for part in parts for code in encode_rles(part)]
                for k, position in rows:
                    masks[i, k] = codes[position]
        image_ids = np.array([target["image_id"] for target in targets], dtype=np.int64)
        return DetectionArrays(
            image_ids=np.repeat(image_ids, counted.sum(axis=1)),
            category_ids=self._category_ids(labels[counted]),
            boxes=boxes[counted],
            scores=scores[counted],
            segmentations=None if masks is None else tuple(masks[counted]),
        )

    def _best_masks(
        self, out: Output, image: int, batch: BoxesOfBatch, kept: Ints, processed: Tensor, size: tuple[int, int]
    ) -> tuple[list[tuple[int, int]], Iterator[Tensor]]:
        """The masks of the best `max_masks` of the kept detections of an image, in parts; and, for each of these, its
        row and the position of its mask. Detections of one query share a mask."""
        best = kept[np.argsort(-batch.scores[image].numpy()[kept], kind="stable")][: self.max_masks]
        unique, inverse = np.unique(batch.queries[image].numpy()[best], return_inverse=True)
        queries = torch.from_numpy(unique).to(out.boxes.device)
        rows = list(zip(best.tolist(), inverse.tolist(), strict=True))
        return rows, query_masks(out, image, queries, processed, size)

    def _category_ids(self, labels: Ints) -> Ints:
        """Category ids of class indices, all of them of counted classes."""
        return np.array([self.counted[index] for index in labels.tolist()], dtype=np.int64)

    def _add_tiles(self, out: Output, targets: Sequence[Target], sizes: Tensor, processed: Tensor) -> None:
        """Add a batch of tiles, and merge those of images of which no tile is missing."""
        batch = best_boxes(out).to("cpu")
        boxes = batch.xyxy(sizes).double().numpy()
        for i, target in enumerate(targets):
            tile = target.get("tile") or Tile.whole(*target["original_size"])
            kept = np.flatnonzero(np.isin(batch.labels[i].numpy(), list(self.counted)))
            masks = None
            if self.masks:
                rows, parts = self._best_masks(out, i, batch, kept, processed, target["original_size"])
                patches = [MaskPatch.of(mask, tile) for part in parts for mask in part.cpu().numpy()]
                patch_of = {k: patches[position] for k, position in rows}
                masks = tuple(patch_of.get(k) for k in kept.tolist())
            tiles = self._unfinished.setdefault(target["image_id"], [])
            scores, labels = batch.scores[i].double().numpy()[kept], batch.labels[i].numpy()[kept]
            corner = np.array([tile.left, tile.top] * 2, dtype=np.float64)
            tiles.append(TileDetections(tile, boxes[i, kept] + corner, scores, labels, masks))
            if len(tiles) == tile.total:
                self._parts.append(self._merged(target["image_id"]))
                self.image_ids.append(target["image_id"])

    def _merged(self, image_id: int) -> DetectionArrays:
        """The detections of an image of which all tiles were added."""
        merged = merge_tiles(self._unfinished.pop(image_id)).best(MOST_OF_TILES)
        size = merged.tile.image_height, merged.tile.image_width
        masks = None
        if merged.masks is not None:
            masks = tuple(patch and encode_patch(patch.mask, patch.top, patch.left, *size) for patch in merged.masks)
        boxes = merged.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        return DetectionArrays(
            image_ids=np.full(len(merged), image_id, dtype=np.int64),
            category_ids=self._category_ids(merged.labels),
            boxes=boxes,
            scores=merged.scores,
            segmentations=masks,
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
        preprocessing: tiles, size and resizing of the images.
        device: device of the model.
        batch_size: most images, or tiles, per forward pass; only those of one shape share one.
        num_workers: processes that load images; 0: this one.
        quiet: show no progress bar.
    """
    transform = eval_transform(preprocessing.image_size, square_resize=preprocessing.square_resize)
    if preprocessing.tiling:
        split = tile_split(split, preprocessing.tiling)
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
