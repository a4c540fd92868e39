"""DETR: backbone, transformer and prediction heads put together (Carion et al. 2020, "End-to-End Object Detection with
Transformers", figure 2), with every later idea as a part that can be left out.

"The reference DETR" is https://github.com/facebookresearch/detr throughout this package.

Shapes: B images per batch, H x W pixels, h x w cells of a feature level, S tokens of all levels, D channels, Q queries
(N with those of training), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrkit.models.arguments import as_targets
from detrkit.models.backbones.base import Backbone
from detrkit.models.denoising import Denoising, NoisedQueries
from detrkit.models.dense_head import DenseHead
from detrkit.models.detection_model import Color, DetectionModel
from detrkit.models.dynamic_mask_head import DynamicMaskHead
from detrkit.models.frozen import freeze
from detrkit.models.layers.feature_levels import Level, Memory
from detrkit.models.layers.feed_forward import LayerList
from detrkit.models.layers.input_proj import ChannelMapper, SingleLevelProj
from detrkit.models.layers.mlp import run_in_float32
from detrkit.models.mask_head import MASK_PARTS, AttentionMap, MaskHead, add_prefix, remove_prefix
from detrkit.models.mask_predictor import AttentionMaskPredictor, DynamicMaskPredictor, MaskPredictor
from detrkit.models.queries import AnchorQueries, LearnedQueries, PointQueries, Queries
from detrkit.models.transformer import Transformer
from detrkit.models.two_stage import SelectedQueries
from detrkit.structures import Branch, Output, Target

QuerySource = LearnedQueries | PointQueries | AnchorQueries | SelectedQueries


class DETR(DetectionModel):
    """Images to a set of objects. The state-dict keys of the classic model are those of the reference DETR.

    `build_model` makes the parts and puts them together.

    Args:
        backbone: network from images to feature maps.
        input_proj: projection of each feature map to D channels.
        transformer: encoder and decoder.
        query_embed: source of the object queries.
        class_embed: head from hidden states [B, N, D] to class logits; a ModuleList has one head per decoder layer.
        bbox_embed: head from hidden states [B, N, D] to box logits [B, N, 4]; likewise.
        sigmoid: whether classes are independent sigmoids, without "no object", instead of a softmax with it.
        aux_loss: whether the output has the earlier decoder layers.
        dense_head: predicts at every location; in training only, unless it selects the queries.
        denoising: makes queries from the ground-truth objects, in training only.
        k_one2many: how often each object is matched among the one-to-many queries.
        bbox_attention: attention maps for a classic `mask_head`.
        mask_head: predicts masks; the backbone then returns high-resolution maps for it before those for `input_proj`.
    """

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
        bbox_attention: AttentionMap | None = None,
        mask_head: MaskHead | DynamicMaskHead | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed
        self.query_embed = query_embed
        self.input_proj = input_proj
        self.backbone = backbone
        self.dense_head = dense_head
        self.denoising = denoising
        self.sigmoid, self.aux_loss, self.k_one2many = sigmoid, aux_loss, k_one2many
        self.bbox_attention = bbox_attention
        self.mask_head = mask_head
        if mask_head is not None:
            self.register_state_dict_post_hook(add_prefix)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(remove_prefix)  # type: ignore[no-untyped-call]
        self.model_args = {}  # keywords of `build_model`

    def forward_detection(
        self,
        images: Tensor,
        padding_mask: Tensor,
        targets: Sequence[Target] | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """Detect as `forward` does, but leave the masks to `Output.predict_masks`.

        With `last_only`, in evaluation, `aux` is empty and nothing is computed for it alone.
        """
        images = self.normalize(images, padding_mask)  # float [B, 3, H, W]
        maps = self.backbone(images)  # [B, C_l, h_l, w_l] per stride, finest first
        high_res_features, maps = maps[: self.backbone.num_high_res], maps[self.backbone.num_high_res :]
        levels = self.backbone.to_levels(self.input_proj(maps), padding_mask)  # Levels: features [B, D, h_l, w_l]
        memory = self.transformer.encoder(levels)  # Memory: tokens [B, S, D]

        dense = None
        if self.dense_head and (self.branches_active or self.dense_selects_queries):
            dense = self.dense_head(memory)  # Output: logits [B, S, C], boxes [B, S, 4]
        queries = self.query_embed(memory, dense)  # Queries: content [B, Q, D], more of them in training
        queries, noised = self._add_denoising(queries, targets)  # content [B, N, D]

        layer_outputs, hs = self.transformer.decoder(queries, memory, self._class_logits, self._box_logits, last_only)
        matching = queries.layout.slices["matching"]
        out = self._output(layer_outputs, matching)  # logits [B, Q, C + 1] or [B, Q, C], boxes [B, Q, 4]
        if self.mask_head:
            image_size = images.shape[-2], images.shape[-1]
            features = levels, high_res_features, memory, padding_mask
            predictor = self._mask_predictor(hs[:, matching], out.boxes, *features, image_size)
            out = replace(out, predict_masks=predictor, padded_size=image_size)
        if not self.branches_active:
            return out
        return replace(out, branches=self._branches(layer_outputs, queries, noised, dense, memory))

    def freeze_detector(self) -> None:
        """Freeze everything but the mask head, as in the second stage of the reference DETR."""
        freeze(parameter for name, parameter in self.named_parameters() if not name.startswith(MASK_PARTS))
        self.train(self.training)

    def checkpoint_activations(self) -> None:
        """Recompute the layers of encoder and decoder in the backward pass, for less memory; see `LayerList`."""
        for layers in (self.transformer.encoder.layers, self.transformer.decoder.layers):
            assert isinstance(layers, LayerList)
            layers.checkpointed = True

    @property
    def branches_active(self) -> bool:
        """Whether the training-only branches (dense head, denoising, query groups) are active.

        That is in training, unless the decoder is frozen.
        """
        return self.training and self.transformer.decoder.training

    def _add_denoising(
        self, queries: Queries, targets: Sequence[Target] | None
    ) -> tuple[Queries, NoisedQueries | None]:
        """Append the denoising queries, in training."""
        if self.denoising is None or not self.branches_active or targets is None:
            return queries, None
        targets = as_targets(targets, images=len(queries.content), device=queries.content.device)
        noised: NoisedQueries = self.denoising(targets)  # content [B, T, D], boxes [B, T, 4]
        query_pos = None
        if isinstance(self.query_embed, SelectedQueries) and self.query_embed.kind == "two_stage":
            query_pos, _ = self.query_embed.encode(noised.boxes)
        return queries.join(noised, query_pos), noised

    def _class_logits(self, layer: int, hs: Tensor) -> Tensor:
        """Class logits of one decoder layer: [B, N, D] -> [B, N, C or C + 1]."""
        head = self.class_embed[layer] if isinstance(self.class_embed, nn.ModuleList) else self.class_embed
        return run_in_float32(head, hs)

    def _box_logits(self, layer: int, hs: Tensor) -> Tensor:
        """Box logits of one decoder layer: [B, N, D] -> [B, N, 4]."""
        head = self.bbox_embed[layer] if isinstance(self.bbox_embed, nn.ModuleList) else self.bbox_embed
        return run_in_float32(head, hs)

    def _output(self, layer_outputs: Sequence[Output], part: slice) -> Output:
        """The predictions of all decoder layers for one part of the queries."""
        *earlier, last = [
            Output(out.logits[:, part], out.boxes[:, part], sigmoid=self.sigmoid) for out in layer_outputs
        ]
        return replace(last, aux=earlier if self.aux_loss else [])

    def _branches(
        self,
        layer_outputs: Sequence[Output],
        queries: Queries,
        noised: NoisedQueries | None,
        dense: Output | None,
        memory: Memory,
    ) -> list[Branch]:
        """The training-only outputs, in the order of their losses.

        Which of them there are depends on the settings alone, not on how many queries an image can fill: all processes
        must have the same ones.
        """
        slices = queries.layout.slices
        configured = self.query_embed.layout.in_mode(self.query_embed.training)
        branches = []
        if configured.groups > 1:
            out = self._output(layer_outputs, slices["groups"])
            branches.append(Branch("groups", out, groups=configured.groups - 1))
        if configured.one2many:
            out = self._output(layer_outputs, slices["one2many"])
            branches.append(Branch("one2many", out, repeat=self.k_one2many))
        if noised:
            out = self._output(layer_outputs, slices["denoising"])
            branches.append(Branch("dn", out, pairs=noised.pairs, ignored=noised.unused))
        if queries.proposals:
            branches.append(queries.proposals)
        if dense:
            branches.append(Branch("dense", dense, locations=memory.locations))
        return branches

    def _mask_predictor(
        self,
        hs: Tensor,
        boxes: Tensor,
        levels: Sequence[Level],
        high_res_features: Sequence[Tensor],
        memory: Memory,
        padding_mask: Tensor,
        image_size: tuple[int, int],
    ) -> MaskPredictor:
        """Compute all that masks have in common, and return the predictor of single masks.

        Args:
            hs: hidden states of the last decoder layer, [B, Q, D].
            boxes: boxes of the last decoder layer, [B, Q, 4].
            levels: input of the encoder.
            high_res_features: maps of the backbone for masks alone, finest first.
            memory: output of the encoder.
            padding_mask: padding of the images, bool [B, H, W], True = padding.
            image_size: (H, W).
        """
        device = hs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        maps = memory.maps()  # [B, D, h_l, w_l] per level
        if isinstance(self.mask_head, DynamicMaskHead):
            maps = [*high_res_features, *maps]
            shared = self.mask_head.features(maps, self.backbone.paddings(maps, padding_mask))  # [B, 8, H / 4, W / 4]
            return DynamicMaskPredictor(image_size, device, dtype, self.mask_head, shared, hs, boxes)
        assert self.mask_head
        assert self.bbox_attention
        (level,), (encoded,) = levels, maps
        attention = self.bbox_attention(hs, encoded, level.padding)  # [B, Q, heads, h, w]
        return AttentionMaskPredictor(
            image_size, device, dtype, self.mask_head, level.features, high_res_features, attention
        )

    @property
    def dense_selects_queries(self) -> bool:
        """Whether the dense head selects the queries, and so is part of inference."""
        return isinstance(self.query_embed, SelectedQueries) and not self.query_embed.own_head

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        head = self.class_embed[-1] if isinstance(self.class_embed, nn.ModuleList) else self.class_embed
        assert isinstance(head, nn.Linear)
        return head.out_features - (not self.sigmoid)

    @property
    def float32_heads(self) -> list[nn.Module]:
        """Heads that compute in float32, also under autocast."""
        heads = [self.class_embed, self.bbox_embed]
        if self.dense_head:
            heads += [self.dense_head.class_embed, self.dense_head.bbox_embed]
        if isinstance(self.query_embed, SelectedQueries) and self.query_embed.own_head:
            heads += [self.query_embed.enc_class, self.query_embed.enc_bbox]
        return heads

    @property
    def num_queries(self) -> int:
        """Q, the largest number of objects that can be detected in one image."""
        return self.query_embed.layout.matching

    @property
    def mean(self) -> Color:
        """Mean of each color channel (RGB in 0..1), that of the backbone's weights by default."""
        return self.backbone.mean

    @property
    def std(self) -> Color:
        """Standard deviation of each color channel (RGB in 0..1), likewise."""
        return self.backbone.std

    @property
    def makes_masks(self) -> bool:
        """Whether the model has a mask head."""
        return self.mask_head is not None

    @property
    def compiled_parts(self) -> list[nn.Module]:
        """The backbone, the encoder, the dense head and the decoder's layers.

        The code between them looks at targets or makes queries of the best tokens: it is a small part of the work, and
        differs from batch to batch.
        """
        parts = [self.backbone, self.transformer.encoder, *self.transformer.decoder.layers]
        return [*parts, self.dense_head] if self.dense_head else parts

    @property
    def stride(self) -> int:
        """Stride of the last map of the backbone in pixels."""
        return self.backbone.stride
