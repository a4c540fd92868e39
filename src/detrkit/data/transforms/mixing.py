"""One training image from several, with the objects of all of them: mosaic, mix-up and copy-paste.

More objects per image are more matched queries per step, at hardly more compute: the result is as large as one image.

Every image is cut and shrunk before it is put in its place, so that a mosaic costs little beyond four decodes.
Randomness comes from the `random.Random` that each call is given and from nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from detrkit.data.transforms.resize_crop import Objects, crop, mirror, objects_from, resize_to

Sample = tuple[Tensor, Objects]
"""An image, uint8 [3, H, W], and its objects."""
Fit = Callable[[int, int], tuple[int, int]]
"""From the size (h, w) of an image to the size that it has for the model."""

LEAST = 0.25
"""Share of a cut object's box that must be left for it to stay."""


def mosaic(samples: Sequence[Sample], fit: Fit, rng: random.Random) -> Sample:
    """Four images around one point, as large as the first one alone would be (YOLOv4, Bochkovskiy et al. 2020).

    The point lies in the middle four tenths of the canvas. Each image shows a random window of itself there, at half
    to full the scale that it has alone, or larger where it would not fill its place otherwise; nothing stays empty.

    Args:
        samples: four images, all with masks or all without.
        fit: see `Fit`.
        rng: source of all randomness.
    """
    size = fit(*_size(samples[0][0]))
    y, x = (round(side * rng.uniform(0.3, 0.7)) for side in size)
    places = [(0, 0, y, x), (0, x, y, size[1] - x), (y, 0, size[0] - y, x), (y, x, size[0] - y, size[1] - x)]
    canvas = _empty(size)
    shown = []
    for (image, objects), (top, left, height, width) in zip(samples, places, strict=True):
        if not height or not width:
            continue  # a canvas of one row or column has no four quarters
        scale = fit(*_size(image))[0] / image.shape[-2] * rng.uniform(0.5, 1)
        image, objects = window(image, objects, (height, width), scale, rng)
        canvas[:, top : top + height, left : left + width] = image
        shown.append((objects, top, left))
    return canvas, lay_out(shown, size)


def mixup(first: Sample, second: Sample, rng: random.Random) -> Sample:
    """The mean of two images, with the objects of both, each as if it were alone.

    From mix-up for detection (Zhang et al. 2019, "Bag of Freebies for Training Object Detection"), with the fixed
    even weights of YOLOX. The second image is scaled to fill the first, and what juts out is cut off.
    """
    image, objects = first
    other, others = window(*second, _size(image), 0.0, rng)
    image, other = image.as_subclass(Tensor), other.as_subclass(Tensor)
    mean = (image & other) + ((image ^ other) >> 1)  # half of the sum, rounded down, without leaving uint8
    return mean, join([objects, others])


def copy_paste(first: Sample, second: Sample, fit: Fit, rng: random.Random) -> Sample:
    """Put objects of a second image onto the first, cut out along their masks (Ghiasi et al. 2021, section 3).

    Each object comes with even chances. Together they are mirrored with even chances, scaled to between half and five
    quarters of the size they have alone, and moved by up to half an image. What they cover loses that part of its
    mask and box, and goes where less than `LEAST` of it is left to be seen.

    Args:
        first: the image that is pasted on; its objects have masks.
        second: the image whose objects are pasted; they have masks.
        fit: see `Fit`.
        rng: source of all randomness.
    """
    image, objects = first
    other, others = second
    chosen = torch.tensor([rng.random() < 0.5 for _ in others["labels"]], dtype=torch.bool)
    others = select(others, chosen)
    if rng.random() < 0.5:
        other, others = mirror(other, others)
    scale = rng.uniform(0.5, 1.25)
    other, others = resize_to(other, others, _scaled(fit(*_size(other)), scale))
    size = _size(image)
    top, left = (rng.randint(-here // 2, there // 2) for here, there in zip(size, _size(other), strict=True))
    other, others = crop(other, others, top, left, *size, least=LEAST)
    if not len(others["labels"]):
        return image, objects
    others = tighten(others)
    covered = others["masks"].as_subclass(Tensor).any(dim=0)
    image = torch.where(covered, other.as_subclass(Tensor), image.as_subclass(Tensor))
    return image, join([_behind(objects, covered), others])


def _behind(objects: Objects, covered: Tensor) -> Objects:
    """What is left of objects where the pixels `covered` (bool [H, W]) show something else."""
    masks = objects["masks"].as_subclass(Tensor)
    before = _pixels(masks)
    masks = masks & ~covered
    after = _pixels(masks)
    hit = after < before
    left = objects.copy()
    left["masks"] = tv_tensors.Mask(masks)
    seen = ~hit | (after >= LEAST * before)
    return tighten(select(left, seen), hit[seen])


def tighten(objects: Objects, which: Tensor | None = None) -> Objects:
    """Make the boxes and areas of objects those of their masks, which must not be empty.

    Args:
        objects: with masks.
        which: bool [n], the ones to change; None: all.
    """
    boxes, area = objects["boxes"].as_subclass(Tensor).clone(), objects["area"].clone()
    masks = objects["masks"].as_subclass(Tensor)
    for k in range(len(boxes)) if which is None else which.nonzero().flatten().tolist():
        rows, columns = (masks[k].any(dim=d).nonzero().flatten() for d in (1, 0))
        boxes[k] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        area[k] = _pixels(masks[k : k + 1])
    tight = objects_from(boxes, objects["labels"], area, *masks.shape[1:])
    tight["masks"] = objects["masks"]
    return tight


def window(image: Tensor, objects: Objects, size: tuple[int, int], scale: float, rng: random.Random) -> Sample:
    """A random window of an image, resized to `size` = (h, w).

    Args:
        image: uint8 [3, H, W].
        objects: its objects; of those that are cut, see `LEAST`.
        size: of the result.
        scale: pixels of the result a pixel of the image; more where the image would be too small for the window.
        rng: where the window lies.
    """
    height, width = _size(image)
    scale = max(scale, size[0] / height, size[1] / width)
    h, w = (max(1, min(side, round(target / scale))) for side, target in zip((height, width), size, strict=True))
    top, left = rng.randint(0, height - h), rng.randint(0, width - w)
    return resize_to(*crop(image, objects, top, left, h, w, least=LEAST), size)


def place(image: Tensor, objects: Objects, top: int, left: int, size: tuple[int, int], grey: Tensor) -> Sample:
    """Put an image on a larger canvas of `size` = (h, w) and one colour, `grey` uint8 [3]."""
    canvas = _empty(size)
    canvas[:] = grey.view(3, 1, 1)
    canvas[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return canvas, lay_out([(objects, top, left)], size)


def lay_out(parts: Sequence[tuple[Objects, int, int]], size: tuple[int, int]) -> Objects:
    """The objects of images that lie on one canvas of `size` = (h, w), each with its corner at (top, left)."""
    joined = objects_from(
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


def join(parts: Sequence[Objects]) -> Objects:
    """The objects of all parts, which lie on canvases of one size; all have masks, or none has."""
    joined = objects_from(
        torch.cat([part["boxes"].as_subclass(Tensor) for part in parts]),
        torch.cat([part["labels"] for part in parts]),
        torch.cat([part["area"] for part in parts]),
        *parts[0]["boxes"].canvas_size,
    )
    if "masks" in parts[0]:
        joined["masks"] = tv_tensors.Mask(torch.cat([part["masks"].as_subclass(Tensor) for part in parts]))
    return joined


def select(objects: Objects, which: Tensor) -> Objects:
    """The objects that `which`, bool [n], names."""
    boxes = objects["boxes"]
    kept = objects_from(
        boxes.as_subclass(Tensor)[which], objects["labels"][which], objects["area"][which], *boxes.canvas_size
    )
    if "masks" in objects:
        kept["masks"] = tv_tensors.Mask(objects["masks"].as_subclass(Tensor)[which])
    return kept


def _pixels(masks: Tensor) -> Tensor:
    """How many pixels each of the masks [n, H, W] has; numpy counts bools several times quicker than torch."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def _empty(size: tuple[int, int]) -> Tensor:
    """uint8 [3, h, w], laid out as decoded images are, which colours and resizing like best."""
    return torch.empty(*size, 3, dtype=torch.uint8).permute(2, 0, 1)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
