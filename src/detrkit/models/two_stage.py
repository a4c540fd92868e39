"""Queries from the best places of the image (Deformable DETR, section 4.2, "two-stage").

Shapes: B batch, N queries in all, of which Q are those of inference, D channels, C classes, S tokens of all levels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrkit.models.dense_head import PRIOR, best_locations
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import MLP, run_in_float32
from detrkit.models.layers.position_encoding import sine_of_boxes
from detrkit.models.queries import Counts, Queries
from detrkit.structures import Branch, Output


class SelectedQueries(nn.Module):
    """The best places of the image (Deformable DETR, section 4.2, "two-stage").

    Places are ranked by a head of its own on the encoder's tokens or, where the model has one that shall seed, by the
    dense head. What is made of the chosen boxes and features depends on `kind`:

        two_stage         position and content encode the box (Deformable DETR, appendix A.4)
        topk_features     the content is the feature of the location (Zhao et al. 2024, "RT-DETR")
        mixed_selection   the content is learned (Zhang et al. 2023, "DINO", section 3.4, mixed query selection)

    Groups share their boxes and differ in their contents, so they need `mixed_selection`.
    """

    def __init__(
        self,
        counts: Counts,
        dim: int,
        rows: int,
        kind: str,
        *,
        sigmoid: bool,
        own_head: bool,
        query_nms_iou: float = 0.0,
        class_agnostic: bool = False,
    ) -> None:
        """Prepare.

        Args:
            counts: of the queries.
            dim: D.
            rows: of the class logits: C, or C + 1 with a softmax.
            kind: two_stage, topk_features or mixed_selection.
            sigmoid: an independent sigmoid per class; False: a softmax whose last row is "no object".
            own_head: rank by a head of its own; False: by the dense head.
            query_nms_iou: see `best_locations`.
            class_agnostic: rank by the first class alone, which then means "something".
        """
        super().__init__()
        self.counts, self.kind, self.query_nms_iou, self.class_agnostic = counts, kind, query_nms_iou, class_agnostic
        self.own_head, self.sigmoid = own_head, sigmoid
        if own_head:
            self.enc_output, self.enc_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
            nn.init.xavier_uniform_(self.enc_output.weight)
            self.enc_class, self.enc_bbox = nn.Linear(dim, rows), MLP(dim, dim, 4, num_layers=3)
            if sigmoid:
                nn.init.constant_(self.enc_class.bias, PRIOR)
            for parameter in self.enc_bbox.layers[-1].parameters():  # an untrained head proposes the anchors
                nn.init.zeros_(parameter)
        if kind == "two_stage":
            self.box_trans, self.box_norm = nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim)
        if kind == "mixed_selection":
            self.contents = nn.Embedding(counts.total, dim)

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Memory and, where it seeds, what the dense head said -> Queries."""
        counts = self._fitting(memory.tokens.shape[1])
        fitted = counts.runs(self.training)
        # if need be empty ones: all processes must have the same, whatever the sizes of their images
        runs = {name: fitted.get(name, 0) for name in self.counts.runs(self.training)}
        if self.own_head:
            anchors, usable = proposal_anchors(memory)
            features = self.enc_norm(self.enc_output(memory.tokens * usable))
            boxes = (run_in_float32(self.enc_bbox, features).float() + anchors).sigmoid()
            said = Output(run_in_float32(self.enc_class, features), boxes, sigmoid=self.sigmoid)
        else:
            assert dense is not None
            said = dense
            features = memory.tokens
        with torch.no_grad():
            scores = said.logits if said.sigmoid else said.logits.softmax(-1)[..., :-1]
            ranks = scores[..., 0] if self.class_agnostic else scores.amax(-1)
            if not self.class_agnostic:  # published two-stage models rank padding with the rest
                ranks = ranks.masked_fill(memory.padding, -torch.inf)
            places, single = best_locations(
                ranks, said.boxes, counts.queries + runs.get("hybrid", 0), self.query_nms_iou
            )
        logits, boxes = _take(said.logits, places), _take(said.boxes, places)
        found = _take(features, places)
        proposals = None
        if self.own_head:
            chosen = Output(logits[:, : counts.queries], boxes[:, : counts.queries], sigmoid=self.sigmoid)
            proposals = Branch("enc", chosen, class_agnostic=self.class_agnostic)
            found = found.detach()  # taught by the losses of that head, not by those of the decoder
        logits, boxes = logits.detach(), boxes.detach().clamp(0, 1)
        logits = logits.where(single[..., None], logits.new_tensor(PRIOR))
        order = self._order(counts, places.device)
        boxes, logits, found = boxes[:, order], logits[:, order], found[:, order]
        position = None
        if self.kind == "two_stage":
            position, contents = self.encode(boxes)
        else:
            contents = found if self.kind == "topk_features" else self._contents(counts).expand(boxes.shape[0], -1, -1)
        ids = counts.ids(self.training, boxes.shape[0], boxes.device)
        return Queries(contents, ids, runs, position, boxes, logits, proposals)

    def encode(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Position and content of queries at boxes [B, N, 4], each [B, N, D]; for two_stage."""
        encoded = self.box_norm(self.box_trans(sine_of_boxes(boxes, self.box_trans.in_features // 4)))
        position, content = encoded.chunk(2, dim=-1)
        return position, content

    def _fitting(self, places: int) -> Counts:
        """No more queries than there are places. Padded places count: where an image has fewer of its own than there
        are queries, padded ones fill up, as the last."""
        queries = min(self.counts.queries, places)
        return replace(self.counts, queries=queries, hybrid=min(self.counts.hybrid, places - queries))

    def _order(self, counts: Counts, device: torch.device) -> Tensor:
        """Which chosen place each query takes: every group the same, the hybrid ones those that follow."""
        ranks = torch.arange(counts.queries, device=device)
        if not self.training:
            return ranks
        further = torch.arange(counts.queries, counts.queries + counts.hybrid, device=device)
        return torch.cat([ranks.repeat(counts.groups), further])

    def _contents(self, counts: Counts) -> Tensor:
        """The learned contents of as many queries as there are, [N, D]."""
        learned: Tensor = self.contents.weight
        if not self.training:
            return learned[: counts.queries]
        starts = [group * self.counts.queries for group in range(self.counts.groups)]
        further = self.counts.groups * self.counts.queries
        rows = [learned[start : start + counts.queries] for start in starts]
        return torch.cat([*rows, learned[further : further + counts.hybrid]])


def proposal_anchors(memory: Memory, size: float = 0.05, margin: float = 0.01) -> tuple[Tensor, Tensor]:
    """A box at every place, as logits [B, S, 4], and which places can be used [B, S, 1].

    Its side is 0.05 of the image on the finest level and doubles with each level; places in the padding or within
    `margin` of the image's border are not used (Deformable DETR, appendix A.4).
    """
    located = memory.locations
    sides = [located.centers.new_full((n, 2), size * 2**level) for level, n in enumerate(located.level_sizes)]
    side = torch.cat(sides).expand(located.centers.shape)
    boxes = torch.cat([located.centers, side], -1)
    usable = ((boxes > margin) & (boxes < 1 - margin)).all(-1, keepdim=True) & ~located.padding[..., None]
    return (boxes / (1 - boxes)).log().masked_fill(~usable, torch.inf), usable


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """The rows [B, S, K] at places [B, N] -> [B, N, K]."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))
