"""The terms of the set prediction loss (paper, section 3.1, equations 2 and appendix A.2) but for the class.

Each is a function of all decoder layers and their matching to a number a layer, so that what a device has to be told
does not grow with the layers. L layers, B images, M matched pairs of all layers and images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.losses.matcher import LayerOutputs
from detrkit.ops.boxes import cxcywh_to_xyxy, giou


class MaskPairs(NamedTuple):
    """Masks of matched queries beside those of their objects, at the size that the batch is padded to."""

    logits: Tensor
    """float32 [M, H, W]."""
    wanted: Tensor
    """float32 [M, H, W], 0 or 1; 0 where padded."""
    inside: Tensor | None
    """bool [M, H, W], pixels that teach; None: all, padded ones too."""


@dataclass(frozen=True)
class Matched:
    """Decoder layers beside the objects that their queries were matched with; pairs in the order of the layers."""

    output: LayerOutputs
    """In float32."""
    layers: Tensor
    """int64 [M], index of the layer."""
    images: Tensor
    """int64 [M], index in the batch."""
    queries: Tensor
    """int64 [M], index of the query."""
    labels: Tensor
    """int64 [M], class of the object."""
    found: Tensor
    """float32 [M, 4], box of the query: cx, cy, w, h in 0..1."""
    boxes: Tensor
    """float32 [M, 4], box of the object, likewise."""
    objects: Sequence[int]
    """Number of objects of each image."""
    num_boxes: Tensor
    """Scalar by which sums over pairs are divided: objects per process, or in a `Branch` pairs a process; averaged over
    all processes, which have at least 1 together."""
    num_matched: Tensor
    """Scalar: matched pairs of a layer a process, averaged over all processes."""
    num_queries: Tensor
    """Scalar: queries of all images a process that are not ignored, averaged over all processes."""
    ignored: Tensor | None = None
    """bool [B, Q], queries that the class loss passes over; None: none."""
    class_agnostic: bool = False
    """Whether all labels are 0, whatever the number of classes."""
    masks: MaskPairs | None = None
    """Of the last layer, where masks are taught."""

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index of the logit of each pair's class, among all logits [L, B, Q, C]."""
        return self.layers, self.images, self.queries, self.labels

    def sums(self, values: Tensor) -> Tensor:
        """A value a pair, [M] -> their sum in each layer, [L]."""
        which = torch.arange(self.output.logits.shape[0], device=values.device)[:, None]
        return values.where(self.layers == which, 0).sum(1)  # like this, a sum does not depend on the run

    def first(self, pairs: int) -> Matched:
        """The last decoder layer alone, which comes first and has so many of the pairs."""
        logits, boxes, sigmoid = self.output
        names = ("layers", "images", "queries", "labels", "found", "boxes")
        cut = {name: getattr(self, name)[:pairs] for name in names}
        return replace(self, output=LayerOutputs(logits[:1], boxes[:1], sigmoid), **cut)


Term = Callable[[Matched], Tensor]
"""[L], a number a layer."""


def box_l1(matched: Matched) -> Tensor:
    """Sum of the L1 distances of matched boxes, per object."""
    return matched.sums((matched.found - matched.boxes).abs().sum(1)) / matched.num_boxes


def box_giou(matched: Matched) -> Tensor:
    """Sum of 1 - GIoU of matched boxes, per object."""
    overlap = giou(cxcywh_to_xyxy(matched.found), cxcywh_to_xyxy(matched.boxes))
    return matched.sums(1 - overlap) / matched.num_boxes


@torch.no_grad()
def class_error(matched: Matched) -> Tensor:
    """Percentage of objects whose query names another class; only for the log.

    0 for a batch without objects, where nothing can be wrong: the original logs 100 there, a false alarm.
    """
    named = matched.output.logits[matched.layers, matched.images, matched.queries].argmax(-1)
    wrong = (named != matched.labels).float()
    return 100 * matched.sums(wrong) / matched.sums(torch.ones_like(wrong)).clamp(min=1)


@torch.no_grad()
def cardinality_error(matched: Matched) -> Tensor:
    """How far the number of queries that say anything is from the number of objects, mean an image; for the log."""
    logits = matched.output.logits
    says = (logits > 0).any(-1) if matched.output.sigmoid else logits.argmax(-1) != logits.shape[-1] - 1
    said = says.sum(2)
    present = torch.tensor(matched.objects).to(logits.device, non_blocking=True)
    return (said - present).abs().float().mean(1)
