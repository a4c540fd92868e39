"""The decoder of DETR: object queries to class scores and boxes, all at once (paper, section 3.2 and figure 10).

Position embeddings are added to queries and keys, never to values.

Shapes: B batch, S tokens of all feature levels, Q object queries, N with those of training, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.layers.attention import MultiheadAttention, padding_to_attn_mask
from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.feed_forward import FeedForward, LayerList, initialize
from detrkit.models.queries import Queries, build_attn_mask
from detrkit.ops.boxes import inverse_sigmoid
from detrkit.structures import Output


class Decoder(nn.Module):
    """Decoder layers, each followed by the prediction heads.

    With x the hidden states and r the reference boxes of layer i, and F the heads, layer i predicts the boxes

        b_i = sigmoid(F(x_i) + logit(r_i))    (Deformable DETR, section 4.2 and appendix A.4)

    Without box refinement, r_i is the reference of the queries in all layers. With it, r_{i+1} = detach(b_i); and with
    `look_forward_twice`, the box that is returned is sigmoid(F(x_i) + logit(b_{i-1})), whose loss reaches layer i - 1
    as well (DINO, section 3.5). With `score_refine`, class logits are the sum of the changes that all layers so far
    predict. The heads of changes start at zero, so an untrained decoder returns the scores of the selected tokens.

    Args:
        layers: decoder layers, from first to last.
        norm: norm between the layers and the heads; None: there is none.
        query_position: module from boxes [B, N, 4] to position embeddings [B, N, D]; None: the queries have them.
        box_refine: whether each layer refines the boxes of the layer before.
        look_forward_twice: whether the loss of a box also reaches the layer before.
        score_refine: whether each layer refines the class logits of the layer before.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        norm: nn.LayerNorm | None,
        query_position: nn.Module | None = None,
        *,
        box_refine: bool = False,
        look_forward_twice: bool = False,
        score_refine: bool = False,
    ) -> None:
        super().__init__()
        self.layers = LayerList(layers)
        self.norm = norm
        self.query_position = query_position
        self.box_refine, self.look_forward_twice, self.score_refine = box_refine, look_forward_twice, score_refine

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        class_embed: Callable[[int, Tensor], Tensor],
        bbox_embed: Callable[[int, Tensor], Tensor],
        last_only: bool = False,
    ) -> tuple[list[Output], Tensor]:
        """Decode the queries.

        Args:
            queries: N of them.
            memory: output of the encoder.
            class_embed: (layer, hidden states [B, N, D]) -> class logits.
            bbox_embed: (layer, hidden states [B, N, D]) -> box logits [B, N, 4].
            last_only: return the predictions of the last layer alone; the heads of the others run only where the next
                layer refines their predictions.

        Returns:
            The predictions of each layer, first to last: logits [B, N, C or C + 1] and boxes [B, N, 4]; and the hidden
            states of the last layer, as its heads get them, [B, N, D].
        """
        x, reference, logits_so_far = queries.content, queries.reference, queries.logits
        reference_with_grad = reference  # the same boxes, with the gradient that look_forward_twice lets through
        memory_mask = padding_to_attn_mask(memory.padding)  # [B, 1, 1, S]
        # queries of inference alone all attend to each other
        alone = queries.layout.total == queries.layout.matching
        attn_mask = None if alone else build_attn_mask(queries.group_ids)  # [B, 1, N, N]
        outputs = []
        for i, layer in enumerate(self.layers):
            query_pos = queries.query_pos if self.query_position is None else self.query_position(reference)
            x = self.layers.run(layer, x, query_pos, reference, memory, memory_mask, attn_mask)  # [B, N, D]
            hs = x if self.norm is None else self.norm(x)
            returned = not last_only or i == len(self.layers) - 1
            if returned or self.score_refine:
                logits = class_embed(i, hs)  # [B, N, C or C + 1]
            if returned or self.box_refine:
                change = bbox_embed(i, hs).float()  # [B, N, 4], in logits
            if self.score_refine:
                logits = logits.float() + (0 if logits_so_far is None else logits_so_far)
                logits_so_far = logits.detach()
            if returned:
                outputs.append(Output(logits, refine_boxes(change, reference_with_grad)))
            if self.box_refine:
                refined = refine_boxes(change, reference)
                reference = refined.detach()
                reference_with_grad = refined if self.look_forward_twice else reference
        return outputs, hs


def refine_boxes(change: Tensor, reference: Tensor | None) -> Tensor:
    """Add a change [..., 4], in logits, to reference boxes [..., 4], points [..., 2] or nothing -> boxes in 0..1."""
    if reference is None:
        return change.sigmoid()
    before = inverse_sigmoid(reference.float())
    if before.shape[-1] == 2:  # a point has no size yet
        before = F.pad(before, (0, 2))
    return (change + before).sigmoid()


class DecoderLayer(FeedForward):
    """Self-attention among the queries, cross-attention to the tokens of the image, and a feed-forward network.

    Args:
        self_attn: attention among the queries.
        cross_attn: attention from the queries to the memory.
        dim: D.
        dim_feedforward: width of the feed-forward network.
        dropout: probability, 0..1.
        activation: activation of the feed-forward network, one of `ACTIVATIONS`.
        pre_norm: whether norms come before the blocks instead of after.
    """

    def __init__(
        self,
        self_attn: MultiheadAttention,
        cross_attn: MultiheadAttention | ConditionalAttention | DeformableAttention,
        dim: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        pre_norm: bool,
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.pre_norm = pre_norm
        self.self_attn = self_attn
        self.multihead_attn = cross_attn
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        initialize(self)

    def forward(
        self,
        x: Tensor,
        query_pos: Tensor,
        reference: Tensor | None,
        memory: Memory,
        memory_mask: Tensor,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Update the hidden states of all queries.

        Args:
            x: hidden states so far, [B, N, D].
            query_pos: position embeddings, [B, N, D].
            reference: boxes [B, N, 4] or points [B, N, 2]; None for full attention.
            memory: output of the encoder.
            memory_mask: tokens to attend to, bool [B, 1, 1, S], True = attend.
            attn_mask: pairs of queries that attend to each other, bool [B, 1, N, N], True = attend; None: all.

        Returns:
            [B, N, D].
        """
        if self.pre_norm:
            x = x + self._self_attention(self.norm1(x), query_pos, attn_mask)
            x = x + self._cross_attention(self.norm2(x), query_pos, reference, memory, memory_mask)
            return x + self.feed_forward(self.norm3(x))
        x = self.norm1(x + self._self_attention(x, query_pos, attn_mask))
        x = self.norm2(x + self._cross_attention(x, query_pos, reference, memory, memory_mask))
        return self.norm3(x + self.feed_forward(x))

    def _self_attention(self, x: Tensor, query_pos: Tensor, attn_mask: Tensor | None) -> Tensor:
        q = k = x + query_pos
        return self.dropout(self.self_attn(q, k, x, attn_mask))

    def _cross_attention(
        self, x: Tensor, query_pos: Tensor, reference: Tensor | None, memory: Memory, memory_mask: Tensor
    ) -> Tensor:
        if isinstance(self.multihead_attn, MultiheadAttention):
            keys = memory.tokens + memory.position.to(memory.tokens.dtype)  # [B, S, D]
            out = self.multihead_attn(x + query_pos, keys, memory.tokens, memory_mask)
        elif isinstance(self.multihead_attn, DeformableAttention):
            out = self.multihead_attn(x + query_pos, reference, memory)
        else:  # conditional attention keeps content and position apart
            out = self.multihead_attn(x, reference, memory)
        return self.dropout(out)
