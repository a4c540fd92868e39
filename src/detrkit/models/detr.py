"""DETR: backbone, transformer and heads put together (Carion et al. 2020, "End-to-End Object Detection with
Transformers", figure 2), with every later idea as a part that can be left out.

Shapes: B images per batch, H x W pixels, Q queries, C classes, D channels of the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from torch import Tensor, nn

from detrkit.models.arguments import as_targets
from detrkit.models.backbones.resnet import Backbone
from detrkit.models.denoising import Denoising, NoisedQueries
from detrkit.models.dense_head import DenseHead
from detrkit.models.dynamic_mask_head import DynamicMaskHead
from detrkit.models.frozen import freeze, frozen_parts
from detrkit.models.layers.feature_levels import Level, Memory
from detrkit.models.layers.feed_forward import LayerList
from detrkit.models.layers.input_proj import ChannelMapper, SingleLevelProj
from detrkit.models.layers.mlp import run_in_float32
from detrkit.models.mask_head import (
    MASK_PARTS,
    AttentionMap,
    MaskHead,
    Segmenter,
    add_prefix,
    all_queries,
    remove_prefix,
)
from detrkit.models.queries import AnchorQueries, LearnedQueries, PointQueries, Queries
from detrkit.models.transformer import Transformer
from detrkit.models.two_stage import SelectedQueries
from detrkit.structures import Branch, Output, Target

QuerySource = LearnedQueries | PointQueries | AnchorQueries | SelectedQueries


class DETR(nn.Module):
    """Images in, a set of objects out. The state-dict keys of the classic model are those of the original's files."""

    def __init__(
        self,
        backbone: Backbone,
        input_proj: SingleLevelProj | ChannelMapper,
        transformer: Transformer,
        query_embed: QuerySource,
        class_embed: nn.Module,
        bbox_embed: nn.Module,
        *,
        sigmoid: bool = False,
        aux_loss: bool = True,
        dense_head: DenseHead | None = None,
        denoising: Denoising | None = None,
        k_one2many: int = 1,
        square_resize: bool = False,
        bbox_attention: AttentionMap | None = None,
        mask_head: MaskHead | DynamicMaskHead | None = None,
    ) -> None:
        """Put finished parts together; `build_model` makes them.

        Args:
            backbone: images to feature maps.
            input_proj: feature maps to D channels each.
            transformer: encoder and decoder.
            query_embed: where queries come from.
            class_embed: from D channels to class logits; a list has one head a decoder layer.
            bbox_embed: from D channels to 4 numbers; likewise.
            sigmoid: the logits are an independent sigmoid per class, without "no object".
            aux_loss: whether the output has the earlier decoder layers.
            dense_head: predicts at every place; where queries are not seeded by it, in training only.
            denoising: makes queries of the objects, in training.
            k_one2many: how many of the hybrid queries each object is matched with.
            square_resize: whether images are to be resized to squares, whatever their shape; noted for those who do it.
            bbox_attention: where queries look, for a classic `mask_head`.
            mask_head: makes masks; the backbone then gives high-resolution maps for it, before those for `input_proj`.
        """
        super().__init__()
        self.transformer = transformer
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed
        self.query_embed = query_embed
        self.input_proj = input_proj
        self.backbone = backbone
        self.dense_head = dense_head
        self.denoising = denoising
        self.sigmoid, self.aux_loss, self.k_one2many, self.square_resize = sigmoid, aux_loss, k_one2many, square_resize
        self.bbox_attention = bbox_attention
        self.mask_head = mask_head
        if mask_head is not None:
            self.register_state_dict_post_hook(add_prefix)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(remove_prefix)  # type: ignore[no-untyped-call]
        self.model_args: dict[str, Any] = {}
        """The keywords of `build_model` that made it; empty where parts were put together otherwise."""

    def forward(self, images: Tensor, padding_mask: Tensor, targets: Sequence[Target] | None = None) -> Output:
        """Normalised images [B, 3, H, W] and their padding [B, H, W] (bool, True = padding) -> Output.

        Images of uint8 are RGB pixels, which are normalised here: they are a quarter as large on their way.
        In training, `targets` feed the denoising queries, and nothing else; masks are made later, of matched queries.
        """
        out = self.forward_detection(images, padding_mask, targets)
        if self.training or out.predict_masks is None:
            return out
        masks = out.predict_masks(*all_queries(out.boxes))
        return replace(out, masks=masks.view(*out.boxes.shape[:2], *masks.shape[1:]))

    def forward_detection(
        self,
        images: Tensor,
        padding_mask: Tensor,
        targets: Sequence[Target] | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """All that `forward` does but for the masks, which `Output.predict_masks` makes of the queries that are wanted.

        With `last_only`, which is for evaluation, nothing is computed for `aux` alone, and it is empty.
        """
        images = self.backbone.normalise(images, padding_mask)
        maps = self.backbone(images)
        high_res_features, maps = maps[: self.backbone.num_high_res], maps[self.backbone.num_high_res :]
        levels = self.backbone.place(self.input_proj(maps), padding_mask)
        memory = self.transformer.encoder(levels)
        dense = self.dense_head(memory) if self.dense_head and (self._teaching or self.seeded_by_dense) else None
        queries, noised = self._with_denoising(self.query_embed(memory, dense), targets)
        layers, hidden = self.transformer.decoder(queries, memory, self._classes, self._boxes, last_only)
        out, branches = self._split(layers, queries.runs, noised)
        if self.mask_head:
            size = images.shape[-2], images.shape[-1]
            make = self._masks(
                hidden[:, : self.num_queries], out.boxes, memory, levels, high_res_features, padding_mask
            )
            out = replace(out, predict_masks=Segmenter(make, size, images.device.type), padded_size=size)
        if not self._teaching:
            return out
        if queries.proposals:
            branches.append(queries.proposals)
        if dense:
            branches.append(Branch("dense", dense, locations=memory.locations))
        return replace(out, branches=branches)

    def freeze_detector(self) -> None:
        """Let nothing but the mask head learn: the original's second stage."""
        freeze(parameter for name, parameter in self.named_parameters() if not name.startswith(MASK_PARTS))
        self.train(self.training)

    def checkpoint_activations(self) -> None:
        """Trade time for memory in training, at the layers of encoder and decoder; see `transformer.LayerList`."""
        for layers in (self.transformer.encoder.layers, self.transformer.decoder.layers):
            assert isinstance(layers, LayerList)
            layers.checkpointed = True

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; what is frozen stays in evaluation mode, see `models.frozen`."""
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        return self

    @property
    def _teaching(self) -> bool:
        """Whether what only teaches the detector takes part: in training, unless its decoder is frozen."""
        return self.training and self.transformer.decoder.training

    def _with_denoising(
        self, queries: Queries, targets: Sequence[Target] | None
    ) -> tuple[Queries, NoisedQueries | None]:
        """In training, the queries and those made of the objects after them."""
        if self.denoising is None or not self._teaching or targets is None:
            return queries, None
        targets = as_targets(targets, images=len(queries.contents), device=queries.contents.device)
        noised: NoisedQueries = self.denoising(targets)
        position = None
        if isinstance(self.query_embed, SelectedQueries) and self.query_embed.kind == "two_stage":
            position, _ = self.query_embed.encode(noised.boxes)
        return queries.join(noised, position), noised

    def _classes(self, layer: int, objects: Tensor) -> Tensor:
        """Class logits of a decoder layer: [B, N, D] -> [B, N, C or C + 1]."""
        head = self.class_embed[layer] if isinstance(self.class_embed, nn.ModuleList) else self.class_embed
        return run_in_float32(head, objects)

    def _boxes(self, layer: int, objects: Tensor) -> Tensor:
        """What a decoder layer says of the boxes, before the sigmoid: [B, N, D] -> [B, N, 4]."""
        head = self.bbox_embed[layer] if isinstance(self.bbox_embed, nn.ModuleList) else self.bbox_embed
        return run_in_float32(head, objects)

    def _split(
        self, layers: Sequence[Output], runs: Mapping[str, int], noised: NoisedQueries | None
    ) -> tuple[Output, list[Branch]]:
        """The output for the queries of inference, and a branch for each further run of queries."""
        outputs, start = {}, 0
        for name, count in runs.items():
            part = slice(start, start + count)
            *earlier, last = [
                Output(layer.logits[:, part], layer.boxes[:, part], sigmoid=self.sigmoid) for layer in layers
            ]
            outputs[name] = replace(last, aux=earlier if self.aux_loss else [])
            start += count
        branches = []
        if "groups" in outputs:
            branches.append(Branch("groups", outputs["groups"], groups=runs["groups"] // runs[""]))
        if "hybrid" in outputs:
            branches.append(Branch("hybrid", outputs["hybrid"], repeat=self.k_one2many))
        if noised:
            branches.append(Branch("dn", outputs["dn"], pairs=noised.pairs, ignored=noised.unused))
        return outputs[""], branches

    def _masks(
        self,
        objects: Tensor,
        boxes: Tensor,
        memory: Memory,
        levels: Sequence[Level],
        high_res_features: Sequence[Tensor],
        padding_mask: Tensor,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """What makes masks of pairs, images [N] and queries [N], once it is known which ones are wanted.

        Args:
            objects: what the last decoder layer made of the queries, [B, Q, D].
            boxes: its boxes, [B, Q, 4].
            memory: of the encoder.
            levels: what the encoder was given.
            high_res_features: the backbone's maps for masks alone, finest first.
            padding_mask: of the images.
        """
        maps = memory.maps()
        if isinstance(self.mask_head, DynamicMaskHead):
            dynamic, maps = self.mask_head, [*high_res_features, *maps]
            features = dynamic.features(maps, self.backbone.paddings(maps, padding_mask))
            return lambda images, queries: dynamic(features, images, objects[images, queries], boxes[images, queries])
        assert self.mask_head
        assert self.bbox_attention
        head, (level,), (seen,) = self.mask_head, levels, maps
        attention = self.bbox_attention(objects, seen, level.padding)
        return lambda images, queries: head(level.features, high_res_features, images, attention[images, queries])

    @property
    def seeded_by_dense(self) -> bool:
        """Whether the dense head picks the queries, and so is part of inference."""
        return isinstance(self.query_embed, SelectedQueries) and not self.query_embed.own_head

    @property
    def num_classes(self) -> int:
        """C."""
        head = self.class_embed[-1] if isinstance(self.class_embed, nn.ModuleList) else self.class_embed
        assert isinstance(head, nn.Linear)
        return head.out_features - (not self.sigmoid)

    @property
    def exact_heads(self) -> list[nn.Module]:
        """The heads that compute in float32 also under autocast."""
        heads = [self.class_embed, self.bbox_embed]
        if self.dense_head:
            heads += [self.dense_head.class_embed, self.dense_head.bbox_embed]
        if isinstance(self.query_embed, SelectedQueries) and self.query_embed.own_head:
            heads += [self.query_embed.enc_class, self.query_embed.enc_bbox]
        return heads

    @property
    def num_queries(self) -> int:
        """Q, the most objects that can be found in one image."""
        return self.query_embed.counts.queries

    @property
    def input_mean(self) -> tuple[float, float, float]:
        """Mean of each colour channel (RGB, in 0..1) to subtract from an image."""
        return self.backbone.input_mean

    @property
    def input_std(self) -> tuple[float, float, float]:
        """Standard deviation of each colour channel (RGB, in 0..1) to divide by afterwards."""
        return self.backbone.input_std

    @property
    def stride(self) -> int:
        """Pixels of the image, in each direction, that one place of the backbone's last map stands for."""
        return self.backbone.stride
