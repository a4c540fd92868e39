"""Queries selected from the tokens of the image (Zhu et al. 2021, "Deformable DETR", section 4.2, "two-stage").

Shapes: B batch, N queries in all, of which Q are those of inference, K selected tokens, D channels, C classes, S tokens
of all levels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrkit.models.dense_head import PRIOR, best_locations
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.mlp import MLP, run_in_float32
from detrkit.models.layers.position_encoding import sine_of_boxes
from detrkit.models.queries import Queries, QueryLayout
from detrkit.structures import Branch, Output


class SelectedQueries(nn.Module):
    """Queries made of the K tokens with the highest class scores (Deformable DETR, section 4.2 and appendix A.4).

    A head predicts for token i, with features m_i and anchor a_i (see `proposal_anchors`),

        f_i = LayerNorm(Linear(m_i))    p_i = sigmoid(Linear(f_i))    b_i = sigmoid(MLP(f_i) + logit(a_i))

    `enc_output` and `enc_norm` are those of f, `enc_class` of p, `enc_bbox` of b. Without a head of its own, the dense
    head of the model predicts p_i and b_i, and f_i = m_i. The K tokens of highest max_c p_ic become queries, whose
    references are their b_i. Their content and position depend on `kind`:

        two_stage         (position, content) = LayerNorm(Linear(PE(b_i)))  (Deformable DETR, appendix A.4)
        topk_features     content f_i                                     (Zhao et al. 2024, "RT-DETR")
        mixed_selection   content learned                                 (Zhang et al. 2023, "DINO", section 3.4)

    K is Q, and `one2many` more in training. Groups share their boxes and differ in their learned contents alone, so
    they need `mixed_selection`.

    Args:
        layout: division of the queries in training.
        dim: D.
        num_logits: class logits per token: C, or C + 1 with a softmax.
        kind: two_stage, topk_features or mixed_selection.
        sigmoid: whether classes are independent sigmoids; False: a softmax whose last class is "no object".
        own_head: whether a head of its own ranks the tokens; False: the dense head of the model.
        query_nms_iou: see `best_locations`.
        class_agnostic: whether the head ranks by the first class alone, which then stands for any object.
    """

    def __init__(
        self,
        layout: QueryLayout,
        dim: int,
        num_logits: int,
        kind: str,
        *,
        sigmoid: bool,
        own_head: bool,
        query_nms_iou: float = 0.0,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.layout, self.kind, self.query_nms_iou, self.class_agnostic = layout, kind, query_nms_iou, class_agnostic
        self.own_head, self.sigmoid = own_head, sigmoid
        if own_head:
            self.enc_output, self.enc_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
            nn.init.xavier_uniform_(self.enc_output.weight)
            self.enc_class, self.enc_bbox = nn.Linear(dim, num_logits), MLP(dim, dim, 4, num_layers=3)
            if sigmoid:
                nn.init.constant_(self.enc_class.bias, PRIOR)
            for parameter in self.enc_bbox.layers[-1].parameters():  # an untrained head proposes the anchors
                nn.init.zeros_(parameter)
        if kind == "two_stage":
            self.box_trans, self.box_norm = nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim)
        if kind == "mixed_selection":
            self.contents = nn.Embedding(layout.total, dim)

    def forward(self, memory: Memory, dense: Output | None = None) -> Queries:
        """Select queries from `memory`; `dense` has the predictions of the dense head, where that ranks the tokens."""
        layout = self._fit(memory.tokens.shape[1])
        # Predictions per token: logits [B, S, C], boxes [B, S, 4]; features [B, S, D]
        if self.own_head:
            anchors, usable = proposal_anchors(memory)  # logits [B, S, 4], bool [B, S, 1]
            features = self.enc_norm(self.enc_output(memory.tokens * usable))
            boxes = (run_in_float32(self.enc_bbox, features).float() + anchors).sigmoid()
            preds = Output(run_in_float32(self.enc_class, features), boxes, sigmoid=self.sigmoid)
        else:
            assert dense is not None
            features, preds = memory.tokens, dense

        # The K best tokens, best first: indices [B, K]; `single` [B, K] is False for duplicates
        with torch.no_grad():
            indices, single = best_locations(
                self._ranks(preds, memory.padding), preds.boxes, layout.matching + layout.one2many, self.query_nms_iou
            )
        logits, boxes, features = (gather_tokens(x, indices) for x in (preds.logits, preds.boxes, features))

        # An own head is supervised through the first Q tokens; the losses of the decoder do not reach it
        proposals = None
        if self.own_head:
            first = slice(layout.matching)
            chosen = Output(logits[:, first], boxes[:, first], sigmoid=self.sigmoid)
            proposals = Branch("enc", chosen, class_agnostic=self.class_agnostic)
            features = features.detach()
        logits, boxes = logits.detach(), boxes.detach().clamp(0, 1)
        logits = logits.where(single[..., None], logits.new_tensor(PRIOR))  # a duplicate starts without evidence

        # From K tokens to N queries: every group takes the first Q
        order = self._order(layout, indices.device)  # [N]
        boxes, logits, features = boxes[:, order], logits[:, order], features[:, order]
        query_pos = None
        if self.kind == "two_stage":
            query_pos, content = self.encode(boxes)
        elif self.kind == "topk_features":
            content = features
        else:
            content = self._learned_content(layout).expand(boxes.shape[0], -1, -1)  # [B, N, D]
        group_ids = layout.group_ids(boxes.shape[0], boxes.device)
        return Queries(content, group_ids, layout, query_pos, boxes, logits, proposals)

    def encode(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Position and content of two_stage queries at boxes [B, N, 4], [B, N, D] each."""
        sines = sine_of_boxes(boxes, self.box_trans.in_features // 4)  # [B, N, 2 * D]
        query_pos, content = self.box_norm(self.box_trans(sines)).chunk(2, dim=-1)
        return query_pos, content

    def _fit(self, tokens: int) -> QueryLayout:
        """The layout of this mode with no more queries than there are tokens.

        Padded tokens count: where an image has fewer tokens of its own than there are queries, padded ones come last.
        """
        layout = self.layout.in_mode(self.training)
        matching = min(layout.matching, tokens)
        return replace(layout, matching=matching, one2many=min(layout.one2many, tokens - matching))

    def _ranks(self, preds: Output, padding: Tensor) -> Tensor:
        """Scores to rank the tokens by, [B, S]."""
        scores = preds.logits if preds.sigmoid else preds.logits.softmax(-1)[..., :-1]  # [B, S, C]
        if self.class_agnostic:  # published two-stage models rank padding with the rest
            return scores[..., 0]
        return scores.amax(-1).masked_fill(padding, -torch.inf)

    def _order(self, layout: QueryLayout, device: torch.device) -> Tensor:
        """The rank of the token that each query takes, int64 [N]: 0..Q-1 in every group, then Q.. for one2many."""
        ranks = torch.arange(layout.matching, device=device)
        if not self.training:
            return ranks
        one2many = torch.arange(layout.matching, layout.matching + layout.one2many, device=device)
        return torch.cat([ranks.repeat(layout.groups), one2many])

    def _learned_content(self, layout: QueryLayout) -> Tensor:
        """The learned contents of a layout that may have fewer queries than the full one, [N, D]."""
        learned, full = self.contents.weight, self.layout
        if not self.training:
            return learned[: layout.matching]
        starts = [group * full.matching for group in range(full.groups)]
        one2many = full.groups * full.matching
        rows = [learned[start : start + layout.matching] for start in starts]
        return torch.cat([*rows, learned[one2many : one2many + layout.one2many]])


def proposal_anchors(memory: Memory, size: float = 0.05, margin: float = 0.01) -> tuple[Tensor, Tensor]:
    """Anchor boxes of the tokens as logits [B, S, 4], and a mask of the usable tokens, bool [B, S, 1].

    The side of an anchor is `size` of the image on the finest level and doubles with each level. Tokens in the padding
    and those within `margin` of the border of the image are not usable (Deformable DETR, appendix A.4); the logits of
    their anchors are infinite.
    """
    locations = memory.locations
    sides = [locations.centers.new_full((n, 2), size * 2**level) for level, n in enumerate(locations.level_sizes)]
    boxes = torch.cat([locations.centers, torch.cat(sides).expand(locations.centers.shape)], -1)  # [B, S, 4]
    usable = ((boxes > margin) & (boxes < 1 - margin)).all(-1, keepdim=True) & ~locations.padding[..., None]
    return (boxes / (1 - boxes)).log().masked_fill(~usable, torch.inf), usable


def gather_tokens(x: Tensor, indices: Tensor) -> Tensor:
    """Select the tokens [B, S, X] at indices [B, K] -> [B, K, X]."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))
