"""Dense assignment: which locations of the feature levels predict which objects, many locations per object.

Matching gives each object one query, so most of an image is only ever supervised as background. A dense head predicts
at every location of every level, and three published rules choose the locations that predict an object:

    fcos   locations near its center, on the level for its size               (Tian et al. 2019, section 3.2)
    atss   near locations whose anchor overlaps more than those around        (Zhang et al. 2020, algorithm 1)
    tood   locations inside whose predicted class and box fit best together   (Feng et al. 2021, "TOOD", section 3.2)

Distances are measured in cells of the level of a location: a cell is one stride wide and high, so distances are in
pixels of the image, up to that factor, whatever its shape.

Shapes: B images, S locations of all levels, n objects of the image that has the most; other images are padded with
objects that no location is assigned to. Locations are the last dimension, so that they lie side by side in memory.
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
_MAX_REACH = 8  # cells from a location to the farthest side of its object (FCOS, section 3.2: 64 pixels at stride 8)
_ANCHOR_SIDE = 8  # cells (ATSS, section 3.1)
_ATSS_TOPK = 9  # candidates per level (ATSS: k)
_TOOD_TOPK = 13  # locations per object (TOOD: m); an object with fewer locations inside takes all of them
_TOOD_BETA = 6  # exponent of the IoU; that of the score is 1 (TOOD: beta and alpha)
_EPS = 1e-6


class DenseAssigner:
    """Assign locations to objects by one of three rules.

    Each rule gives a quality q_js of location s for object j, and a location predicts the object argmax_j q_js if that
    is above 0. With o_js the IoU of object j and the anchor at s, p_js the predicted probability of the class of j at
    s, and u_js the IoU of j and the box predicted at s:

        fcos   1 if s is within 1.5 cells of the center of j, and the farthest side of j is in the range of its level
        atss   o_js if s is among the 9 nearest of its level and o_js >= mean + standard deviation of these, all levels
        tood   u_js if s is among the 13 of highest p_js u_js^6

    Only locations inside j count, none in the padding. Of equal qualities, the smaller object wins. Whatever the rule,
    every object gets at least one location, unless there are more objects than locations: an object that the rule
    leaves out (it lies between the centers of the finest cells, or behind others) gets the nearest spare location.

    Args:
        kind: fcos, atss or tood.

    Raises:
        ConfigError: the kind is unknown.
    """

    def __init__(self, kind: Kind = "tood") -> None:
        if kind not in ("fcos", "atss", "tood"):
            raise ConfigError(f'expected dense_head to be "fcos", "atss" or "tood", found {kind!r}')
        self.kind = kind

    @torch.no_grad()
    def __call__(self, out: Output, locations: Locations, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """Assign the locations of each image.

        Args:
            out: one prediction per location: logits [B, S, C] and boxes [B, S, 4]. Only "tood" uses them.
            locations: locations of these predictions.
            targets: one per image, any number of objects.

        Returns:
            (location indices, object indices) of each image, int64 on the CPU; location indices ascend.
        """
        return self.pairs(self.assigned_gt(out, locations, targets).cpu(), locations, targets)

    @torch.no_grad()
    def assigned_gt(self, out: Output, locations: Locations, targets: Sequence[Target]) -> Tensor:
        """Apply the rule: the object of each location, int64 [B, S] on the device of the output; -1: none.

        Arguments as in a call.
        """
        sizes = torch.tensor([len(target["labels"]) for target in targets]).to(out.boxes.device, non_blocking=True)
        boxes = pad_sequence([cxcywh_to_xyxy(target["boxes"].float()) for target in targets], batch_first=True)
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)  # [B, n]
        if not labels.shape[1]:
            return torch.full_like(locations.padding, -1, dtype=torch.int64)
        real = torch.arange(labels.shape[1], device=labels.device) < sizes[:, None]  # [B, n], False for padded objects

        # by area, since max takes the first of equals
        order = area(boxes).masked_fill(~real, torch.inf).argsort(dim=1, stable=True)  # [B, n]
        boxes, labels = boxes.gather(1, order[..., None].expand(-1, -1, 4)), labels.gather(1, order)
        grid = _Grid(locations.centers.float(), locations.cells.float(), locations.level_sizes)
        inside = torch.stack(_side_distances(grid, boxes)).amin(0) > 0  # [B, n, S]
        usable = inside & real[..., None] & ~locations.padding[:, None]
        match self.kind:
            case "fcos":
                quality = _fcos(grid, boxes)
            case "atss":
                quality = _atss(grid, boxes, locations.padding)
            case "tood":
                logits = out.logits.float() if out.sigmoid else out.logits.float().log_softmax(-1)  # [B, S, C]
                # the class of each object at each location, [B, n, S]
                scores = logits.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, logits.shape[1]))
                scores = F.logsigmoid(scores) if out.sigmoid else scores
                quality = _tood(grid, boxes, usable, scores, cxcywh_to_xyxy(out.boxes.float()))
        best, assigned = quality.where(usable, 0).max(1)  # [B, S] each
        return order.gather(1, assigned).where(best > 0, -1)

    @staticmethod
    def pairs(assigned_gt: Tensor, locations: Locations, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """Turn `assigned_gt`, on the CPU, into pairs as of a call.

        Fetches the locations in a further transfer, but only where the rule left an object out.
        """
        counts = [
            torch.bincount(assigned[assigned >= 0], minlength=len(target["labels"]))
            for assigned, target in zip(assigned_gt, targets, strict=True)
        ]
        incomplete = [i for i, count in enumerate(counts) if not count.all()]
        boxes = [targets[i]["boxes"] for i in incomplete]
        for i, row in zip(incomplete, _fetch(locations, boxes, incomplete), strict=True):
            _assign_left_out(assigned_gt[i], counts[i], *row)
        chosen = [(assigned >= 0).nonzero().flatten() for assigned in assigned_gt]
        return [(indices, assigned[indices]) for indices, assigned in zip(chosen, assigned_gt, strict=True)]


@dataclass(frozen=True)
class _Grid:
    """The locations of all images in float32; see `Locations`."""

    centers: Tensor
    """[B, S, 2], x and y."""
    cells: Tensor
    """[B, S, 2], width and height."""
    level_sizes: tuple[int, ...]

    @property
    def anchors(self) -> Tensor:
        """Square boxes around the centers, [B, S, 4] as corners."""
        return cxcywh_to_xyxy(torch.cat([self.centers, _ANCHOR_SIDE * self.cells], 2))

    def center_distances(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of locations to the centers of boxes [B, n, 4] along x and y: two of [B, n, S]."""
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2  # [B, n, 2]
        (x, y), (mx, my) = self.centers.unbind(-1), middle[..., None].unbind(-2)  # [B, S] and [B, n, 1] each
        return (x[:, None] - mx).abs(), (y[:, None] - my).abs()


def _fcos(grid: _Grid, boxes: Tensor) -> Tensor:
    """Quality [B, n, S]: 1 near the center of an object whose size is that of the level, else 0.

    Args:
        grid: S locations.
        boxes: [B, n, 4] as corners.
    """
    width, height = grid.cells[:, None].unbind(-1)  # [B, 1, S] each
    x, y = grid.center_distances(boxes)  # [B, n, S] each
    near = torch.maximum(x / width, y / height) < _CENTER_RADIUS
    left, top, right, bottom = _side_distances(grid, boxes)
    reach = torch.maximum(torch.maximum(left, right) / width, torch.maximum(top, bottom) / height)  # in cells

    # A level begins where the finer one ends; the first begins at 0, the last does not end.
    first_of_level = [sum(grid.level_sizes[:k]) for k in range(len(grid.level_sizes))]
    cell = torch.stack([grid.cells[:, k] for k in first_of_level], 1).mean(-1)  # [B, levels]
    lowest = torch.cat([cell.new_zeros(len(cell), 1), _MAX_REACH * cell[:, :-1] / cell[:, 1:]], 1)
    highest = torch.full_like(cell, _MAX_REACH)
    highest[:, -1:] = torch.inf
    lowest, highest = (_per_location(bound, grid.level_sizes) for bound in (lowest, highest))  # [B, 1, S] each
    return (near & (reach > lowest) & (reach <= highest)).float()


def _atss(grid: _Grid, boxes: Tensor, padding: Tensor) -> Tensor:
    """Quality [B, n, S]: IoU of the anchor where it reaches mean + standard deviation of the candidates, else 0.

    Args:
        grid: S locations.
        boxes: [B, n, 4] as corners.
        padding: bool [B, S].
    """
    overlap = pairwise_iou(boxes, grid.anchors)  # [B, n, S]
    x, y = grid.center_distances(boxes)
    width, height = grid.cells[:, None].unbind(-1)
    distance = torch.stack([x / width, y / height]).norm(dim=0).masked_fill(padding[:, None], torch.inf)

    # candidates: the k nearest of each level (algorithm 1, lines 3 to 6)
    candidate = torch.zeros_like(distance, dtype=torch.bool)
    sizes = list(grid.level_sizes)
    for of_level, chosen in zip(torch.split(distance, sizes, 2), torch.split(candidate, sizes, 2), strict=True):
        chosen.scatter_(2, of_level.topk(min(_ATSS_TOPK, of_level.shape[2]), largest=False).indices, True)
    candidate &= ~padding[:, None]

    # the threshold (lines 7 to 10), over the candidates alone
    count = candidate.sum(2, keepdim=True)  # [B, n, 1]
    mean = (overlap * candidate).sum(2, keepdim=True) / count.clamp(min=1)
    deviation = (((overlap - mean).square() * candidate).sum(2, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return overlap * (candidate & (overlap >= mean + deviation - _EPS))


def _tood(grid: _Grid, boxes: Tensor, usable: Tensor, scores: Tensor, pred_boxes: Tensor) -> Tensor:
    """Quality [B, n, S]: IoU of the predicted box, at the locations of highest score * IoU^6, else 0.

    Early in training all scores are alike and boxes may miss every object. So the IoU is at least a tenth of that of
    the anchor, which prefers locations of the right level; and of equals, the location nearer the center wins.

    Args:
        grid: S locations.
        boxes: [B, n, 4] as corners.
        usable: bool [B, n, S].
        scores: [B, n, S], logarithm of the probability of the class of the object.
        pred_boxes: [B, S, 4] as corners.
    """
    overlap = pairwise_iou(boxes, pred_boxes).nan_to_num(0)  # [B, n, S]
    overlap = torch.maximum(overlap, pairwise_iou(boxes, grid.anchors) / 10).clamp(min=_EPS)
    x, y = grid.center_distances(boxes)
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_EPS)[..., None].unbind(-2)  # [B, n, 1] each
    off_center = torch.maximum(x / width, y / height)  # 0..0.5 inside
    alignment = (scores + _TOOD_BETA * overlap.log() - 0.01 * off_center).masked_fill(~usable, -torch.inf)
    best = alignment.topk(min(_TOOD_TOPK, alignment.shape[2])).indices
    return overlap * torch.zeros_like(usable).scatter_(2, best, True)


def _side_distances(grid: _Grid, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances of locations to the left, top, right and bottom of boxes [B, n, 4], each [B, n, S]; outside < 0."""
    (x, y), (x1, y1, x2, y2) = grid.centers[:, None].unbind(-1), boxes[..., None].unbind(-2)  # [B, 1, S], [B, n, 1]
    return x - x1, y - y1, x2 - x, y2 - y


def _per_location(of_level: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """Repeat a value per level, [B, levels], for each location of the level, [B, 1, S]."""
    parts = zip(torch.split(of_level[:, None], 1, 2), level_sizes, strict=True)
    return torch.cat([value.expand(-1, 1, size) for value, size in parts], 2)


def _fetch(locations: Locations, boxes: Sequence[Tensor], images: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Bring the arguments of `_assign_left_out` for some images to the CPU, in one transfer."""
    parts = []
    for i, target_boxes in zip(images, boxes, strict=True):
        # in cells of the first location, whose width and height are the same number of pixels
        cell = locations.cells[i, :1].float()
        centers = locations.centers[i].float() / cell
        parts += [centers, locations.padding[i].float(), target_boxes[:, :2].float() / cell]
    flat = torch.cat([part.flatten() for part in parts]).cpu() if parts else torch.zeros(0)
    pieces = torch.split(flat, [part.numel() for part in parts])
    fetched = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return [(fetched[k], fetched[k + 1] > 0, fetched[k + 2]) for k in range(0, len(fetched), 3)]


def _assign_left_out(assigned: Tensor, counts: Tensor, centers: Tensor, padding: Tensor, gt_centers: Tensor) -> None:
    """Give each object without a location the nearest spare one: unassigned, or of an object with several; on the CPU.

    Args:
        assigned: int64 [S], the object of each location, -1: none; changed in place.
        counts: int64 [n], number of locations of each object; changed in place.
        centers: float [S, 2], of the locations.
        padding: bool [S].
        gt_centers: float [n, 2], centers of the objects.
    """
    for k in (counts == 0).nonzero().flatten().tolist():
        spare = ~padding & ((assigned < 0) | (counts[assigned] > 1))  # [S]
        if not spare.any():
            return
        distance = (centers - gt_centers[k]).square().sum(1)
        nearest = int(distance.where(spare, torch.inf).argmin())
        if assigned[nearest] >= 0:
            counts[assigned[nearest]] -= 1
        assigned[nearest], counts[k] = k, 1
