"""The transformer of DETR: its encoder looks over the picture, its decoder turns queries into objects at once.

Paper, section 3.2 and figure 10. Position encodings are added to queries and keys at every attention, never to
values. Shapes: B batch, S places of all feature levels, Q object queries, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from detrkit.boxes import inverse_sigmoid
from detrkit.models.attention import MultiheadAttention, keys_to_keep
from detrkit.models.conditional import ConditionalAttention
from detrkit.models.deformable import DeformableAttention
from detrkit.models.denoising import separate
from detrkit.models.levels import Level, Memory, flatten
from detrkit.models.queries import Queries
from detrkit.structures import Output

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


class LayerList(nn.ModuleList):
    """Layers of an encoder or decoder, which may keep nothing of their insides for the backward pass.

    What they were given is kept, and they run again when their gradient is wanted (Chen et al. 2016, "Training Deep
    Nets with Sublinear Memory Cost"), with the same dropout: the same gradient for less memory and more time.
    """

    checkpointed = False

    def run(self, layer: nn.Module, *args: object) -> Tensor:
        """What one of the layers makes of its arguments."""
        out: Tensor
        if self.checkpointed and torch.is_grad_enabled():
            out = checkpoint(layer, *args, use_reentrant=False)
        else:
            out = layer(*args)
        return out


class Transformer(nn.Module):
    """Encoder and decoder, under the original's keys."""

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder


class Encoder(nn.Module):
    """Self-attention over the places of the picture, of all levels together."""

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.LayerNorm | None, level_embed: Tensor | None) -> None:
        """Prepare.

        Args:
            layers: dense or deformable.
            norm: at the end, or None.
            level_embed: [L, D], what tells the levels apart, learned (Deformable DETR, section 4.1); None for one.
        """
        super().__init__()
        self.layers = LayerList(layers)
        self.norm = norm
        self.level_embed = None if level_embed is None else nn.Parameter(level_embed)

    def forward(self, levels: Sequence[Level]) -> Memory:
        """Feature levels, finest first -> Memory."""
        if self.level_embed is not None:
            which = self.level_embed[:, :, None, None]
            levels = [replace(level, position=level.position + e) for level, e in zip(levels, which, strict=True)]
        memory = flatten(levels)
        for layer in self.layers:
            memory = replace(memory, tokens=self.layers.run(layer, memory))
        return memory if self.norm is None else replace(memory, tokens=self.norm(memory.tokens))


class Decoder(nn.Module):
    """Queries that talk to each other and look at the picture."""

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
            memory: the picture.
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


class FeedForward(nn.Module):
    """The two linear layers of a block. A base class, since the original's keys have them directly in the layer."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        # glu halves what it is given, so it is given twice as much
        self.linear1 = nn.Linear(dim, dim_feedforward * (2 if activation == "glu" else 1))
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], with dropout inside and after."""
        out: Tensor = self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return out


class EncoderLayer(FeedForward):
    """Self-attention and feed-forward, each with a residual connection and a norm after (or before) it."""

    def __init__(
        self,
        self_attn: MultiheadAttention | DeformableAttention,
        dim: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        pre_norm: bool,
    ) -> None:
        super().__init__(dim, dim_feedforward, dropout, activation)
        self.pre_norm = pre_norm
        self.self_attn = self_attn
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        _initialise(self)

    def forward(self, memory: Memory) -> Tensor:
        """The picture -> its tokens after this layer, [B, S, D]."""
        x = memory.tokens
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), memory)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, memory))
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, memory: Memory) -> Tensor:
        located = x + memory.position.to(x.dtype)
        if isinstance(self.self_attn, DeformableAttention):
            found = self.self_attn(located, memory.locations.centers, replace(memory, tokens=x))
        else:
            found = self.self_attn(located, located, x, keys_to_keep(memory.padding))
        out: Tensor = self.dropout(found)
        return out


class DecoderLayer(FeedForward):
    """Self-attention among the queries, cross-attention into the picture, feed-forward."""

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
        _initialise(self)

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
            memory: the picture.
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


def _initialise(layer: EncoderLayer | DecoderLayer) -> None:
    """Xavier's uniform for every matrix, as the original; attention around references begins in its own way."""
    children = (
        child for child in layer.children() if not isinstance(child, DeformableAttention | ConditionalAttention)
    )
    for module in (m for child in children for m in child.modules()):
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
