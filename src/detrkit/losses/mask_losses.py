"""The mask losses (Carion et al. 2020, section 4.4 and appendix A.2): focal loss over pixels, and dice loss.

They compare at the resolution of the target masks, of the last decoder layer and of matched queries alone. M is the
number of matched pairs in the batch, H x W the size that the batch is padded to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.errors import ConfigError, DataError
from detrkit.losses.box_losses import MaskPairs, Matched
from detrkit.structures import Output, Target


def mask_focal(matched: Matched, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, equation 5): the mean over the pixels of each pair, summed, per object; [1]."""
    assert matched.masks
    logits, wanted, inside = matched.masks
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probability = logits.sigmoid()
    wrong = probability + wanted - 2 * probability * wanted  # 1 - the probability of what is wanted
    loss = (alpha * wanted + (1 - alpha) * (1 - wanted)) * wrong**gamma * loss
    if inside is None:
        return loss.mean((1, 2)).sum()[None] / matched.num_boxes
    return ((loss * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).sum()[None] / matched.num_boxes


def mask_dice(matched: Matched) -> Tensor:
    """Dice loss (Milletari et al. 2016, section 3, with 1 added above and below): summed, per object; [1]."""
    assert matched.masks
    logits, wanted, inside = matched.masks
    found = logits.sigmoid() if inside is None else logits.sigmoid() * inside
    overlap, total = (found * wanted).sum((1, 2)), found.sum((1, 2)) + wanted.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).sum()[None] / matched.num_boxes


def pair_masks(
    out: Output, targets: Sequence[Target], images: Tensor, queries: Tensor, objects: Tensor, mask_padding: bool
) -> MaskPairs:
    """The masks of pairs; the output makes those of matched queries now, unless it has them already.

    Args:
        out: of the model.
        targets: with `masks` at the size of their images, without padding; those without objects may lack them.
        images: which image, int64 [M].
        queries: which query of it, int64 [M].
        objects: which object of the whole batch, int64 [M].
        mask_padding: whether padded pixels teach that nothing is there.

    Raises:
        DataError: a target has objects but not a mask for each, or masks larger than the batch.
        ConfigError: the model has no mask head.
    """
    masks = [_masks_of(target, i) for i, target in enumerate(targets)]
    height, width = _size(out, masks)

    def padded(mask: Tensor) -> Tensor:
        return F.pad(mask, (0, width - mask.shape[2], 0, height - mask.shape[1]))

    wanted = torch.cat([padded(mask) for mask in masks])[objects].float()
    inside = None
    if not mask_padding:
        inside = torch.cat([padded(mask.new_ones(1, *mask.shape[1:])) for mask in masks])[images]
    logits = _masks_found(out, images, queries)[:, None]
    logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return MaskPairs(logits[:, 0], wanted, inside)


def _size(out: Output, masks: Sequence[Tensor]) -> tuple[int, int]:
    """H and W: those that the model's images were padded to, or what holds all targets."""
    height, width = (max(1, *(mask.shape[side] for mask in masks)) for side in (1, 2))
    if out.padded_size is None:
        return height, width
    if height > out.padded_size[0] or width > out.padded_size[1]:
        raise DataError(
            f"expected masks at the size of their image, of at most {out.padded_size[0]} x {out.padded_size[1]} "
            f"(height x width) in this batch, found {height} x {width}; transform masks together with the image"
        )
    return out.padded_size


def _masks_of(target: Target, image: int) -> Tensor:
    """The masks of a target, bool [n, h, w]."""
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


def _masks_found(out: Output, images: Tensor, queries: Tensor) -> Tensor:
    """Mask logits of pairs, float32 [M, h, w]."""
    if out.masks is not None:
        return out.masks[images, queries].float()
    if out.predict_masks is not None:
        return out.predict_masks(images, queries).float()
    if len(images):
        raise ConfigError("expected a model with masks=True for a criterion with masks=True, found one without")
    return out.logits.new_zeros(0, 1, 1, dtype=torch.float32)
