"""What a model finds in a stream of batches, in the form that evaluation compares.

Nothing of the size of a picture is kept: boxes and scores as numbers, masks as run lengths, panoptic maps as sums.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from detrkit.data.dataset import DetectionDataset
from detrkit.data.loader import eval_loader
from detrkit.data.records import Split
from detrkit.data.transforms import eval_transform
from detrkit.evaluation.panoptic import PanopticSums, PanopticTruth
from detrkit.masks import encode_rles
from detrkit.models import DETR
from detrkit.postprocessing import best_pairs, panoptic, postprocess, query_masks, usual_threshold
from detrkit.structures import Batch, Categories, Detections, Output, Target


class Collector:
    """Takes outputs batch by batch."""

    def __init__(
        self,
        id_of: Mapping[int, int],
        *,
        counted: Container[int] | None = None,
        masks: bool = False,
        max_masks: int | None = None,
        panoptic_truth: PanopticTruth | None = None,
        panoptic_threshold: float | None = None,
    ) -> None:
        """Prepare.

        Args:
            id_of: class index of the model -> category id of the data set; other classes are dropped.
            counted: category ids of what detections are compared with, which of panoptic data are the things; others
                are dropped from detections. None: all are there.
            masks: give detections their masks, which `segm` numbers need.
            max_masks: of so many of a picture, the best; None: of all.
            panoptic_truth: also make panoptic maps, and compare them with these.
            panoptic_threshold: a query takes part in a map if its score is above this, 0..1; None: the usual one.
        """
        self.id_of, self.masks, self.max_masks = dict(id_of), masks, max_masks
        self.truth, self.threshold = panoptic_truth, panoptic_threshold
        self.found: dict[int, list[dict[str, Any]]] = {}
        """COCO results of each picture, by image id; `segmentation` where a mask was made."""
        self.sums = PanopticSums(panoptic_truth.categories) if panoptic_truth else None
        """Where there is panoptic truth."""
        self.counted = {index: i for index, i in self.id_of.items() if counted is None or i in counted}

    @torch.no_grad()
    def add(self, out: Output, targets: Sequence[Target]) -> None:
        """Take what the model says of a batch.

        Args:
            out: of the model; for masks it has them, or can make them.
            targets: of an evaluation loader, with `image_id`, `original_size` and `size`.
        """
        sizes = torch.tensor([target["original_size"] for target in targets])
        processed = torch.tensor([target["size"] for target in targets])
        boxes = postprocess(replace(out, masks=None, segment=None), sizes)
        queries = best_pairs(out)[2]
        for i, (target, detections) in enumerate(zip(targets, boxes, strict=True)):
            rows = self._rows(detections, target["image_id"])
            if self.masks:
                best = sorted(rows, key=lambda k: -rows[k]["score"])[: self.max_masks]
                wanted, place = torch.unique(queries[i, best], return_inverse=True)
                parts = query_masks(out, i, wanted, processed, target["original_size"])
                codes = [code for part in parts for code in encode_rles(part)]
                for k, position in zip(best, place.tolist(), strict=True):
                    rows[k]["segmentation"] = codes[position]
            self.found[target["image_id"]] = list(rows.values())
        if self.truth and self.sums:
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
                self.sums.add(*self.truth.of(target["image_id"]), ids, known)

    def _rows(self, detections: Detections, image_id: int) -> dict[int, dict[str, Any]]:
        """COCO results by their place among the detections; only of classes that are counted."""
        rows = detections.cpu().to_coco(image_id)
        return {
            k: row | {"category_id": self.counted[row["category_id"]]}
            for k, row in enumerate(rows)
            if row["category_id"] in self.counted
        }


def collect_split(
    model: DETR,
    split: Split,
    categories: Categories,
    collector: Collector,
    *,
    image_size: int,
    device: torch.device | str,
    batch_size: int = 1,
    num_workers: int = 0,
) -> None:
    """Run a model over a split, with a bar that shows how far it is.

    Pictures stream through: at no time are more of them held than the loader prepares ahead.

    Args:
        model: on `device`; in evaluation mode afterwards.
        split: checked records.
        categories: the model's classes.
        collector: takes what it finds.
        image_size: shorter side of the pictures in pixels.
        device: where the model is.
        batch_size: most pictures a forward pass; only pictures of one shape share one.
        num_workers: processes that load pictures; 0: this one.
    """
    from rich.progress import track

    transform = eval_transform(image_size, square=model.square)
    loader = eval_loader(DetectionDataset(split, categories, transform), batch_size=batch_size, num_workers=num_workers)
    model.eval()
    collect_batches(model, track(loader, "Detecting", transient=True), collector, device=device)


@torch.no_grad()
def collect_batches(model: DETR, batches: Iterable[Batch], collector: Collector, *, device: torch.device | str) -> None:
    """Give what a model, in evaluation mode on `device`, says of a stream of batches to a collector."""
    for batch in batches:
        collector.add(model.objects(batch.images.to(device), batch.padding_mask.to(device)), batch.targets)
