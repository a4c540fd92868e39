"""The decoder of DETR: object queries to class scores and boxes, all at once (paper, section 3.2 and figure 10).

Position encodings are added to queries and keys, never to values. Shapes: B batch, S tokens of all feature levels, Q
object queries, N with those of training, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.models.denoising import separate
from detrkit.models.layers.attention import MultiheadAttention, keys_to_keep
from detrkit.models.layers.conditional_attention import ConditionalAttention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Memory
from detrkit.models.layers.feed_forward import FeedForward, LayerList, initialise
from detrkit.models.queries import Queries
from detrkit.ops.boxes import inverse_sigmoid
from detrkit.structures import Output


class Decoder(nn.Module):
    """Queries that talk to each other and look at the image."""

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
        """Prepare.

        Args:
            layers: from first to last.
            norm: before the heads, or None.
            query_position: makes the positions of queries from their boxes; None: they have them.
            box_refine: see `forward`.
            look_forward_twice: let the boxes of a layer also teach the layer before.
            score_refine: see `forward`.
        """
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
        """What each layer says, first to last: logits [B, N, C or C + 1] and boxes [B, N, 4]; and what the heads of the
        last one saw, [B, N, D].

        A box is what the head says, added to the logit of the reference box if there is one (Deformable DETR, section
        4.2). With `box_refine` it becomes the reference of the next layer, cut off from the gradient; with
        `look_forward_twice` the loss of a box still reaches the layer before (DINO, section 3.5). `score_refine` does
        to the class scores what refinement does to the boxes: a layer says how the scores before it have to change.
        Since its heads start at zero, an untrained decoder already says what the seeds said.

        Args:
            queries: N of them.
            memory: the image.
            class_embed: (layer, [B, N, D]) -> logits.
            bbox_embed: (layer, [B, N, D]) -> [B, N, 4].
            last_only: give what the last layer says alone; the heads of the others run only where a layer goes on from
                what they say.
        """
        objects, reference, scores = queries.contents, queries.reference, queries.logits
        reached = reference  # the same boxes, with the gradient that look_forward_twice lets through
        keep = keys_to_keep(memory.padding)
        seen = separate(queries.ids) if len(queries.runs) > 1 else None
        outputs = []
        for i, layer in enumerate(self.layers):
            position = queries.position if self.query_position is None else self.query_position(reference)
            objects = self.layers.run(layer, objects, position, reference, memory, keep, seen)
            hidden = objects if self.norm is None else self.norm(objects)
            wanted = not last_only or i == len(self.layers) - 1
            if wanted or self.score_refine:
                logits = class_embed(i, hidden)
            if wanted or self.box_refine:
                change = bbox_embed(i, hidden).float()
            if self.score_refine:
                logits = logits.float() + (0 if scores is None else scores)
                scores = logits.detach()
            if wanted:
                outputs.append(Output(logits, refined(change, reached)))
            if self.box_refine:
                closer = refined(change, reference)
                reference, reached = closer.detach(), closer if self.look_forward_twice else closer.detach()
        return outputs, hidden


def refined(change: Tensor, reference: Tensor | None) -> Tensor:
    """The box that a change [..., 4] makes of a reference box [..., 4], point [..., 2] or nothing; in 0..1."""
    if reference is None:
        return change.sigmoid()
    before = inverse_sigmoid(reference.float())
    if before.shape[-1] == 2:  # a point has no size yet
        before = F.pad(before, (0, 2))
    return (change + before).sigmoid()


class DecoderLayer(FeedForward):
    """Self-attention among the queries, cross-attention into the image, feed-forward."""

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
        initialise(self)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor | None,
        memory: Memory,
        keep: Tensor,
        seen: Tensor | None = None,
    ) -> Tensor:
        """One step of all queries.

        Args:
            x: contents so far, [B, Q, D].
            position: [B, Q, D].
            reference: boxes [B, Q, 4] or points [B, Q, 2]; None for dense attention.
            memory: the image.
            keep: places to look at, [B, 1, 1, S].
            seen: which query may see which, [B, 1, Q, Q]; None: all see all.

        Returns:
            [B, Q, D].
        """
        place = (position, reference, memory, keep)
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), position, seen)
            x = x + self._look(self.norm2(x), *place)
            return x + self.feed_forward(self.norm3(x))
        x = self.norm1(x + self._attend(x, position, seen))
        x = self.norm2(x + self._look(x, *place))
        out: Tensor = self.norm3(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, position: Tensor, seen: Tensor | None) -> Tensor:
        asking = x + position
        out: Tensor = self.dropout(self.self_attn(asking, asking, x, seen))
        return out

    def _look(self, x: Tensor, position: Tensor, reference: Tensor | None, memory: Memory, keep: Tensor) -> Tensor:
        if isinstance(self.multihead_attn, MultiheadAttention):
            places = memory.tokens + memory.position.to(memory.tokens.dtype)
            found = self.multihead_attn(x + position, places, memory.tokens, keep)
        elif isinstance(self.multihead_attn, DeformableAttention):
            found = self.multihead_attn(x + position, reference, memory)
        else:
            found = self.multihead_attn(x, reference, memory)
        out: Tensor = self.dropout(found)
        return out
