"""From decoded images to what the model sees: size and augmentation, boxes and masks in step.

Images stay uint8 all the way, which is a quarter of the bytes; the model normalises them, on its own device.

The recipe "detr" is that of the DETR paper (appendix A.4): mirror; then, with even chances, either resize the shorter
side to one of 480..800, or resize it to one of 400, 500, 600, cut out a random window of 384..600 a side and resize
that. The longer side stays within 1333. All these sizes are for `image_size` 800 and scale with it.

Randomness comes from the `random.Random` that each call is given and from nowhere else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tvf

from detrkit.structures import Target

Augmentation = Literal["detr", "flip", "none"]


class Objects(TypedDict):
    """The n objects of one image of H x W pixels on their way through the transforms."""

    boxes: tv_tensors.BoundingBoxes
    """float32 [n, 4], x1, y1, x2, y2 in pixels; the canvas is (H, W)."""
    labels: Tensor
    """int64 [n]."""
    area: Tensor
    """float32 [n], square pixels."""
    masks: NotRequired[tv_tensors.Mask]
    """bool [n, H, W]."""


def no_objects(height: int, width: int, *, with_masks: bool = False) -> Objects:
    """The objects of an empty image."""
    objects = Objects(
        boxes=_boxes(torch.zeros(0, 4), height, width),
        labels=torch.zeros(0, dtype=torch.int64),
        area=torch.zeros(0),
    )
    if with_masks:
        objects["masks"] = tv_tensors.Mask(torch.zeros(0, height, width, dtype=torch.bool))
    return objects


def objects_from(boxes: Tensor, labels: Tensor, area: Tensor, height: int, width: int) -> Objects:
    """Objects of an image of `height` x `width`; `boxes` [n, 4] are x1, y1, x2, y2 in pixels."""
    return Objects(boxes=_boxes(boxes, height, width), labels=labels, area=area)


def resized_size(height: int, width: int, shorter: int, longest: int | None) -> tuple[int, int]:
    """(h, w) after the shorter side became `shorter`, or less where the longer one would exceed `longest`.

    Rounds as the original does, so that an image gets the same pixels here and there.
    """
    low, high = min(height, width), max(height, width)
    if longest is not None and high / low * shorter > longest:
        shorter = max(1, round(longest * low / high))
    if low == shorter:
        return height, width
    other = max(1, int(shorter * high / low))
    return (other, shorter) if width < height else (shorter, other)


@dataclass(frozen=True)
class Transform:
    """Image and objects to the model's image and target; see `train_transform`, `eval_transform`."""

    augmentation: Augmentation
    image_size: int
    square_resize: bool = False
    """Both sides become `image_size`, whatever the image's shape: a batch needs no padding then."""

    @property
    def longest(self) -> int:
        """Upper limit of the longer side in pixels."""
        return self._scaled(1333)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) that an image of `height` x `width` has afterwards where nothing is left to chance."""
        if self.square_resize:
            return self.image_size, self.image_size
        return resized_size(height, width, self.image_size, self.longest)

    def __call__(
        self, image: Tensor, objects: Objects | None = None, rng: random.Random | None = None
    ) -> tuple[Tensor, Target]:
        """Transform one image.

        Args:
            image: uint8 [3, H, W].
            objects: its objects; None for none.
            rng: source of all randomness; needed for the augmentations "detr" and "flip".

        Returns:
            uint8 [3, h, w] and its target with `labels`, `boxes` (cx, cy, w, h in 0..1), `area`,
            `size` and, where the objects have them, `masks`.
        """
        if objects is None:
            objects = no_objects(image.shape[-2], image.shape[-1])
        if self.augmentation != "none":
            assert rng is not None, "augmentation needs a source of randomness"
            if rng.random() < 0.5:
                image, objects = mirror(image, objects)
        if self.augmentation == "detr":
            assert rng is not None
            image, objects = self._detr(image, objects, rng)
        else:
            image, objects = self._resize(image, objects, self.image_size)
        return image.as_subclass(Tensor), _target(image, objects)

    def _detr(self, image: Tensor, objects: Objects, rng: random.Random) -> tuple[Tensor, Objects]:
        """The paper's choice between resizing alone and a random crop between two resizings."""
        if rng.random() >= 0.5:
            image, objects = resize(image, objects, self._scaled(rng.choice((400, 500, 600))), None)
            low, high = self._scaled(384), self._scaled(600)
            height, width = image.shape[-2:]
            w = rng.randint(min(low, width), min(high, width))
            h = rng.randint(min(low, height), min(high, height))
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            image, objects = crop(image, objects, top, left, h, w)
        return self._resize(image, objects, self._scaled(rng.choice(range(480, 801, 32))))

    def _resize(self, image: Tensor, objects: Objects, size: int) -> tuple[Tensor, Objects]:
        """Resize both sides to `size`, or the shorter one, as far as the longer one is not too long then."""
        if self.square_resize:
            return resize_to(image, objects, (size, size))
        return resize(image, objects, size, self.longest)

    def _scaled(self, size: int) -> int:
        return max(1, round(size * self.image_size / 800))


def _target(image: Tensor, objects: Objects) -> Target:
    """What an image teaches, in the model's terms: boxes relative to it, and no mask without a pixel."""
    height, width = image.shape[-2:]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = (objects["boxes"].as_subclass(Tensor) / scale).clamp(0, 1)  # resizing rounds a little beyond
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    target = Target(
        labels=objects["labels"],
        boxes=torch.cat([centres, sides], dim=1),
        area=objects["area"],
        size=(height, width),
    )
    if "masks" in objects:
        masks = objects["masks"].as_subclass(Tensor)
        for k in (~has_pixels(masks)).nonzero().flatten().tolist():  # so small that no pixel was the nearest
            x, y = (centres[k] * scale[:2]).long().tolist()
            masks[k, min(y, height - 1), min(x, width - 1)] = True
        target["masks"] = masks
    return target


def train_transform(augmentation: Augmentation, image_size: int, *, square_resize: bool = False) -> Transform:
    """The training recipe.

    Args:
        augmentation: "detr": the paper's; "flip": mirror with probability 1/2; "none".
        image_size: the largest shorter side in pixels ("detr"), else the shorter side.
        square_resize: resize both sides, whatever the image's shape.
    """
    return Transform(augmentation, image_size, square_resize)


def eval_transform(image_size: int, *, square_resize: bool = False) -> Transform:
    """Resize the shorter side to `image_size` (the longer one at most 1333/800 of it), or with `square_resize` both
    sides; no randomness."""
    return Transform("none", image_size, square_resize)


def mirror(image: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Left becomes right."""
    objects = objects.copy()
    objects["boxes"] = tvf.horizontal_flip(objects["boxes"])
    if "masks" in objects:
        objects["masks"] = tvf.horizontal_flip(objects["masks"])
    return tvf.horizontal_flip(image), objects


def resize(image: Tensor, objects: Objects, shorter: int, longest: int | None) -> tuple[Tensor, Objects]:
    """Resize to `resized_size`: the image bilinear with antialiasing, masks to the nearest pixel."""
    height, width = image.shape[-2:]
    return resize_to(image, objects, resized_size(height, width, shorter, longest))


def resize_to(image: Tensor, objects: Objects, size: tuple[int, int]) -> tuple[Tensor, Objects]:
    """Resize to exactly `size` = (h, w), as `resize` does; the ratio of the sides may change."""
    height, width = image.shape[-2:]
    if size == (height, width):
        return image, objects
    objects = objects.copy()
    objects["boxes"] = tvf.resize(objects["boxes"], list(size))
    objects["area"] = objects["area"] * (size[0] / height * (size[1] / width))
    if "masks" in objects:
        objects["masks"] = tv_tensors.Mask(_resize_masks(objects["masks"].as_subclass(Tensor), size))
    return tvf.resize(image, list(size), antialias=True), objects


def nearest(target: int, source: int) -> npt.NDArray[np.int64]:
    """Which of `source` pixels in a row lies nearest to the middle of each of `target` pixels, int64 [wanted].

    "nearest-exact" of torch. The original takes "nearest", which moves masks by up to half a pixel against their boxes.
    """
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [n, H, W] at another size, each pixel that of the nearest.

    Each is looked at only where it is not empty: most objects are small, and there may be hundreds of them.
    """
    height, width = masks.shape[1:]
    rows, columns = nearest(size[0], height), nearest(size[1], width)
    resized = np.zeros((len(masks), *size), bool)
    for mask, place in zip(masks.numpy(), resized, strict=True):
        down = np.flatnonzero(mask.any(axis=1))
        if not len(down):
            continue
        mask = mask[down[0] : down[-1] + 1]
        across = np.flatnonzero(mask.any(axis=0))
        top, bottom = np.searchsorted(rows, (down[0], down[-1] + 1))
        left, right = np.searchsorted(columns, (across[0], across[-1] + 1))
        place[top:bottom, left:right] = mask.take(columns[left:right], axis=1).take(rows[top:bottom] - down[0], axis=0)
    return torch.from_numpy(resized)


def crop(
    image: Tensor, objects: Objects, top: int, left: int, height: int, width: int, *, least: float = 0.0
) -> tuple[Tensor, Objects]:
    """Cut out a window; boxes are clipped to it, and objects of which it shows nothing are dropped.

    An object stays if its clipped box has an area and, where there are masks, some pixel of its mask is in the window.
    The area of what stays becomes that of its clipped box, as in the original. The window may reach beyond the
    image; there it is black.

    Args:
        image: uint8 [3, H, W].
        objects: its objects.
        top: first row of the window.
        left: its first column.
        height: its rows.
        width: its columns.
        least: above 0, an object that is cut stays only if this share of its box (0..1), and two pixels of each side,
            are in the window. One that lies in it wholly always stays.
    """
    whole = objects["boxes"].as_subclass(Tensor)
    boxes = tvf.crop(objects["boxes"], top, left, height, width)
    plain = boxes.as_subclass(Tensor)
    sides = plain[:, 2:] - plain[:, :2]
    seen = (sides > 0).all(dim=1)
    if least:
        before = whole[:, 2:] - whole[:, :2]
        seen &= (sides.prod(dim=1) >= least * before.prod(dim=1)) & (sides >= 0.99 * before.clamp(max=2)).all(dim=1)
    masks = None
    if "masks" in objects:
        masks = tvf.crop(objects["masks"], top, left, height, width)
        seen &= has_pixels(masks.as_subclass(Tensor))
    kept = objects_from(plain[seen], objects["labels"][seen], sides.prod(dim=1)[seen], height, width)
    if masks is not None:
        kept["masks"] = tv_tensors.Mask(masks.as_subclass(Tensor)[seen])
    return tvf.crop(image, top, left, height, width), kept


def has_pixels(masks: Tensor) -> Tensor:
    """bool [n], whether the masks [n, H, W] have a pixel; numpy finds one many times quicker than torch."""
    return torch.tensor([bool(mask.any()) for mask in masks.numpy()], dtype=torch.bool)


def _boxes(boxes: Tensor, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
