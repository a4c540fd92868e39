"""Mask losses (Carion et al. 2020, section 4.4 and appendix A.2): focal loss over pixels, and dice loss.

They compare masks at the resolution of the targets, for matched queries of the last decoder layer alone.

Shapes: M matched pairs of the batch, H x W its padded size in pixels, h x w a mask of the model, n objects of an image,
G of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.errors import ConfigError, DataError
from detrkit.losses.supervision import MaskPairs, Matched
from detrkit.structures import Output, Target


def mask_focal(matched: Matched, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, equation 5): the mean over the pixels of each pair, summed, per object; [1]."""
    assert matched.masks
    logits, targets, valid = matched.masks  # [M, H, W] each
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    error = p + targets - 2 * p * targets  # 1 - p_t, p_t the probability of the target
    loss = (alpha * targets + (1 - alpha) * (1 - targets)) * error**gamma * loss
    if valid is None:
        return loss.mean((1, 2)).sum()[None] / matched.num_boxes
    return ((loss * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).sum()[None] / matched.num_boxes


def mask_dice(matched: Matched) -> Tensor:
    """Dice loss (Milletari et al. 2016, section 3, with 1 added above and below): summed, per object; [1]."""
    assert matched.masks
    logits, targets, valid = matched.masks  # [M, H, W] each
    p = logits.sigmoid() if valid is None else logits.sigmoid() * valid
    overlap, total = (p * targets).sum((1, 2)), p.sum((1, 2)) + targets.sum((1, 2))  # [M] each
    return (1 - (2 * overlap + 1) / (total + 1)).sum()[None] / matched.num_boxes


def pair_masks(
    out: Output, targets: Sequence[Target], images: Tensor, queries: Tensor, objects: Tensor, mask_padding: bool
) -> MaskPairs:
    """Predicted and target masks of pairs; the masks of matched queries are predicted now, unless `out` has them.

    Args:
        out: output of the model.
        targets: one per image, with `masks` at the size of the image without padding; targets without objects may lack
            them.
        images: index of the image of each pair, int64 [M].
        queries: index of the query of each pair, int64 [M].
        objects: index of the object of each pair among those of the whole batch, int64 [M].
        mask_padding: whether padded pixels count in the loss, with target 0.

    Raises:
        DataError: a target has objects but not a mask for each, or masks larger than the batch.
        ConfigError: the model has no mask head.
    """
    masks = [_target_masks(target, i) for i, target in enumerate(targets)]  # [n, h_i, w_i] per image
    height, width = _padded_size(out, masks)

    def pad(mask: Tensor) -> Tensor:
        return F.pad(mask, (0, width - mask.shape[2], 0, height - mask.shape[1]))

    target_masks = torch.cat([pad(mask) for mask in masks])[objects].float()  # [G, H, W] -> [M, H, W]
    valid = None
    if not mask_padding:
        valid = torch.cat([pad(mask.new_ones(1, *mask.shape[1:])) for mask in masks])[images]  # [B, H, W] -> [M, H, W]
    logits = _mask_logits(out, images, queries)[:, None]  # [M, 1, h, w]
    logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return MaskPairs(logits[:, 0], target_masks, valid)


def _padded_size(out: Output, masks: Sequence[Tensor]) -> tuple[int, int]:
    """(H, W) of the padded batch; where the output does not have it, the smallest that holds all targets."""
    height, width = (max(1, *(mask.shape[side] for mask in masks)) for side in (1, 2))
    if out.padded_size is None:
        return height, width
    if height > out.padded_size[0] or width > out.padded_size[1]:
        raise DataError(
            f"expected masks at the size of their image, of at most {out.padded_size[0]} x {out.padded_size[1]} "
            f"(height x width) in this batch, found {height} x {width}; transform masks together with the image"
        )
    return out.padded_size


def _target_masks(target: Target, image: int) -> Tensor:
    """The masks of a target, bool [n, h, w]; `image` is its index in the batch, for messages."""
    labels = target["labels"]
    masks = target.get("masks")
    if masks is None:
        if len(labels):
            raise DataError(
                f"expected masks in every target, found none in image {image + 1} of the batch; use data with "
                "masks, or train boxes alone: --task detect"
            )
        masks = torch.zeros(0, *target.get("size", (0, 0)), dtype=torch.bool, device=labels.device)
    if masks.ndim != 3 or len(masks) != len(labels):
        raise DataError(
            f"expected masks of shape [{len(labels)}, h, w], one per object, found {list(masks.shape)} in image "
            f"{image + 1} of the batch"
        )
    return masks.bool()


def _mask_logits(out: Output, images: Tensor, queries: Tensor) -> Tensor:
    """Mask logits of pairs, float32 [M, h, w]."""
    if out.masks is not None:
        return out.masks[images, queries].float()
    if out.predict_masks is not None:
        return out.predict_masks(images, queries).float()
    if len(images):
        raise ConfigError("expected a model with masks=True for a criterion with masks=True, found one without")
    return out.logits.new_zeros(0, 1, 1, dtype=torch.float32)
