"""Resize, crop and flip images together with boxes and masks, and make the target of the model.

Images stay uint8, which is a quarter of the bytes of float32; the model normalizes them on its device.

The augmentation "detr" is that of the DETR paper (appendix A.4): flip horizontally; then, with probability 1/2 each,
resize the shorter side to one of 480..800, or resize it to one of 400, 500, 600, crop a random window with sides of
384..600 and resize that. The longer side is at most 1333. These sizes are for `image_size` 800 and scale with it.

All randomness comes from the `random.Random` passed to each call.
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
    """The n objects of one image of H x W pixels, as the transforms take and return them."""

    boxes: tv_tensors.BoundingBoxes
    """float32 [n, 4], x1, y1, x2, y2 in pixels; the canvas is (H, W)."""
    labels: Tensor
    """int64 [n]."""
    area: Tensor
    """float32 [n], square pixels."""
    masks: NotRequired[tv_tensors.Mask]
    """bool [n, H, W]."""


def no_objects(height: int, width: int, *, with_masks: bool = False) -> Objects:
    """Make the objects of an image without any."""
    objects = Objects(
        boxes=_boxes(torch.zeros(0, 4), height, width),
        labels=torch.zeros(0, dtype=torch.int64),
        area=torch.zeros(0),
    )
    if with_masks:
        objects["masks"] = tv_tensors.Mask(torch.zeros(0, height, width, dtype=torch.bool))
    return objects


def make_objects(boxes: Tensor, labels: Tensor, area: Tensor, height: int, width: int) -> Objects:
    """Make the objects of an image of `height` x `width`; `boxes` [n, 4] are x1, y1, x2, y2 in pixels."""
    return Objects(boxes=_boxes(boxes, height, width), labels=labels, area=area)


def resized_size(height: int, width: int, shorter: int, longest: int | None) -> tuple[int, int]:
    """(h, w) with the shorter side `shorter`, or less if the longer side would exceed `longest`.

    Rounds as the reference DETR, so that images get the same size in both.
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
    """Turns an image and its objects into input and target of the model; see `train_transform`, `eval_transform`."""

    augmentation: Augmentation
    image_size: int
    square_resize: bool = False
    """Resize both sides to `image_size`, whatever the aspect ratio, so that batches need no padding."""

    @property
    def longest(self) -> int:
        """Largest length of the longer side in pixels."""
        return self._scaled(1333)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of an image of `height` x `width` after the transform without randomness."""
        if self.square_resize:
            return self.image_size, self.image_size
        return resized_size(height, width, self.image_size, self.longest)

    def __call__(
        self, image: Tensor, objects: Objects | None = None, rng: random.Random | None = None
    ) -> tuple[Tensor, Target]:
        """Transform one image.

        Args:
            image: uint8 [3, H, W].
            objects: objects of the image; None for none.
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
                image, objects = flip_horizontal(image, objects)
        if self.augmentation == "detr":
            assert rng is not None
            image, objects = self._detr(image, objects, rng)
        else:
            image, objects = self._resize(image, objects, self.image_size)
        return image.as_subclass(Tensor), _target(image, objects)

    def _detr(self, image: Tensor, objects: Objects, rng: random.Random) -> tuple[Tensor, Objects]:
        """Resize alone, or crop at random between two resizings, with probability 1/2 each, as in the paper."""
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
        """Resize both sides to `size`, or the shorter side, limited by the length of the longer one."""
        if self.square_resize:
            return resize_to(image, objects, (size, size))
        return resize(image, objects, size, self.longest)

    def _scaled(self, size: int) -> int:
        return max(1, round(size * self.image_size / 800))


def _target(image: Tensor, objects: Objects) -> Target:
    """Make the target of an image: boxes as cx, cy, w, h relative to it, and no mask without a pixel."""
    height, width = image.shape[-2:]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = (objects["boxes"].as_subclass(Tensor) / scale).clamp(0, 1)  # rounding errors of resizing
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    target = Target(
        labels=objects["labels"],
        boxes=torch.cat([centers, sides], dim=1),
        area=objects["area"],
        size=(height, width),
    )
    if "masks" in objects:
        masks = objects["masks"].as_subclass(Tensor)
        for k in (~has_pixels(masks)).nonzero().flatten().tolist():  # so small that resizing left no pixel
            x, y = (centers[k] * scale[:2]).long().tolist()
            masks[k, min(y, height - 1), min(x, width - 1)] = True
        target["masks"] = masks
    return target


def train_transform(augmentation: Augmentation, image_size: int, *, square_resize: bool = False) -> Transform:
    """Make the transform for training.

    Args:
        augmentation: "detr": that of the paper; "flip": horizontal flip with probability 1/2; "none".
        image_size: shorter side in pixels; the largest one for "detr".
        square_resize: resize both sides, whatever the aspect ratio.
    """
    return Transform(augmentation, image_size, square_resize)


def eval_transform(image_size: int, *, square_resize: bool = False) -> Transform:
    """Make the transform for evaluation, without randomness.

    It resizes the shorter side to `image_size`, with the longer side at most 1333/800 of it, or, with `square_resize`,
    both sides.
    """
    return Transform("none", image_size, square_resize)


def flip_horizontal(image: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Exchange left and right."""
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
    """Resize to exactly `size` = (h, w), as `resize` does; the aspect ratio may change."""
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
    """Index of the nearest of `source` pixels to the center of each of `target` pixels, int64 [target].

    It is "nearest-exact" of torch. The reference DETR uses "nearest", which shifts masks by up to half a pixel against
    their boxes.
    """
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks [n, H, W] to the nearest pixel.

    Only the non-empty part of each mask is resized: most objects are small, and there may be hundreds.
    """
    height, width = masks.shape[1:]
    rows, columns = nearest(size[0], height), nearest(size[1], width)  # [h], [w]: source index of each pixel
    resized = np.zeros((len(masks), *size), bool)
    for mask, resized_mask in zip(masks.numpy(), resized, strict=True):
        down = np.flatnonzero(mask.any(axis=1))
        if not len(down):
            continue
        mask = mask[down[0] : down[-1] + 1]  # the non-empty rows
        across = np.flatnonzero(mask.any(axis=0))
        # the target rows and columns whose source lies in the non-empty part
        top, bottom = np.searchsorted(rows, (down[0], down[-1] + 1))
        left, right = np.searchsorted(columns, (across[0], across[-1] + 1))
        resized_mask[top:bottom, left:right] = mask.take(columns[left:right], axis=1).take(
            rows[top:bottom] - down[0], axis=0
        )
    return torch.from_numpy(resized)


def crop(
    image: Tensor, objects: Objects, top: int, left: int, height: int, width: int, *, min_visible: float = 0.0
) -> tuple[Tensor, Objects]:
    """Crop a window; boxes are clipped to it, and objects outside are dropped.

    An object is kept if its clipped box has an area and, with masks, if a pixel of its mask is in the window. Its area
    becomes that of the clipped box, as in the reference DETR. The window may reach beyond the image, where it is black.

    Args:
        image: uint8 [3, H, W].
        objects: objects of the image.
        top: first row of the window.
        left: first column of the window.
        height: rows of the window.
        width: columns of the window.
        min_visible: if above 0, a cut object is kept only if this share of its box (0..1), and two pixels of each side,
            are in the window. Objects that are not cut are always kept.
    """
    whole = objects["boxes"].as_subclass(Tensor)  # [n, 4], before
    boxes = tvf.crop(objects["boxes"], top, left, height, width)
    plain = boxes.as_subclass(Tensor)  # [n, 4], clipped to the window
    sides = plain[:, 2:] - plain[:, :2]  # [n, 2], w and h
    seen = (sides > 0).all(dim=1)  # [n]
    if min_visible:
        before = whole[:, 2:] - whole[:, :2]
        seen &= (sides.prod(dim=1) >= min_visible * before.prod(dim=1)) & (sides >= 0.99 * before.clamp(max=2)).all(
            dim=1
        )
    masks = None
    if "masks" in objects:
        masks = tvf.crop(objects["masks"], top, left, height, width)
        seen &= has_pixels(masks.as_subclass(Tensor))
    kept = make_objects(plain[seen], objects["labels"][seen], sides.prod(dim=1)[seen], height, width)
    if masks is not None:
        kept["masks"] = tv_tensors.Mask(masks.as_subclass(Tensor)[seen])
    return tvf.crop(image, top, left, height, width), kept


def has_pixels(masks: Tensor) -> Tensor:
    """Whether each of the masks [n, H, W] has a pixel, bool [n]; numpy finds one many times faster than torch."""
    return torch.tensor([bool(mask.any()) for mask in masks.numpy()], dtype=torch.bool)


def _boxes(boxes: Tensor, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
