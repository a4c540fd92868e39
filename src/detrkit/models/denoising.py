"""Denoising queries: in training, further queries that start from the ground-truth objects themselves, with noise.

Matching is unstable early in training; a query that starts next to its object needs none (Li et al. 2022, "DN-DETR",
section 4). Contrastive denoising adds negative queries, which start further away and have to predict "no object" (Zhang
et al. 2023, "DINO", section 3.3). Each group of denoising queries contains every object once; an attention mask keeps
the groups apart, and hides the objects from the queries of inference (`queries.build_attn_mask`).

Shapes: B images per batch, T slots of denoising queries, t of them used by one image, C classes, D channels, n objects
of one image.
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
"""Group id of slots without a query; far from the small numbers -1, -2, ... of other groups."""

_OWN_CLASS = -1  # in place of a random class: that of the object
_MIN_SIDE = 1e-4  # of a box: a side of 0 has no logarithm


@dataclass(frozen=True)
class NoisedQueries:
    """The denoising queries of a batch. Those of an image do not depend on the other images, but for unused slots."""

    content: Tensor
    """float [B, T, D]."""
    boxes: Tensor
    """float [B, T, 4]; cx, cy, w, h relative to the image without padding, in 0..1, no side shorter than 1e-4."""
    group_ids: Tensor
    """int64 [B, T], the group of each slot: 1, 2, ...; unused slots are the last of their image and have `UNUSED`."""
    pairs: list[tuple[Tensor, Tensor]]
    """(slot indices, object indices) of each image, int64 on the CPU; negative queries are in no pair."""

    @property
    def unused(self) -> Tensor:
        """bool [B, T], True = no query. Losses must ignore these, or they would depend on the rest of the batch."""
        return self.group_ids == UNUSED


class Denoising(nn.Module):
    """Ground-truth objects to noised queries, each with the learned embedding of its (noised) class as content.

    With `box_noise` s, u uniform in -1..1 and (w, h) the size of the object, plain denoising (DN-DETR, section 4.2)
    moves and scales a box, contrastive denoising (DINO, section 3.3) moves its corners; negatives by |u| in 1..2:

        plain         cx + u s w / 2    cy + u s h / 2    w (1 + u s)    h (1 + u s)
        contrastive   x1 + u s w / 2    y1 + u s h / 2    x2 + u s w / 2    y2 + u s h / 2

    Args:
        dim: D.
        num_classes: C.
        budget: largest number of queries per image. As many groups as fit, each with every object of the image; if the
            objects exceed one group, a random choice of them.
        contrastive: whether each group has a positive and a negative query per object.
        label_noise: twice the probability that a query starts from a random class.
        box_noise: s, size of the noise relative to the sides of the box.

    Raises:
        ConfigError: the budget does not hold a single object.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        budget: int = 100,
        contrastive: bool = False,
        label_noise: float = 0.5,
        box_noise: float = 0.4,
    ) -> None:
        super().__init__()
        self.copies = 2 if contrastive else 1
        if budget < self.copies:
            kind = "contrastive" if contrastive else "plain"
            raise ConfigError(f"--dn_queries must be at least {self.copies} with {kind} denoising, found {budget}")
        self.label_embed = nn.Embedding(num_classes, dim)
        self.budget, self.label_noise, self.box_noise = budget, label_noise, box_noise

    def forward(self, targets: Sequence[Target]) -> NoisedQueries:
        """Make the denoising queries of B images; T is the largest number that any of them has, at least 1.

        Noise is drawn from the target's `noise_seed`, else from torch's default generator. There is always a slot, used
        or not: so `label_embed` takes part in every step, which data-parallel processes have to agree on.
        """
        drawn = [self._draw(len(target["labels"]), target.get("noise_seed")) for target in targets]
        starts = [0]  # index of the first object of each image among those of the batch
        for target in targets:
            starts.append(starts[-1] + len(target["labels"]))
        slots = max([1, *(len(one.plan) for one in drawn)])  # T
        # unused slots refer to one more object behind all others, of class 0 and as large as the image
        plan = torch.tensor([starts[-1], _OWN_CLASS, UNUSED]).repeat(len(targets), slots, 1)  # [B, T, 3]
        shift = torch.zeros(len(targets), slots, 4)
        for i, (one, start) in enumerate(zip(drawn, starts, strict=False)):
            plan[i, : len(one.plan)] = one.plan + torch.tensor([start, 0, 0])
            shift[i, : len(one.plan)] = one.shift

        # one transfer each to the device of the model, then all on it
        weight = self.label_embed.weight
        objects, random_class, group_ids = plan.to(weight.device, non_blocking=True).unbind(-1)  # [B, T] each
        labels = torch.cat([*(target["labels"] for target in targets), objects.new_zeros(1)])[objects]
        content = self.label_embed(torch.where(random_class == _OWN_CLASS, labels, random_class))  # [B, T, D]
        whole_image = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).to(weight.device, non_blocking=True)
        boxes = torch.cat([*(target["boxes"].float() for target in targets), whole_image])[objects]  # [B, T, 4]
        boxes = self._move(boxes, shift.to(weight.device, non_blocking=True))
        return NoisedQueries(content, boxes, group_ids, [one.pairs for one in drawn])

    def _draw(self, objects: int, seed: int | None) -> _Drawn:
        """Draw everything that is random about one image, on the CPU, so that it is the same on every device."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        chosen = torch.arange(objects)
        if objects * self.copies > self.budget:
            chosen = torch.randperm(objects, generator=generator)[: self.budget // self.copies]
        size = len(chosen) * self.copies  # queries per group
        groups = self.budget // max(1, size)
        # slots of a group: all positive queries, then all negative ones
        origin = chosen.repeat(groups * self.copies)  # [t]
        group_ids = torch.arange(1, groups + 1).repeat_interleave(size)  # [t]
        negative = torch.arange(self.copies).repeat_interleave(len(chosen)).repeat(groups)  # [t], 0 or 1

        # DN-DETR, section 4.2 (its code halves the setting): flipped labels
        flipped = torch.rand(len(origin), generator=generator) < self.label_noise / 2
        random_class = torch.randint(self.label_embed.num_embeddings, (len(origin),), generator=generator)
        # DINO, section 3.3: negatives lie 1 to 2 times as far away as positives at most
        shift = 2 * torch.rand(len(origin), 4, generator=generator) - 1
        shift = shift + torch.where(shift < 0, -1, 1) * negative[:, None]

        positive = (negative == 0).nonzero().flatten()
        plan = torch.stack([origin, torch.where(flipped, random_class, _OWN_CLASS), group_ids], 1)
        return _Drawn(plan, shift, (positive, origin[positive]))

    def _move(self, boxes: Tensor, shift: Tensor) -> Tensor:
        """Move boxes [B, T, 4] (cx, cy, w, h) by `shift` [B, T, 4], in units of the largest move of a positive."""
        sides, shift = boxes[..., 2:], shift * self.box_noise
        if self.copies == 1:  # DN-DETR, section 4.2: the center is moved, the sides are scaled
            moved = boxes + shift * torch.cat([sides / 2, sides], -1)
        else:  # DINO, section 3.3: the corners are moved
            corners, shift = cxcywh_to_xyxy(boxes), shift * torch.cat([sides, sides], -1) / 2
            moved = corners + shift
            # a corner that would leave the image moves the other way: clamped, a negative would be a good box
            outside = (moved < 0) | (moved > 1)
            moved = xyxy_to_cxcywh(torch.where(outside, corners - shift, moved).clamp(0, 1))
        return torch.cat([moved[..., :2].clamp(0, 1), moved[..., 2:].clamp(_MIN_SIDE, 1)], -1)


class _Drawn(NamedTuple):
    """Random choices for the t slots that one image uses."""

    plan: Tensor
    """int64 [t, 3]: index of the object, a random class or `_OWN_CLASS`, group id."""
    shift: Tensor
    """float [t, 4], the move of the box: -1..1 of the largest move of a positive; of negatives 1..2 times that."""
    pairs: tuple[Tensor, Tensor]
    """Slots of positive queries, and the objects they come from."""
