"""Where the decoder's queries come from: learned vectors, learned anchors, or the best places of the image.

A query has a content [D], a position [D] and, but for the classic ones, a reference box that says where it looks.
Shapes: B batch, N queries in all, of which Q are those of inference, D channels, C classes, S places of all levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detrkit.models.denoising import NoisedQueries
from detrkit.models.dense_head import PRIOR
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import MLP
from detrkit.models.layers.position_encoding import sine_of_boxes
from detrkit.ops.boxes import inverse_sigmoid
from detrkit.structures import Branch, Output


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from. The Q queries of inference come first, those of training alone after them."""

    contents: Tensor
    """[B, N, D]."""
    ids: Tensor
    """int64 [B, N], who may see whom; see `denoising.separate`."""
    runs: dict[str, int]
    """How many queries of each kind there are, in their order: "" (inference), "groups", "hybrid", "dn"."""
    position: Tensor | None = None
    """[B, N, D]; None: computed from the reference at each decoder layer."""
    reference: Tensor | None = None
    """[B, N, 4], or [B, N, 2] for a point, in 0..1; None: none."""
    logits: Tensor | None = None
    """[B, N, C], the scores of the places that the queries come from; None: none."""
    proposals: Branch | None = None
    """What the encoder's own head said of the chosen places."""

    def join(self, noised: NoisedQueries, position: Tensor | None) -> Queries:
        """These queries and the denoising ones after them, at `position` where positions are given."""
        assert self.reference is not None
        logits = None
        if self.logits is not None:
            said_nothing = self.logits.new_full((*noised.ids.shape, self.logits.shape[-1]), PRIOR)
            logits = torch.cat([self.logits, said_nothing], 1)
        return replace(
            self,
            contents=torch.cat([self.contents, noised.contents.to(self.contents.dtype)], 1),
            ids=torch.cat([self.ids, noised.ids], 1),
            runs={**self.runs, "dn": noised.ids.shape[1]},
            position=None if self.position is None or position is None else torch.cat([self.position, position], 1),
            reference=torch.cat([self.reference, noised.boxes], 1),
            logits=logits,
        )


@dataclass(frozen=True)
class Counts:
    """How many queries there are."""

    queries: int
    """Q, in inference and training."""
    groups: int = 1
    """Groups of Q queries in training (Chen et al. 2023, "Group DETR")."""
    hybrid: int = 0
    """Further queries in training, for one-to-many matching (Jia et al. 2023, "H-DETR")."""

    @property
    def total(self) -> int:
        """N."""
        return self.groups * self.queries + self.hybrid

    def runs(self, training: bool) -> dict[str, int]:
        """How many of each kind, in their order."""
        if not training:
            return {"": self.queries}
        runs = {"": self.queries, "groups": (self.groups - 1) * self.queries, "hybrid": self.hybrid}
        return {name: count for name, count in runs.items() if count or not name}

    def ids(self, training: bool, batch: int, device: torch.device) -> Tensor:
        """Who may see whom, int64 [B, N]: 0 for the first Q, then -1, -2, ... for each group and the hybrid ones."""
        ids = torch.arange(self.groups, device=device).repeat_interleave(self.queries)
        if training and self.hybrid:
            ids = torch.cat([ids, ids.new_full((self.hybrid,), self.groups)])
        return -(ids if training else ids[: self.queries]).expand(batch, -1)


class LearnedQueries(nn.Embedding):
    """The classic ones: a learned vector that is added as a position; contents start at zero (DETR, section 3.2)."""

    def __init__(self, counts: Counts, dim: int) -> None:
        super().__init__(counts.total, dim)
        self.counts = counts

    def forward(  # type: ignore[override]  # it gives all its rows
        self, memory: Memory, dense: Output | None = None
    ) -> Queries:
        """Memory, of which only the batch size matters -> Queries without a reference."""
        batch, runs = memory.tokens.shape[0], self.counts.runs(self.training)
        position = self.weight[: sum(runs.values())].expand(batch, -1, -1)
        ids = self.counts.ids(self.training, batch, position.device)
        return Queries(torch.zeros_like(position), ids, runs, position)


class PointQueries(nn.Module):
    """Learned contents and positions, the latter also telling a point (Deformable DETR, section 4.1)."""

    def __init__(self, counts: Counts, dim: int) -> None:
        super().__init__()
        self.counts = counts
        self.query = nn.Embedding(counts.total, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Memory, of which only the batch size matters -> Queries whose references are points."""
        batch, runs = memory.tokens.shape[0], self.counts.runs(self.training)
        rows = self.query.weight[: sum(runs.values())].expand(batch, -1, -1)
        position, contents = rows.chunk(2, dim=-1)
        ids = self.counts.ids(self.training, batch, position.device)
        return Queries(contents, ids, runs, position, self.reference_points(position).sigmoid())


class AnchorQueries(nn.Module):
    """Learned boxes and contents (Liu et al. 2022, "DAB-DETR", section 4.2)."""

    def __init__(self, counts: Counts, dim: int) -> None:
        super().__init__()
        self.counts = counts
        self.contents = nn.Embedding(counts.total, dim)
        self.anchors = nn.Embedding(counts.total, 4)
        nn.init.uniform_(self.anchors.weight, 0.05, 0.95)
        with torch.no_grad():
            self.anchors.weight[:, 2:].mul_(0.4)
            self.anchors.weight.copy_(inverse_sigmoid(self.anchors.weight))

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Memory, of which only the batch size matters -> Queries."""
        batch, runs = memory.tokens.shape[0], self.counts.runs(self.training)
        count = sum(runs.values())
        contents = self.contents.weight[:count].expand(batch, -1, -1)
        ids = self.counts.ids(self.training, batch, contents.device)
        return Queries(contents, ids, runs, reference=self.anchors.weight[:count].sigmoid().expand(batch, -1, -1))


class SineBoxPosition(nn.Module):
    """The position of a query from its box: its sines through an MLP (DAB-DETR, equation 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = MLP(2 * dim, dim, dim, num_layers=2)

    def forward(self, boxes: Tensor) -> Tensor:
        """[B, N, 4] -> [B, N, D]."""
        encoded: Tensor = self.mlp(sine_of_boxes(boxes, self.dim // 2))
        return encoded


class PlainBoxPosition(nn.Module):
    """The position of a query from its box: the four numbers through an MLP (RT-DETR)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = MLP(4, 2 * dim, dim, num_layers=2)

    def forward(self, boxes: Tensor) -> Tensor:
        """[B, N, 4] -> [B, N, D]."""
        encoded: Tensor = self.mlp(boxes)
        return encoded
