"""Dense supervision: which places of the feature levels answer for which objects, many places per object.

Matching gives each object one query, so most of an image teaches nothing but "nothing here". A dense head has an
output at every place of every level, and three published rules say which of them learn an object:

    fcos      places near its centre, on the level made for its size          (Tian et al. 2019, section 3.2)
    atss      near places whose anchor fits better than those nearby usually  (Zhang et al. 2020, algorithm 1)
    aligned   inside places where class and box are already best together     (Feng et al. 2021, "TOOD", section 3.2)

All distances are measured in cells of a place's level: a cell is one stride wide and high, so that is in pixels of the
image, whatever its shape. Shapes: B images, S places of all levels together, n objects of the image that has the
most; others are filled up with objects that no place may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from detrkit.errors import ConfigError
from detrkit.ops.boxes import area, cxcywh_to_xyxy, pairwise_iou
from detrkit.structures import Locations, Output, Target

Kind = Literal["fcos", "atss", "tood"]

_CENTER_RADIUS = 1.5  # cells (FCOS with center sampling)
_LARGEST = 8  # cells from a place to the farthest side of its object (FCOS, section 3.2: 64 pixels at stride 8)
_ANCHOR = 8  # cells, the side of the square anchor (ATSS, section 3.1)
_NEAREST = 9  # candidate places per level (ATSS: k)
_BEST = 13  # places per object (TOOD: m); an object with fewer centres inside takes all of them
_SHARPNESS = 6  # exponent of the IoU; that of the score is 1 (TOOD: beta and alpha)
_ROUNDING = 1e-6


class DenseAssigner:
    """Chooses the places that learn each object, by one of the three rules.

    Whatever the rule: places in the padding are never chosen, no place learns two objects, and every object is learned
    by a place at least, unless there are more objects than places. What the rule leaves out (an object between the
    centres of the finest cells, or hidden behind others) gets the nearest place that others can spare.
    """

    def __init__(self, kind: Kind = "tood") -> None:
        if kind not in ("fcos", "atss", "tood"):
            raise ConfigError(f'expected dense_head to be "fcos", "atss" or "tood", found {kind!r}')
        self.kind = kind

    @torch.no_grad()
    def __call__(self, out: Output, locations: Locations, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """One (place indices, object indices) an image, int64 in main memory; place indices ascend.

        Args:
            out: one query a place: logits [B, S, C] and boxes [B, S, 4]. Only "tood" looks at them.
            locations: of these places.
            targets: one per image, any number of objects.
        """
        return self.pairs(self.assigned_gt(out, locations, targets).cpu(), locations, targets)

    @torch.no_grad()
    def assigned_gt(self, out: Output, locations: Locations, targets: Sequence[Target]) -> Tensor:
        """The object of each place as the rule has it, int64 [B, S], where the output is; -1: none. Arguments as in
        a call."""
        sizes = torch.tensor([len(target["labels"]) for target in targets]).to(out.boxes.device, non_blocking=True)
        boxes = pad_sequence([cxcywh_to_xyxy(target["boxes"].float()) for target in targets], batch_first=True)
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
        if not labels.shape[1]:
            return torch.full_like(locations.padding, -1, dtype=torch.int64)
        real = torch.arange(labels.shape[1], device=labels.device) < sizes[:, None]
        # of equals the first wins, so the smaller object
        order = area(boxes).masked_fill(~real, torch.inf).argsort(dim=1, stable=True)
        boxes, labels = boxes.gather(1, order[..., None].expand(-1, -1, 4)), labels.gather(1, order)
        places = _Places(locations.centers.float(), locations.cells.float(), locations.level_sizes)
        inside = torch.stack(_sides(places, boxes)).amin(0) > 0
        usable = inside & real[..., None] & ~locations.padding[:, None]
        match self.kind:
            case "fcos":
                quality = _fcos(places, boxes)
            case "atss":
                quality = _atss(places, boxes, locations.padding)
            case "tood":
                logits = out.logits.float() if out.sigmoid else out.logits.float().log_softmax(-1)
                scores = logits.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, logits.shape[1]))
                scores = F.logsigmoid(scores) if out.sigmoid else scores
                quality = _aligned(places, boxes, usable, scores, cxcywh_to_xyxy(out.boxes.float()))
        best, owner = quality.where(usable, 0).max(1)
        return order.gather(1, owner).where(best > 0, -1)

    @staticmethod
    def pairs(assigned_gt: Tensor, locations: Locations, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """What `assigned_gt` found, in main memory -> as a call. A further transfer only where an object was left
        out."""
        held = [
            torch.bincount(owner[owner >= 0], minlength=len(target["labels"]))
            for owner, target in zip(assigned_gt, targets, strict=True)
        ]
        lacking = [i for i, counts in enumerate(held) if not counts.all()]
        boxes = [targets[i]["boxes"] for i in lacking]
        for i, row in zip(lacking, _fetch(locations, boxes, lacking), strict=True):
            _leave_none_out(assigned_gt[i], held[i], *row)
        places = [(owner >= 0).nonzero().flatten() for owner in assigned_gt]
        return [(place, owner[place]) for place, owner in zip(places, assigned_gt, strict=True)]


@dataclass(frozen=True)
class _Places:
    """The places of all images; see `Locations`."""

    centers: Tensor
    cells: Tensor
    level_sizes: tuple[int, ...]

    @property
    def anchors(self) -> Tensor:
        """Square boxes around the centres, [B, S, 4] as corners."""
        return cxcywh_to_xyxy(torch.cat([self.centers, _ANCHOR * self.cells], 2))

    def off_center(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """How far each place lies from the centres of boxes [B, n, 4], x and y: two of [B, n, S]."""
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        (x, y), (mx, my) = self.centers.unbind(-1), middle[..., None].unbind(-2)
        return (x[:, None] - mx).abs(), (y[:, None] - my).abs()


# Each rule gives a quality float [B, n, S]; 0 or less: not a place of this object. Each place learns the object for
# which its quality is highest. Places come last, so that what is done to them all lies side by side in memory.


def _fcos(places: _Places, boxes: Tensor) -> Tensor:
    """1 near the centre of an object of the level's size: so it is the smallest object that wins."""
    width, height = places.cells[:, None].unbind(-1)  # [B, 1, S]
    x, y = places.off_center(boxes)
    near = torch.maximum(x / width, y / height) < _CENTER_RADIUS
    left, top, right, bottom = _sides(places, boxes)
    farthest = torch.maximum(torch.maximum(left, right) / width, torch.maximum(top, bottom) / height)
    # A level begins where the finer one ends; the first begins at 0, the last does not end.
    first_of_level = [sum(places.level_sizes[:k]) for k in range(len(places.level_sizes))]
    cell = torch.stack([places.cells[:, k] for k in first_of_level], 1).mean(-1)  # [B, levels]
    lowest = torch.cat([cell.new_zeros(len(cell), 1), _LARGEST * cell[:, :-1] / cell[:, 1:]], 1)
    highest = torch.full_like(cell, _LARGEST)
    highest[:, -1:] = torch.inf
    lowest, highest = (_of_each_place(bound, places.level_sizes) for bound in (lowest, highest))
    return (near & (farthest > lowest) & (farthest <= highest)).float()


def _atss(places: _Places, boxes: Tensor, padding: Tensor) -> Tensor:
    """IoU of the anchor, where it reaches mean + standard deviation over the nearest places of all levels."""
    overlap = pairwise_iou(boxes, places.anchors)
    x, y = places.off_center(boxes)
    width, height = places.cells[:, None].unbind(-1)
    distance = torch.stack([x / width, y / height]).norm(dim=0).masked_fill(padding[:, None], torch.inf)
    candidate = torch.zeros_like(distance, dtype=torch.bool)
    sizes = list(places.level_sizes)
    for near, chosen in zip(torch.split(distance, sizes, 2), torch.split(candidate, sizes, 2), strict=True):
        chosen.scatter_(2, near.topk(min(_NEAREST, near.shape[2]), largest=False).indices, True)
    candidate &= ~padding[:, None]
    count = candidate.sum(2, keepdim=True)
    mean = (overlap * candidate).sum(2, keepdim=True) / count.clamp(min=1)
    deviation = (((overlap - mean).square() * candidate).sum(2, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return overlap * (candidate & (overlap >= mean + deviation - _ROUNDING))


def _aligned(places: _Places, boxes: Tensor, usable: Tensor, scores: Tensor, predicted: Tensor) -> Tensor:
    """IoU of the predicted box, at the places of highest score * IoU^6 (TOOD, section 3.2).

    At first all scores are alike and boxes may miss every object. So below an IoU of 0.1, the tenth of the IoU that an
    anchor has counts instead, which prefers places of the right level; and of equals the place nearer the centre.

    Args:
        places: S places.
        boxes: [B, n, 4] as corners.
        usable: bool [B, n, S].
        scores: [B, n, S], logarithm of the probability of the object's class.
        predicted: [B, S, 4] as corners.
    """
    overlap = pairwise_iou(boxes, predicted).nan_to_num(0)
    overlap = torch.maximum(overlap, pairwise_iou(boxes, places.anchors) / 10).clamp(min=_ROUNDING)
    x, y = places.off_center(boxes)
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_ROUNDING)[..., None].unbind(-2)
    off_center = torch.maximum(x / width, y / height)  # 0..0.5 inside
    metric = (scores + _SHARPNESS * overlap.log() - 0.01 * off_center).masked_fill(~usable, -torch.inf)
    best = metric.topk(min(_BEST, metric.shape[2])).indices
    return overlap * torch.zeros_like(usable).scatter_(2, best, True)


def _sides(places: _Places, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances from each place to the left, top, right and bottom of boxes [B, n, 4]: four of [B, n, S]; negative
    outside."""
    (x, y), (x1, y1, x2, y2) = places.centers[:, None].unbind(-1), boxes[..., None].unbind(-2)
    return x - x1, y - y1, x2 - x, y2 - y


def _of_each_place(of_level: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """A value per level [B, L] -> the same for each place, [B, 1, S]."""
    parts = zip(torch.split(of_level[:, None], 1, 2), level_sizes, strict=True)
    return torch.cat([value.expand(-1, 1, size) for value, size in parts], 2)


def _fetch(locations: Locations, boxes: Sequence[Tensor], images: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of some images what `_leave_none_out` needs in main memory, in one transfer."""
    parts = []
    for i, wanted in zip(images, boxes, strict=True):
        # distances shall be in pixels, or in any unit that is as wide as high: cells of the first place
        cell = locations.cells[i, :1].float()
        centers = locations.centers[i].float() / cell
        parts += [centers, locations.padding[i].float(), wanted[:, :2].float() / cell]
    flat = torch.cat([part.flatten() for part in parts]).cpu() if parts else torch.zeros(0)
    here = [
        one.view(part.shape) for one, part in zip(torch.split(flat, [p.numel() for p in parts]), parts, strict=True)
    ]
    return [(here[k], here[k + 1] > 0, here[k + 2]) for k in range(0, len(here), 3)]


def _leave_none_out(owner: Tensor, held: Tensor, centers: Tensor, padding: Tensor, wanted: Tensor) -> None:
    """Give each object without a place the nearest that is free, or whose object has others; in main memory.

    Args:
        owner: int64 [S], the object of each place, -1: none; changed.
        held: int64 [n], how many places each object has; changed.
        centers: float [S, 2], of the places.
        padding: bool [S].
        wanted: float [n, 2], centres of the objects.
    """
    for k in (held == 0).nonzero().flatten().tolist():
        spare = ~padding & ((owner < 0) | (held[owner] > 1))
        if not spare.any():
            return
        distance = (centers - wanted[k]).square().sum(1)
        place = int(distance.where(spare, torch.inf).argmin())
        if owner[place] >= 0:
            held[owner[place]] -= 1
        owner[place], held[k] = k, 1
