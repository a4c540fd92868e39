"""Augmentations of a training image before `transforms.resize_crop`, each with its own probability.

In this order: a mosaic of four images, or else zooming out and SSD's crop; then copy-paste, mixup, vertical flip and
color jitter. Without any of them it is the classic recipe. `transforms.mixing` has those that combine several images.

All randomness comes from the `random.Random` passed to each call.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from detrkit.data.transforms.mixing import MIN_VISIBLE, OutputSize, Sample, copy_paste, mixup, mosaic, paste_on_canvas
from detrkit.data.transforms.resize_crop import Objects, Transform, crop, resize_to


@dataclass(frozen=True)
class Augment:
    """Probabilities of the augmentations, 0..1, and the range of image sizes."""

    mosaic: float = 0.0
    """Four images in one of the usual size; see `mixing.mosaic`."""
    mixup: float = 0.0
    """The mean with another image; see `mixing.mixup`."""
    copy_paste: float = 0.0
    """Objects of another image, cut out by their masks; see `mixing.copy_paste`. Images must have masks."""
    zoom_out: float = 0.0
    """The image at a random place of a larger canvas; see `zoom_out`."""
    iou_crop: float = 0.0
    """SSD's crop; see `iou_crop`."""
    color_jitter: float = 0.0
    """Brightness, contrast, saturation and hue; see `jitter_color`."""
    vertical_flip: float = 0.0
    """Top and bottom exchanged."""
    multi_scale: float = 0.0
    """Share of the image size by which it varies in both directions."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """Color of the canvas around a zoomed-out image, 0..255: the mean of the model's normalization, here ImageNet's."""

    def plain(self) -> Augment:
        """The augmentation of the last epochs: vertical flips alone."""
        return Augment(vertical_flip=self.vertical_flip)

    def sizes(self, image_size: int) -> range:
        """The image sizes that `multi_scale` chooses from, centered at `image_size`.

        They are 32 pixels apart, or 16, 8, ... until there are two on each side.
        """
        margin = self.multi_scale * image_size
        step = next((s for s in (32, 16, 8, 4, 2) if 2 * s <= margin), 1)
        count = min(int(margin / step), (image_size - 1) // step)
        return range(image_size - count * step, image_size + count * step + 1, step)

    def __call__(
        self, image: Tensor, objects: Objects, transform: Transform, another: Callable[[], Sample], rng: random.Random
    ) -> tuple[Tensor, Objects, Transform]:
        """Augment one image.

        Args:
            image: uint8 [3, H, W].
            objects: objects of the image, with masks if `copy_paste` is on.
            transform: the transform that follows; it determines the size of the image.
            another: returns a random image of the data set with its objects, with masks if `objects` has masks.
            rng: source of all randomness.

        Returns:
            The image, its objects, and the transform for them, with the image size that was chosen.
        """
        if self.multi_scale:
            transform = replace(transform, image_size=rng.choice(self.sizes(transform.image_size)))
        output_size = transform.output_size
        if rng.random() < self.mosaic:
            image, objects = mosaic([(image, objects), *(another() for _ in range(3))], output_size, rng)
        else:
            if rng.random() < self.zoom_out:
                image, objects = zoom_out(image, objects, output_size, torch.tensor(self.fill, dtype=torch.uint8), rng)
            if rng.random() < self.iou_crop:
                image, objects = iou_crop(image, objects, rng)
        if rng.random() < self.copy_paste:
            image, objects = _resize_to_output(image, objects, output_size)
            image, objects = copy_paste((image, objects), another(), output_size, rng)
        if rng.random() < self.mixup:
            image, objects = _resize_to_output(image, objects, output_size)
            image, objects = mixup((image, objects), another(), rng)
        if rng.random() < self.vertical_flip:
            image, objects = flip_vertical(image, objects)
        if rng.random() < self.color_jitter:
            image, objects = _resize_to_output(image, objects, output_size)
            image = jitter_color(image, rng)
        return image, objects, transform


def zoom_out(image: Tensor, objects: Objects, output_size: OutputSize, gray: Tensor, rng: random.Random) -> Sample:
    """Put the image on a canvas with 1 to 2 times its side lengths (SSD, Liu et al. 2016, section 3.6).

    The position is random. SSD goes up to 4 times, which leaves almost nothing of small objects.

    Args:
        image: uint8 [3, H, W].
        objects: objects of the image.
        output_size: maps the size (h, w) of an image to that at the input of the model, which the canvas gets.
        gray: color of the canvas, uint8 [3].
        rng: source of all randomness.
    """
    ratio = rng.uniform(1, 2)
    height, width = image.shape[-2:]
    size = output_size(round(height * ratio), round(width * ratio))
    h, w = (max(1, round(side / ratio)) for side in size)
    image, objects = resize_to(image, objects, (h, w))
    return paste_on_canvas(image, objects, rng.randint(0, size[0] - h), rng.randint(0, size[1] - w), size, gray)


def iou_crop(image: Tensor, objects: Objects, rng: random.Random) -> Sample:
    """Crop a random window whose IoU with an object is at least a random value (SSD, Liu et al. 2016, section 2.2).

    The window has 0.3 to 1 of each side, and at most twice the aspect ratio of the image, either way. Cut objects are
    kept if `mixing.MIN_VISIBLE` of their box is left; at least one object is kept. The image stays as it is if it has
    no objects, or if 40 windows fail: small objects never have a high IoU with a window.
    """
    height, width = image.shape[-2:]
    boxes = objects["boxes"].as_subclass(Tensor)
    if not len(boxes):
        return image, objects
    x1, y1, x2, y2 = boxes.numpy().T  # [n] each
    areas = (x2 - x1) * (y2 - y1)
    min_iou = rng.choice((0.0, 0.1, 0.3, 0.5, 0.7, 0.9))
    for _ in range(40):
        tall, wide = rng.uniform(0.3, 1), rng.uniform(0.3, 1)
        if not 0.5 <= wide / tall <= 2:
            continue
        h, w = max(1, round(tall * height)), max(1, round(wide * width))
        top, left = rng.randint(0, height - h), rng.randint(0, width - w)
        across = np.minimum(x2, left + w) - np.maximum(x1, left)
        down = np.minimum(y2, top + h) - np.maximum(y1, top)
        inside = across.clip(0) * down.clip(0)  # [n], intersection of each box and the window
        if (inside / (areas + h * w - inside)).max() < min_iou:
            continue
        cut, kept = crop(image, objects, top, left, h, w, min_visible=MIN_VISIBLE)
        if len(kept["labels"]):
            return cut, kept
    return image, objects


def flip_vertical(image: Tensor, objects: Objects) -> Sample:
    """Exchange top and bottom."""
    objects = objects.copy()
    objects["boxes"] = tvf.vertical_flip(objects["boxes"])
    if "masks" in objects:
        objects["masks"] = tvf.vertical_flip(objects["masks"])
    return tvf.vertical_flip(image), objects


def jitter_color(image: Tensor, rng: random.Random) -> Tensor:
    """Change brightness, contrast, saturation and hue at random, within the ranges of SSD's photometric distortions.

    Brightness changes by up to 1/8 of the maximum, contrast and saturation by up to 1/2, hue by up to 1/20 of the
    circle. Lookup tables of 256 values take a tenth of the time of torchvision's functions.

    Args:
        image: uint8 [3, H, W], RGB.
        rng: source of all randomness.
    """
    brightness, contrast, saturation = rng.uniform(-32, 32), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    hue = rng.randint(-9, 9)  # of OpenCV's 180
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    levels = np.arange(256)
    middle = sum(cv2.sumElems(pixels)) / pixels.size  # contrast changes around the mean of the image
    light = (levels - middle) * contrast + middle + brightness
    pixels = cv2.cvtColor(cv2.LUT(pixels, light.round().clip(0, 255).astype(np.uint8)), cv2.COLOR_RGB2HSV)
    # [256, 3]: new H, S and V of each old value
    tables = np.stack([(levels + hue) % 180, (levels * saturation).clip(0, 255), levels], axis=-1)
    pixels = cv2.LUT(pixels, tables.astype(np.uint8)[None])
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)


def _resize_to_output(image: Tensor, objects: Objects, output_size: OutputSize) -> Sample:
    """Resize the image to its size at the input of the model."""
    return resize_to(image, objects, output_size(image.shape[-2], image.shape[-1]))
