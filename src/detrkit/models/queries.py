"""Object queries: learned vectors or learned anchors; those selected from the image are in `two_stage`.

A query has a content, a position and, but for those of the classic model, a reference box or point that states where in
the image it looks.

Shapes: B batch, N queries in all, of which Q are those of inference, D channels, C classes, S tokens of all levels.
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
class QueryLayout:
    """Division of the N queries of the decoder into parts, which lie one after another in this order."""

    matching: int
    """Q, the queries of inference; in training they are matched one-to-one."""
    groups: int = 1
    """Groups of Q queries in training, the `matching` ones being the first (Chen et al. 2023, "Group DETR")."""
    one2many: int = 0
    """Further queries in training, for one-to-many matching (Jia et al. 2023, "H-DETR")."""
    denoising: int = 0
    """Slots of denoising queries in training; see `denoising`."""

    @property
    def total(self) -> int:
        """N."""
        return self.groups * self.matching + self.one2many + self.denoising

    @property
    def slices(self) -> dict[str, slice]:
        """The rows of each part among the N queries; "groups" are those after the first."""
        sizes = {
            "matching": self.matching,
            "groups": (self.groups - 1) * self.matching,
            "one2many": self.one2many,
            "denoising": self.denoising,
        }
        parts, start = {}, 0
        for name, size in sizes.items():
            parts[name] = slice(start, start + size)
            start += size
        return parts

    def in_mode(self, training: bool) -> QueryLayout:
        """This layout in training, its `matching` queries alone in evaluation."""
        return self if training else QueryLayout(self.matching)

    def group_ids(self, batch: int, device: torch.device) -> Tensor:
        """Ids for `build_attn_mask`, int64 [B, N]: 0 for the first Q, then -1, -2, ... per group and for one2many.

        Denoising queries bring their own.
        """
        ids = torch.arange(self.groups, device=device).repeat_interleave(self.matching)
        if self.one2many:
            ids = torch.cat([ids, ids.new_full((self.one2many,), self.groups)])
        return -ids.expand(batch, -1)


def build_attn_mask(group_ids: Tensor) -> Tensor:
    """Self-attention mask of the queries: group ids int64 [B, N] -> bool [B, 1, N, N], True = row may attend to column.

    Queries attend to those of their own id. Id 0 are the queries of inference. Ids above 0 are denoising groups, which
    attend to id 0 too; no other query attends to them, since they know the objects. Ids below 0 are the other groups
    of training, and unused slots.
    """
    same_group = group_ids[:, :, None] == group_ids[:, None, :]  # [B, N, N]
    denoising_to_matching = (group_ids > 0)[:, :, None] & (group_ids == 0)[:, None, :]
    return (same_group | denoising_to_matching)[:, None]


@dataclass(frozen=True)
class Queries:
    """Input of the decoder: N queries, divided as in `layout`."""

    content: Tensor
    """float [B, N, D], the initial embeddings, which the decoder layers change."""
    group_ids: Tensor
    """int64 [B, N], which queries may attend to which; see `build_attn_mask`."""
    layout: QueryLayout
    query_pos: Tensor | None = None
    """float [B, N, D], the position embeddings; None: each decoder layer computes them from `reference`."""
    reference: Tensor | None = None
    """float [B, N, 4], boxes cx, cy, w, h, or [B, N, 2], points x, y, in 0..1; None for the classic model."""
    logits: Tensor | None = None
    """float [B, N, C], class logits of the tokens that the queries were selected from; None: not selected."""
    proposals: Branch | None = None
    """Predictions of the encoder's own head for the selected tokens, to be supervised; None without that head."""

    def join(self, noised: NoisedQueries, query_pos: Tensor | None) -> Queries:
        """Append denoising queries, at `query_pos` [B, slots, D] where queries have explicit positions."""
        assert self.reference is not None
        logits = None
        if self.logits is not None:
            no_evidence = self.logits.new_full((*noised.group_ids.shape, self.logits.shape[-1]), PRIOR)
            logits = torch.cat([self.logits, no_evidence], 1)
        if self.query_pos is not None and query_pos is not None:
            query_pos = torch.cat([self.query_pos, query_pos], 1)
        return replace(
            self,
            content=torch.cat([self.content, noised.content.to(self.content.dtype)], 1),
            group_ids=torch.cat([self.group_ids, noised.group_ids], 1),
            layout=replace(self.layout, denoising=noised.group_ids.shape[1]),
            query_pos=query_pos,
            reference=torch.cat([self.reference, noised.boxes], 1),
            logits=logits,
        )


class LearnedQueries(nn.Embedding):
    """Queries of the classic model (DETR, section 3.2): learned position embeddings; contents start at zero.

    Args:
        layout: division of the queries in training.
        dim: D.
    """

    def __init__(self, layout: QueryLayout, dim: int) -> None:
        super().__init__(layout.total, dim)
        self.layout = layout

    def forward(  # type: ignore[override]  # all rows, not those of given indices
        self, memory: Memory, dense: Output | None = None
    ) -> Queries:
        """Return Queries without reference for `memory`, of which only the batch size matters."""
        batch, layout = memory.tokens.shape[0], self.layout.in_mode(self.training)
        query_pos = self.weight[: layout.total].expand(batch, -1, -1)  # [B, N, D]
        return Queries(torch.zeros_like(query_pos), layout.group_ids(batch, query_pos.device), layout, query_pos)


class PointQueries(nn.Module):
    """Queries of one-stage Deformable DETR (section 4.1): learned content and position, and a point predicted from it.

    Args:
        layout: division of the queries in training.
        dim: D.
    """

    def __init__(self, layout: QueryLayout, dim: int) -> None:
        super().__init__()
        self.layout = layout
        self.query = nn.Embedding(layout.total, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Return Queries whose references are points for `memory`, of which only the batch size matters."""
        batch, layout = memory.tokens.shape[0], self.layout.in_mode(self.training)
        rows = self.query.weight[: layout.total].expand(batch, -1, -1)  # [B, N, 2 * D]
        query_pos, content = rows.chunk(2, dim=-1)
        points = self.reference_points(query_pos).sigmoid()  # [B, N, 2], x and y
        return Queries(content, layout.group_ids(batch, content.device), layout, query_pos, points)


class AnchorQueries(nn.Module):
    """Learned anchor boxes and contents (Liu et al. 2022, "DAB-DETR", section 4.2).

    Args:
        layout: division of the queries in training.
        dim: D.
    """

    def __init__(self, layout: QueryLayout, dim: int) -> None:
        super().__init__()
        self.layout = layout
        self.contents = nn.Embedding(layout.total, dim)
        self.anchors = nn.Embedding(layout.total, 4)  # logits of cx, cy, w, h
        nn.init.uniform_(self.anchors.weight, 0.05, 0.95)
        with torch.no_grad():
            self.anchors.weight[:, 2:].mul_(0.4)  # sides of 0.02 to 0.38 of the image
            self.anchors.weight.copy_(inverse_sigmoid(self.anchors.weight))

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Return Queries at the anchors for `memory`, of which only the batch size matters."""
        batch, layout = memory.tokens.shape[0], self.layout.in_mode(self.training)
        content = self.contents.weight[: layout.total].expand(batch, -1, -1)  # [B, N, D]
        anchors = self.anchors.weight[: layout.total].sigmoid().expand(batch, -1, -1)  # [B, N, 4]
        return Queries(content, layout.group_ids(batch, content.device), layout, reference=anchors)


class SineBoxPosition(nn.Module):
    """Position embedding of a box: MLP(PE(cx, cy, w, h)), PE being sines and cosines (DAB-DETR, equation 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = MLP(2 * dim, dim, dim, num_layers=2)

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes [B, N, 4] -> [B, N, D]."""
        return self.mlp(sine_of_boxes(boxes, self.dim // 2))  # D / 2 channels per number: [B, N, 2 * D] -> [B, N, D]


class PlainBoxPosition(nn.Module):
    """Position embedding of a box: MLP(cx, cy, w, h) (Zhao et al. 2024, "RT-DETR")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = MLP(4, 2 * dim, dim, num_layers=2)

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes [B, N, 4] -> [B, N, D]."""
        return self.mlp(boxes)
