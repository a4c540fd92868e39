"""Dense supervision: which places of the feature levels answer for which objects, many places an object.

Matching gives each object one query, so most of a picture teaches nothing but "nothing here". A dense head has an
output at every place of every level, and three published rules say which of them learn an object:

    fcos      places near its centre, on the level made for its size          (Tian et al. 2019, section 3.2)
    atss      near places whose anchor fits better than those nearby usually  (Zhang et al. 2020, algorithm 1)
    aligned   inside places where class and box are already best together     (Feng et al. 2021, "TOOD", section 3.2)

All distances are measured in cells of a place's level: a cell is one stride wide and high, so that is in pixels of the
picture, whatever its shape. Shapes: B pictures, S places of all levels together, n objects of one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.boxes import area, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from detrkit.errors import ConfigError
from detrkit.structures import Locations, Output, Target

Kind = Literal["fcos", "atss", "aligned"]

_CENTER_RADIUS = 1.5  # cells (FCOS with center sampling)
_LARGEST = 8  # cells from a place to the farthest side of its object (FCOS, section 3.2: 64 pixels at stride 8)
_ANCHOR = 8  # cells, the side of the square anchor (ATSS, section 3.1)
_NEAREST = 9  # candidate places a level (ATSS: k)
_BEST = 13  # places an object (TOOD: m); an object with fewer centres inside takes all of them
_SHARPNESS = 6  # exponent of the IoU; that of the score is 1 (TOOD: beta and alpha)
_ROUNDING = 1e-6


class DenseAssigner:
    """Chooses the places that learn each object, by one of the three rules.

    Whatever the rule: places in the padding are never chosen, no place learns two objects, and every object is learned
    by a place at least, unless there are more objects than places. What the rule leaves out (an object between the
    centres of the finest cells, or hidden behind others) gets the nearest place that others can spare.
    """

    def __init__(self, kind: Kind = "aligned") -> None:
        if kind not in ("fcos", "atss", "aligned"):
            raise ConfigError(f'expected dense_head to be "fcos", "atss" or "aligned", found {kind!r}')
        self.kind = kind

    @torch.no_grad()
    def __call__(self, out: Output, locations: Locations, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """One (place indices, object indices) a picture, int64 in main memory; place indices ascend.

        Args:
            out: one query a place: logits [B, S, C] and boxes [B, S, 4]. Only "aligned" looks at them.
            locations: of these places.
            targets: one a picture, any number of objects.
        """
        owners = torch.stack([self._owners(out, locations, i, target) for i, target in enumerate(targets)])
        owners = owners.cpu()  # the one transfer, but for pictures where an object was left out
        pairs = []
        for i, (owner, target) in enumerate(zip(owners, targets, strict=True)):
            held = torch.bincount(owner[owner >= 0], minlength=len(target["labels"]))
            if not held.all():
                _leave_none_out(owner, held, locations, i, target["boxes"].float().cpu())
            places = (owner >= 0).nonzero().flatten()
            pairs.append((places, owner[places]))
        return pairs

    def _owners(self, out: Output, locations: Locations, i: int, target: Target) -> Tensor:
        """The object of each place of picture i, int64 [S]; -1: none."""
        places = _Places(locations.centers[i].float(), locations.cells[i].float(), locations.level_sizes)
        if not len(target["labels"]):
            return torch.full_like(locations.padding[i], -1, dtype=torch.int64)
        boxes = cxcywh_to_xyxy(target["boxes"].float())
        order = area(boxes).argsort(stable=True)  # of equals the first wins, so the smaller object
        boxes, labels = boxes[order], target["labels"][order]
        usable = (~locations.padding[i])[:, None] & (_sides(places.centers, boxes).amin(-1) > 0)  # [S, n]
        match self.kind:
            case "fcos":
                quality = _fcos(places, boxes)
            case "atss":
                quality = _atss(places, boxes, locations.padding[i])
            case "aligned":
                logits = out.logits[i].float()
                scores = (F.logsigmoid(logits) if out.sigmoid else logits.log_softmax(-1))[:, labels]
                quality = _aligned(places, boxes, usable, scores, cxcywh_to_xyxy(out.boxes[i].float()))
        best, owner = quality.where(usable, 0).max(1)
        return order[owner].where(best > 0, -1)


@dataclass(frozen=True)
class _Places:
    """The places of one picture; see `Locations`."""

    centers: Tensor
    cells: Tensor
    level_sizes: tuple[int, ...]

    @property
    def anchors(self) -> Tensor:
        """Square boxes around the centres, [S, 4] as corners."""
        return cxcywh_to_xyxy(torch.cat([self.centers, _ANCHOR * self.cells], 1))

    def in_cells(self, points: Tensor) -> Tensor:
        """How far points [n, 2] lie from each centre, x and y: [S, n, 2], in cells of the place."""
        return (points - self.centers[:, None]) / self.cells[:, None]


# Each rule gives a quality float [S, n]; 0 or less: not a place of this object. Each place learns the object for which
# its quality is highest.


def _fcos(places: _Places, boxes: Tensor) -> Tensor:
    """1 near the centre of an object of the level's size: so it is the smallest object that wins."""
    near = places.in_cells(xyxy_to_cxcywh(boxes)[:, :2]).abs().amax(-1) < _CENTER_RADIUS
    sides = _sides(places.centers, boxes) / places.cells.repeat(1, 2)[:, None]
    farthest = sides.amax(-1)
    # A level begins where the finer one ends; the first begins at 0, the last does not end.
    first_of_level = [sum(places.level_sizes[:k]) for k in range(len(places.level_sizes))]
    cell = places.cells[first_of_level].mean(-1)
    lowest = torch.cat([cell.new_zeros(1), _LARGEST * cell[:-1] / cell[1:]])
    highest = torch.cat([cell.new_full((len(cell) - 1,), _LARGEST), cell.new_full((1,), torch.inf)])
    lowest, highest = (_of_each_place(bound, places.level_sizes) for bound in (lowest, highest))
    return (near & (farthest > lowest) & (farthest <= highest)).float()


def _atss(places: _Places, boxes: Tensor, padding: Tensor) -> Tensor:
    """IoU of the anchor, where it reaches mean + standard deviation over the nearest places of all levels."""
    overlap = pairwise_iou(places.anchors, boxes)
    distance = places.in_cells(xyxy_to_cxcywh(boxes)[:, :2]).norm(dim=-1)
    distance = distance.masked_fill(padding[:, None], torch.inf)
    candidate = torch.zeros_like(distance, dtype=torch.bool)
    sizes = list(places.level_sizes)
    for near, chosen in zip(torch.split(distance, sizes), torch.split(candidate, sizes), strict=True):
        chosen.scatter_(0, near.topk(min(_NEAREST, len(near)), dim=0, largest=False).indices, True)
    candidate &= ~padding[:, None]
    count = candidate.sum(0)
    mean = (overlap * candidate).sum(0) / count.clamp(min=1)
    deviation = (((overlap - mean).square() * candidate).sum(0) / (count - 1).clamp(min=1)).sqrt()
    return overlap * (candidate & (overlap >= mean + deviation - _ROUNDING))


def _aligned(places: _Places, boxes: Tensor, usable: Tensor, scores: Tensor, predicted: Tensor) -> Tensor:
    """IoU of the predicted box, at the places of highest score * IoU^6 (TOOD, section 3.2).

    At first all scores are alike and boxes may miss every object. So below an IoU of 0.1, the tenth of the IoU that an
    anchor has counts instead, which prefers places of the right level; and of equals the place nearer the centre.

    Args:
        places: S places.
        boxes: [n, 4] as corners.
        usable: bool [S, n].
        scores: [S, n], logarithm of the probability of the object's class.
        predicted: [S, 4] as corners.
    """
    overlap = pairwise_iou(predicted, boxes).nan_to_num(0)
    overlap = torch.maximum(overlap, pairwise_iou(places.anchors, boxes) / 10).clamp(min=_ROUNDING)
    x1, y1, x2, y2 = boxes.unbind(-1)
    size = torch.stack([x2 - x1, y2 - y1], -1).clamp(min=_ROUNDING)
    off_center = ((places.centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2) / size).abs().amax(-1)  # 0..0.5 inside
    metric = (scores + _SHARPNESS * overlap.log() - 0.01 * off_center).masked_fill(~usable, -torch.inf)
    best = metric.topk(min(_BEST, len(metric)), dim=0).indices
    return overlap * torch.zeros_like(usable).scatter_(0, best, True)


def _sides(centers: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points [S, 2] to the left, top, right and bottom of boxes [n, 4]: [S, n, 4]; negative outside."""
    return torch.cat([centers[:, None] - boxes[:, :2], boxes[:, 2:] - centers[:, None]], -1)


def _of_each_place(of_level: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """A value a level [L] -> the same for each place, [S, 1]."""
    return torch.cat([value.expand(size, 1) for value, size in zip(of_level, level_sizes, strict=True)])


def _leave_none_out(owner: Tensor, held: Tensor, locations: Locations, i: int, boxes: Tensor) -> None:
    """Give each object without a place the nearest that is free, or whose object has others; in main memory.

    Args:
        owner: int64 [S], the object of each place, -1: none; changed.
        held: int64 [n], how many places each object has; changed.
        locations: of the batch.
        i: index of the picture.
        boxes: float [n, 4], cx, cy, w, h.
    """
    centers, padding = locations.centers[i].float().cpu(), locations.padding[i].cpu()
    cell = locations.cells[i, 0].float().cpu()  # for a distance in pixels
    for k in (held == 0).nonzero().flatten().tolist():
        spare = ~padding & ((owner < 0) | (held[owner] > 1))
        if not spare.any():
            return
        distance = ((centers - boxes[k, :2]) / cell).square().sum(1)
        place = int(distance.where(spare, torch.inf).argmin())
        if owner[place] >= 0:
            held[owner[place]] -= 1
        owner[place], held[k] = k, 1
