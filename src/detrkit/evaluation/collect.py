"""What a model finds in a stream of batches, in the form that evaluation compares.

Nothing of the size of a picture is kept: boxes and scores as numbers, masks as run lengths, panoptic maps as sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from detrkit.evaluation.panoptic import PanopticSums, PanopticTruth
from detrkit.masks import encode_rles
from detrkit.postprocessing import best_pairs, panoptic, postprocess, query_masks
from detrkit.structures import Detections, Output, Target


class Collector:
    """Takes outputs batch by batch."""

    def __init__(
        self,
        id_of: Mapping[int, int],
        *,
        masks: bool = False,
        max_masks: int | None = None,
        panoptic_truth: PanopticTruth | None = None,
        panoptic_threshold: float = 0.85,
    ) -> None:
        """Prepare.

        Args:
            id_of: class index of the model -> category id of the data set; other classes are dropped.
            masks: give detections their masks, which `segm` numbers need.
            max_masks: of so many of a picture, the best; None: of all.
            panoptic_truth: also make panoptic maps, and compare them with these. Detections are then of things alone.
            panoptic_threshold: lowest score of a query that takes part in a map, 0..1.
        """
        self.id_of, self.masks, self.max_masks = dict(id_of), masks, max_masks
        self.truth, self.threshold = panoptic_truth, panoptic_threshold
        self.found: dict[int, list[dict[str, Any]]] = {}
        """COCO results of each picture, by image id; `segmentation` where a mask was made."""
        self.sums = PanopticSums(panoptic_truth.categories) if panoptic_truth else None
        """Where there is panoptic truth."""
        things = self.sums.things if self.sums else {}
        self.counted = {index: i for index, i in self.id_of.items() if things.get(i, True)}

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
            maps = panoptic(out, processed, sizes, is_thing, self.threshold)
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
