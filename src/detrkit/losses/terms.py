"""The terms of the set prediction loss (paper, section 3.1, equations 2 and appendix A.2) but for the class.

Each is a function of one decoder layer and its matching to a scalar. M is the number of matched pairs in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, giou
from detrkit.structures import Output, Target


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
    """One decoder layer beside the objects that its queries were matched with."""

    output: Output
    """In float32."""
    targets: Sequence[Target]
    images: Tensor
    """int64 [M], index in the batch."""
    queries: Tensor
    """int64 [M], index of the query."""
    labels: Tensor
    """int64 [M], class of the object."""
    boxes: Tensor
    """float32 [M, 4], box of the object: cx, cy, w, h in 0..1."""
    num_boxes: Tensor
    """Scalar by which sums over pairs are divided: objects a process, or in a `Branch` pairs a process; averaged over
    all processes, which have at least 1 together."""
    num_matched: Tensor
    """Scalar: matched pairs a process, averaged over all processes."""
    num_queries: Tensor
    """Scalar: queries of all pictures a process that are not ignored, averaged over all processes."""
    ignored: Tensor | None = None
    """bool [B, Q], queries that the class loss passes over; None: none."""
    class_agnostic: bool = False
    """Whether all labels are 0, whatever the number of classes."""
    masks: MaskPairs | None = None
    """Of the last layer, where masks are taught."""


Term = Callable[[Matched], Tensor]


def box_l1(matched: Matched) -> Tensor:
    """Sum of the L1 distances of matched boxes, per object."""
    found = matched.output.boxes[matched.images, matched.queries]
    return (found - matched.boxes).abs().sum() / matched.num_boxes


def box_giou(matched: Matched) -> Tensor:
    """Sum of 1 - GIoU of matched boxes, per object."""
    found = matched.output.boxes[matched.images, matched.queries]
    return (1 - giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(matched.boxes))).sum() / matched.num_boxes


@torch.no_grad()
def class_error(matched: Matched) -> Tensor:
    """Percentage of objects whose query names another class; only for the log.

    0 for a batch without objects, where nothing can be wrong: the original logs 100 there, a false alarm.
    """
    named = matched.output.logits[matched.images, matched.queries].argmax(-1)
    return 100 * (named != matched.labels).float().sum() / max(len(matched.labels), 1)


@torch.no_grad()
def cardinality_error(matched: Matched) -> Tensor:
    """How far the number of queries that say anything is from the number of objects, mean a picture; for the log."""
    logits = matched.output.logits
    says = (logits > 0).any(-1) if matched.output.sigmoid else logits.argmax(-1) != logits.shape[-1] - 1
    said = says.sum(1)
    present = torch.tensor([len(target["labels"]) for target in matched.targets], device=logits.device)
    return (said - present).abs().float().mean()
