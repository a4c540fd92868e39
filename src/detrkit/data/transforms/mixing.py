"""Combine several training images, with their objects, into one: mosaic, mixup and copy-paste.

More objects per image are more matched queries per step, at hardly more compute: the result has the size of one image.

Images are cropped and resized before they are pasted, so that a mosaic costs little more than decoding four images. All
randomness comes from the `random.Random` passed to each call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from detrkit.data.transforms.resize_crop import Objects, crop, flip_horizontal, make_objects, resize_to

Sample = tuple[Tensor, Objects]
"""An image, uint8 [3, H, W], and its objects."""
OutputSize = Callable[[int, int], tuple[int, int]]
"""From the size (h, w) of an image to its size at the input of the model."""

MIN_VISIBLE = 0.25
"""Share of the box of a cut object that must be visible for the object to be kept."""


def mosaic(samples: Sequence[Sample], output_size: OutputSize, rng: random.Random) -> Sample:
    """Combine four images around one point, in the output size of the first one (YOLOv4, Bochkovskiy et al. 2020).

    The point lies in the central 40 % of the canvas. Each quarter shows a random window of its image at 0.5 to 1 times
    its usual scale, or larger if it would not fill the quarter.

    Args:
        samples: four images, all with masks or all without.
        output_size: see `OutputSize`.
        rng: source of all randomness.
    """
    size = output_size(*_size(samples[0][0]))
    y, x = (round(side * rng.uniform(0.3, 0.7)) for side in size)
    quarters = [(0, 0, y, x), (0, x, y, size[1] - x), (y, 0, size[0] - y, x), (y, x, size[0] - y, size[1] - x)]
    canvas = _empty(size)
    shown = []
    for (image, objects), (top, left, height, width) in zip(samples, quarters, strict=True):
        if not height or not width:
            continue  # a canvas of one row or column has empty quarters
        scale = output_size(*_size(image))[0] / image.shape[-2] * rng.uniform(0.5, 1)
        image, objects = random_window(image, objects, (height, width), scale, rng)
        canvas[:, top : top + height, left : left + width] = image
        shown.append((objects, top, left))
    return canvas, merge_on_canvas(shown, size)


def mixup(first: Sample, second: Sample, rng: random.Random) -> Sample:
    """Average two images, and keep the objects of both.

    Mixup for detection (Zhang et al. 2019, "Bag of Freebies for Training Object Detection"), with the fixed weights of
    1/2 of YOLOX. The second image is scaled to cover the first, and cropped to its size.
    """
    image, objects = first
    other, others = random_window(*second, _size(image), 0.0, rng)
    image, other = image.as_subclass(Tensor), other.as_subclass(Tensor)
    mean = (image & other) + ((image ^ other) >> 1)  # (a + b) // 2 in uint8 arithmetic
    return mean, concat_objects([objects, others])


def copy_paste(first: Sample, second: Sample, output_size: OutputSize, rng: random.Random) -> Sample:
    """Paste objects of a second image onto the first, cut out by their masks (Ghiasi et al. 2021, section 3).

    Each object is pasted with probability 1/2. Together they are flipped with probability 1/2, scaled to 0.5 to 1.25
    times their usual size, and shifted by up to half an image. Covered objects lose the covered part of their mask and
    box, and are dropped if less than `MIN_VISIBLE` of their mask is visible.

    Args:
        first: the image that objects are pasted on; its objects have masks.
        second: the image whose objects are pasted; they have masks.
        output_size: see `OutputSize`.
        rng: source of all randomness.
    """
    image, objects = first
    other, others = second
    chosen = torch.tensor([rng.random() < 0.5 for _ in others["labels"]], dtype=torch.bool)  # [n]
    others = select_objects(others, chosen)
    if rng.random() < 0.5:
        other, others = flip_horizontal(other, others)
    scale = rng.uniform(0.5, 1.25)
    other, others = resize_to(other, others, _scaled(output_size(*_size(other)), scale))
    size = _size(image)
    # a window of the size of the first image, from half of the other image outside to half of it beyond
    top, left = (rng.randint(-here // 2, there // 2) for here, there in zip(size, _size(other), strict=True))
    other, others = crop(other, others, top, left, *size, min_visible=MIN_VISIBLE)
    if not len(others["labels"]):
        return image, objects
    others = fit_boxes_to_masks(others)
    covered = others["masks"].as_subclass(Tensor).any(dim=0)  # [H, W]
    image = torch.where(covered, other.as_subclass(Tensor), image.as_subclass(Tensor))
    return image, concat_objects([_behind(objects, covered), others])


def _behind(objects: Objects, covered: Tensor) -> Objects:
    """Remove the pixels `covered`, bool [H, W], from the masks and boxes of objects."""
    masks = objects["masks"].as_subclass(Tensor)
    before = _pixels(masks)  # [n]
    masks = masks & ~covered  # [n, H, W]
    after = _pixels(masks)  # [n]
    hit = after < before  # only these need new boxes
    left = objects.copy()
    left["masks"] = tv_tensors.Mask(masks)
    seen = ~hit | (after >= MIN_VISIBLE * before)
    return fit_boxes_to_masks(select_objects(left, seen), hit[seen])


def fit_boxes_to_masks(objects: Objects, which: Tensor | None = None) -> Objects:
    """Set the boxes and areas of objects to those of their masks, which must not be empty.

    Args:
        objects: objects with masks.
        which: bool [n], the objects to change; None: all.
    """
    boxes, area = objects["boxes"].as_subclass(Tensor).clone(), objects["area"].clone()
    masks = objects["masks"].as_subclass(Tensor)
    for k in range(len(boxes)) if which is None else which.nonzero().flatten().tolist():
        rows, columns = (masks[k].any(dim=d).nonzero().flatten() for d in (1, 0))  # indices of non-empty ones
        boxes[k] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        area[k] = _pixels(masks[k : k + 1])
    tight = make_objects(boxes, objects["labels"], area, *masks.shape[1:])
    tight["masks"] = objects["masks"]
    return tight


def random_window(image: Tensor, objects: Objects, size: tuple[int, int], scale: float, rng: random.Random) -> Sample:
    """Crop a random window of an image and resize it to `size` = (h, w).

    Args:
        image: uint8 [3, H, W].
        objects: objects of the image; for those that are cut see `MIN_VISIBLE`.
        size: height and width of the result in pixels.
        scale: scale of the result relative to the image; larger if the image would not fill the result.
        rng: source of the position of the window.
    """
    height, width = _size(image)
    scale = max(scale, size[0] / height, size[1] / width)
    h, w = (max(1, min(side, round(target / scale))) for side, target in zip((height, width), size, strict=True))
    top, left = rng.randint(0, height - h), rng.randint(0, width - w)
    return resize_to(*crop(image, objects, top, left, h, w, min_visible=MIN_VISIBLE), size)


def paste_on_canvas(
    image: Tensor, objects: Objects, top: int, left: int, size: tuple[int, int], gray: Tensor
) -> Sample:
    """Paste an image on a canvas of `size` = (h, w) and color `gray`, uint8 [3]."""
    canvas = _empty(size)
    canvas[:] = gray.view(3, 1, 1)
    canvas[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return canvas, merge_on_canvas([(objects, top, left)], size)


def merge_on_canvas(parts: Sequence[tuple[Objects, int, int]], size: tuple[int, int]) -> Objects:
    """Merge the objects of images that were pasted on a canvas of `size` = (h, w) at (top, left)."""
    joined = make_objects(
        torch.cat([part["boxes"].as_subclass(Tensor) + torch.tensor([x, y, x, y]) for part, y, x in parts]),
        torch.cat([part["labels"] for part, _, _ in parts]),
        torch.cat([part["area"] for part, _, _ in parts]),
        *size,
    )
    if "masks" in parts[0][0]:
        masks = torch.zeros(len(joined["labels"]), *size, dtype=torch.bool)
        first = 0
        for part, top, left in parts:
            own = part["masks"].as_subclass(Tensor)
            masks[first : first + len(own), top : top + own.shape[1], left : left + own.shape[2]] = own
            first += len(own)
        joined["masks"] = tv_tensors.Mask(masks)
    return joined


def concat_objects(parts: Sequence[Objects]) -> Objects:
    """Concatenate objects of images of one size; all have masks, or none."""
    joined = make_objects(
        torch.cat([part["boxes"].as_subclass(Tensor) for part in parts]),
        torch.cat([part["labels"] for part in parts]),
        torch.cat([part["area"] for part in parts]),
        *parts[0]["boxes"].canvas_size,
    )
    if "masks" in parts[0]:
        joined["masks"] = tv_tensors.Mask(torch.cat([part["masks"].as_subclass(Tensor) for part in parts]))
    return joined


def select_objects(objects: Objects, which: Tensor) -> Objects:
    """Select objects by `which`, bool [n]."""
    boxes = objects["boxes"]
    kept = make_objects(
        boxes.as_subclass(Tensor)[which], objects["labels"][which], objects["area"][which], *boxes.canvas_size
    )
    if "masks" in objects:
        kept["masks"] = tv_tensors.Mask(objects["masks"].as_subclass(Tensor)[which])
    return kept


def _pixels(masks: Tensor) -> Tensor:
    """Number of pixels of each mask [n, H, W]; numpy counts bools several times faster than torch."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def _empty(size: tuple[int, int]) -> Tensor:
    """An uninitialized image, uint8 [3, h, w], in the memory layout of decoded images, [h, w, 3]."""
    return torch.empty(*size, 3, dtype=torch.uint8).permute(2, 0, 1)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
