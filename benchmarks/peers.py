"""The detectors that detrkit is measured against, as their own libraries make them, from random weights.

Each peer has two methods: `loss(batch)` is the scalar to minimize, `detect(batch)` the detections in the pixels of the
files. Batches are detrkit's own (`structures.Batch`), so that every model sees the same images; what a peer expects
instead is arranged here and nowhere else.

All are ResNet-18 with trainable batch norm under a feature pyramid or RT-DETR's encoder: 19 to 28 M parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.results import Detections
from detrkit.structures import Batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet: what images are normalized with, for lack of anything better known of them."""

LOWEST_SCORE = 0.01
"""Detections below it are left out. torchvision's defaults (0.05 and 0.2) would cost its detectors AP."""
MOST_DETECTIONS = 300


@dataclass(frozen=True)
class Facts:
    """Facts about the data that a peer needs."""

    num_classes: int
    most_objects: int
    """In one training image."""
    image_size: int
    """Shorter side in pixels."""
    tokens: int
    """Tokens of the smallest image at strides 8, 16 and 32 together: RT-DETR cannot have more queries."""
    coarse_tokens: int
    """Those at strides 16 and 32, for D-FINE-N."""


@dataclass(frozen=True)
class Recipe:
    """How a peer is trained: AdamW, linear warm-up, then a cosine down to 0."""

    build: Callable[[Facts], Peer]
    lr: float
    """Usual for training it from scratch with AdamW; no sweep was made. `--set NAME:base=PEER,lr=...` tries others."""
    weight_decay: float = 1e-4
    clip_max_norm: float = 0.0
    """0: no clipping."""
    warmup_steps: int = 100
    """At most a tenth of all."""
    augmentation: str = "flip"


class Peer(nn.Module):
    """A detector of another library."""

    def loss(self, batch: Batch) -> Tensor:
        """The scalar to minimize, in training mode."""
        raise NotImplementedError

    def detect(self, batch: Batch) -> list[Detections]:
        """Detections of each image in the pixels of its file, class indices 0..C-1; in evaluation mode."""
        raise NotImplementedError


class TorchvisionPeer(Peer):
    """A detector of torchvision.

    Args:
        model: a model without normalization and resizing, which the loader has done.
        first_label: label of class 0; 1 where label 0 is the background.
    """

    def __init__(self, model: nn.Module, first_label: int) -> None:
        super().__init__()
        self.model, self.first_label = model, first_label

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the model's losses, as torchvision's reference scripts weigh them."""
        images = _unpadded(batch)
        targets = []
        for image, target in zip(images, batch.targets, strict=True):
            height, width = image.shape[-2:]
            boxes = cxcywh_to_xyxy(target["boxes"]) * target["boxes"].new_tensor([width, height, width, height])
            kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a box of no width after rounding is an error to torchvision
            targets.append({"boxes": boxes[kept], "labels": target["labels"][kept] + self.first_label})
        losses: dict[str, Tensor] = self.model(images, targets)
        return torch.stack(list(losses.values())).sum()

    def detect(self, batch: Batch) -> list[Detections]:
        """What is left after its own non-maximum suppression."""
        images = _unpadded(batch)
        results = []
        for image, out, target in zip(images, self.model(images), batch.targets, strict=True):
            (height, width), (file_height, file_width) = image.shape[-2:], target["original_size"]
            x, y = file_width / width, file_height / height
            boxes = out["boxes"] * out["boxes"].new_tensor([x, y, x, y])
            results.append(Detections(boxes, out["scores"], out["labels"] - self.first_label))
        return results


class RTDetrPeer(Peer):
    """RT-DETR of `transformers`, which wants whole 32nds as sides and boxes relative to the padded image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Batch) -> Tensor:
        """The model's own loss."""
        images = _padded(_normalized(batch))
        scales = _content(batch, images)
        labels = [
            {"class_labels": target["labels"], "boxes": target["boxes"] * scale}
            for target, scale in zip(batch.targets, scales, strict=True)
        ]
        return cast(Tensor, self.model(pixel_values=images, labels=labels).loss)

    def detect(self, batch: Batch) -> list[Detections]:
        """The best pairs of query and class."""
        images = _padded(_normalized(batch))
        out = self.model(pixel_values=images)
        probabilities = out.logits.sigmoid()
        classes = probabilities.shape[-1]
        scores, pairs = probabilities.flatten(1).topk(min(MOST_DETECTIONS, probabilities[0].numel()))
        results = []
        for i, (target, scale) in enumerate(zip(batch.targets, _content(batch, images), strict=True)):
            height, width = target["original_size"]
            boxes = cxcywh_to_xyxy(out.pred_boxes[i, pairs[i] // classes] / scale)
            boxes = boxes * boxes.new_tensor([width, height, width, height])
            results.append(Detections(boxes, scores[i], pairs[i] % classes))
        return results


def faster_rcnn(facts: Facts) -> TorchvisionPeer:
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid at strides 4 to 64 (Lin et al. 2017)."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    )
    smallest = 32 * facts.image_size / 800  # torchvision's sizes are meant for images of 800 pixels
    anchors = AnchorGenerator(tuple((smallest * 2**k,) for k in range(5)), ((0.5, 1.0, 2.0),) * 5)
    model = FasterRCNN(
        backbone,
        facts.num_classes + 1,
        rpn_anchor_generator=anchors,
        box_score_thresh=LOWEST_SCORE,
        box_detections_per_img=MOST_DETECTIONS,
    )
    model.transform = _as_given()
    return TorchvisionPeer(model, first_label=1)


def fcos(facts: Facts) -> TorchvisionPeer:
    """FCOS (Tian et al. 2019) with a feature pyramid at strides 8 to 128."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        norm_layer=nn.BatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = FCOS(backbone, facts.num_classes, score_thresh=LOWEST_SCORE, detections_per_img=MOST_DETECTIONS)
    model.transform = _as_given()
    return TorchvisionPeer(model, first_label=0)


def rt_detr(facts: Facts) -> RTDetrPeer:
    """RT-DETR (Zhao et al. 2023) with the settings of its published R18 model, batch norm trainable."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        freeze_backbone_batch_norms=False,
        num_labels=facts.num_classes,
        num_queries=min(facts.tokens, max(100, 2 * facts.most_objects)),
    )
    return RTDetrPeer(RTDetrForObjectDetection(config))


def d_fine(facts: Facts) -> RTDetrPeer:
    """D-FINE (Peng et al. 2025) with the settings of its published N model: HGNetV2-B0, strides 16 and 32."""
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        hidden_sizes=[64, 256, 512, 1024],
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
        out_indices=[3, 4],
    )
    config = DFineConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=128,
        encoder_in_channels=[512, 1024],
        encoder_ffn_dim=512,
        encode_proj_layers=[1],
        feat_strides=[16, 32],
        hidden_expansion=0.34,
        depth_mult=0.5,
        d_model=128,
        decoder_in_channels=[128, 128],
        decoder_ffn_dim=512,
        decoder_layers=3,
        decoder_n_points=[6, 6],
        num_feature_levels=2,
        num_labels=facts.num_classes,
        num_queries=min(facts.coarse_tokens, 300),
    )
    return RTDetrPeer(DFineForObjectDetection(config))


PEERS: dict[str, Recipe] = {
    "fasterrcnn": Recipe(faster_rcnn, lr=3e-4),
    "fcos": Recipe(fcos, lr=5e-4),
    "rtdetr": Recipe(rt_detr, lr=5e-4, clip_max_norm=0.1),
    "dfine_n": Recipe(d_fine, lr=8e-4, clip_max_norm=0.1),
}


def _as_given() -> nn.Module:
    """In place of torchvision's own transform: images come normalized and at their size, and stay so."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class AsGiven(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision is untyped
        def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
            return image, target

    return AsGiven(0, 0, image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0])


def _unpadded(batch: Batch) -> list[Tensor]:
    """The images without their padding, [3, h, w] each."""
    sizes = [target["size"] for target in batch.targets]
    return [image[:, :height, :width] for image, (height, width) in zip(_normalized(batch), sizes, strict=True)]


def _normalized(batch: Batch) -> Tensor:
    """The images as these models take them, float [B, 3, H, W]; 0 where padded."""
    mean, std = (batch.images.new_tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (MEAN, STD))
    return ((batch.images / 255 - mean) / std).masked_fill(batch.padding_mask[:, None], 0.0)


def _padded(images: Tensor) -> Tensor:
    """Zeros at the right and bottom up to whole 32nds."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % 32, 0, -height % 32))


def _content(batch: Batch, images: Tensor) -> Tensor:
    """[B, 4]: what share of `images` each image takes, as w, h, w, h."""
    height, width = images.shape[-2:]
    shares = [(w / width, h / height) * 2 for h, w in (target["size"] for target in batch.targets)]
    return torch.tensor(shares, device=images.device)
