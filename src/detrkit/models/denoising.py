"""Denoising queries: further queries, in training only, that start from the objects themselves, with noise.

Matching is unstable while a model knows little; a query that starts beside its object needs none (Li et al. 2022,
"DN-DETR", section 4). Contrastive denoising adds queries that start too far off and shall say "no object" (Zhang et
al. 2023, "DINO", section 3.3). Each group of such queries holds every object once; a mask keeps groups apart, and
keeps from the queries of inference what the objects are (`separate`).

Shapes: B images per batch, Q queries, N slots of denoising queries, C classes, D channels, n objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.structures import Target

UNUSED = -(2**63)
"""The id of slots that hold no query; far from the small numbers -1, -2, ... of other groups."""

_KEEP = -1  # in place of a random class: leave the object's own
_SHORTEST = 1e-4  # of a side: what has none has no logarithm either


@dataclass(frozen=True)
class NoisedQueries:
    """The denoising queries of a batch. What an image has does not depend on the others, but for unused slots."""

    contents: Tensor
    """float [B, N, D]."""
    boxes: Tensor
    """float [B, N, 4]; cx, cy, w, h relative to the image without padding, in 0..1, no side shorter than 1e-4."""
    ids: Tensor
    """int64 [B, N], the group of each slot, 1, 2, ...; unused slots come last in their image and have `UNUSED`."""
    pairs: list[tuple[Tensor, Tensor]]
    """(slot indices, object indices) of each image, int64 in main memory; slots that shall say no are in none."""

    @property
    def unused(self) -> Tensor:
        """bool [B, N], True = no query: no loss may look at it, else an image teaches what its batch was like."""
        return self.ids == UNUSED


class Denoising(nn.Module):
    """Objects in, noised queries out; the content of a query is a learned vector of its (noised) class."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        budget: int = 100,
        contrastive: bool = False,
        label_noise: float = 0.5,
        box_noise: float = 0.4,
    ) -> None:
        """Sizes and noise.

        Args:
            dim: D.
            num_classes: C.
            budget: the most queries per image. As many groups as fit, each with every object of the image; of more
                objects than fit into one group, a random choice.
            contrastive: each group holds every object twice, near and too far off.
            label_noise: twice the chance that a query starts from a random class.
            box_noise: how far boxes are moved, relative to their sides.

        Raises:
            ConfigError: the budget does not hold a single object.
        """
        super().__init__()
        self.copies = 2 if contrastive else 1
        if budget < self.copies:
            kind = "contrastive" if contrastive else "plain"
            raise ConfigError(f"--dn_queries must be at least {self.copies} with {kind} denoising, found {budget}")
        self.label_embed = nn.Embedding(num_classes, dim)
        self.budget, self.label_noise, self.box_noise = budget, label_noise, box_noise

    def forward(self, targets: Sequence[Target]) -> NoisedQueries:
        """Targets of B images -> their denoising queries, N = the most that any image has, at least 1.

        Noise is drawn from `noise_seed` of the target, else from torch's own generator. There is always a slot, if
        unused: so `label_embed` takes part in every step, as data-parallel processes have to agree on.
        """
        drawn = [self._draw(len(target["labels"]), target.get("noise_seed")) for target in targets]
        starts = [0]
        for target in targets:
            starts.append(starts[-1] + len(target["labels"]))
        slots = max([1, *(len(one.plan) for one in drawn)])
        # Unused slots stand for one more object behind all others, class 0, as large as the image.
        plan = torch.tensor([starts[-1], _KEEP, UNUSED]).repeat(len(targets), slots, 1)
        shift = torch.zeros(len(targets), slots, 4)
        for i, (one, start) in enumerate(zip(drawn, starts, strict=False)):
            plan[i, : len(one.plan)] = one.plan + torch.tensor([start, 0, 0])
            shift[i, : len(one.plan)] = one.shift

        weight = self.label_embed.weight
        origin, other, ids = plan.to(weight.device, non_blocking=True).unbind(-1)
        labels = torch.cat([*(target["labels"] for target in targets), origin.new_zeros(1)])[origin]
        contents: Tensor = self.label_embed(torch.where(other == _KEEP, labels, other))
        whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).to(weight.device, non_blocking=True)
        boxes = torch.cat([*(target["boxes"].float() for target in targets), whole])[origin]
        return NoisedQueries(
            contents, self._move(boxes, shift.to(weight.device, non_blocking=True)), ids, [one.pairs for one in drawn]
        )

    def _draw(self, objects: int, seed: int | None) -> _Drawn:
        """Everything random about one image, in main memory, so that it is the same on every device."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        chosen = torch.arange(objects)
        if objects * self.copies > self.budget:
            chosen = torch.randperm(objects, generator=generator)[: self.budget // self.copies]
        size = len(chosen) * self.copies
        groups = self.budget // max(1, size)
        origin = chosen.repeat(groups * self.copies)
        ids = torch.arange(1, groups + 1).repeat_interleave(size)
        away = torch.arange(self.copies).repeat_interleave(len(chosen)).repeat(groups)  # 1: shall say no

        # DN-DETR, section 4.2 (its code halves the setting): flipped labels.
        flipped = torch.rand(len(origin), generator=generator) < self.label_noise / 2
        other = torch.randint(self.label_embed.num_embeddings, (len(origin),), generator=generator)
        # DINO, section 3.3: those that shall say no lie 1 to 2 times as far off as the others at most.
        shift = 2 * torch.rand(len(origin), 4, generator=generator) - 1
        shift = shift + torch.where(shift < 0, -1, 1) * away[:, None]

        near = (away == 0).nonzero().flatten()
        plan = torch.stack([origin, torch.where(flipped, other, _KEEP), ids], 1)
        return _Drawn(plan, shift, (near, origin[near]))

    def _move(self, boxes: Tensor, shift: Tensor) -> Tensor:
        """Boxes [B, N, 4] (cx, cy, w, h) moved by `shift` [B, N, 4], in units of what a true box may move at most."""
        sides, shift = boxes[..., 2:], shift * self.box_noise
        if self.copies == 1:  # DN-DETR, section 4.2: the centre is moved, the sides are scaled
            moved = boxes + shift * torch.cat([sides / 2, sides], -1)
        else:  # DINO, section 3.3: the corners are moved
            corners, shift = cxcywh_to_xyxy(boxes), shift * torch.cat([sides, sides], -1) / 2
            moved = corners + shift
            # What would leave the image goes the other way: merely clamped, one that shall say no would be true.
            outside = (moved < 0) | (moved > 1)
            moved = xyxy_to_cxcywh(torch.where(outside, corners - shift, moved).clamp(0, 1))
        return torch.cat([moved[..., :2].clamp(0, 1), moved[..., 2:].clamp(_SHORTEST, 1)], -1)


class _Drawn(NamedTuple):
    """What was drawn for the s slots that one image uses."""

    plan: Tensor
    """int64 [s, 3]: which object, another class in place of its own or `_KEEP`, the group."""
    shift: Tensor
    """float [s, 4], how far the box is moved: -1..1 of the most for true ones, 1..2 times that for the others."""
    pairs: tuple[Tensor, Tensor]
    """Slots of true boxes, and the objects they come from."""


def separate(ids: Tensor) -> Tensor:
    """Which query may see which: group ids int64 [B, Q] -> bool [B, 1, Q, Q], True = row may attend to column.

    Queries see those of their own id. Id 0 are the queries of inference. Ids above 0 are denoising groups and see
    those of id 0 too, but nobody else sees them, since they know the objects. Ids below 0 are other groups of
    training, and unused slots.
    """
    own = ids[:, :, None] == ids[:, None, :]
    inference = (ids > 0)[:, :, None] & (ids == 0)[:, None, :]
    return (own | inference)[:, None]
