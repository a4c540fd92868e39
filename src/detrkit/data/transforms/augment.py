"""Augmentations of a training image before `transforms.resize_crop`, each with a chance of its own.

In this order: a mosaic of four images, or else zooming out and SSD's crop; then copy-paste, mix-up, mirroring upside
down, and other colours. All off is the classic recipe. Those that need other images are in `transforms.mixing`.

Randomness comes from the `random.Random` that each call is given and from nowhere else.
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

from detrkit.data.transforms.mixing import LEAST, Fit, Sample, copy_paste, mixup, mosaic, place
from detrkit.data.transforms.resize_crop import Objects, Transform, crop, resize_to


@dataclass(frozen=True)
class Augment:
    """The chances, 0..1, and how much sizes vary."""

    mosaic: float = 0.0
    """Four images in one, as large as one; see `mixing.mosaic`."""
    mixup: float = 0.0
    """The mean with another image; see `mixing.mixup`."""
    copy_paste: float = 0.0
    """Objects of another image, by their masks; see `mixing.copy_paste`. Images must come with masks."""
    zoom_out: float = 0.0
    """The image somewhere on a grey canvas; see `zoom_out`."""
    iou_crop: float = 0.0
    """SSD's crop; see `iou_crop`."""
    color_jitter: float = 0.0
    """Brightness, contrast, saturation and hue; see `recolour`."""
    vertical_flip: float = 0.0
    """Upside down."""
    multi_scale: float = 0.0
    """Share of the image size by which it varies, up and down."""
    ground: tuple[int, int, int] = (124, 116, 104)
    """Colour around a zoomed out image, 0..255: the mean that the model takes off. As it is, ImageNet's."""

    def plain(self) -> Augment:
        """What is left of it in the last epochs: mirroring alone."""
        return Augment(vertical_flip=self.vertical_flip)

    def sizes(self, image_size: int) -> range:
        """The image sizes that `multi_scale` draws from, `image_size` in their middle.

        They are 32 pixels apart, or half that so often until there are two on either side.
        """
        reach = self.multi_scale * image_size
        step = next((s for s in (32, 16, 8, 4, 2) if 2 * s <= reach), 1)
        count = min(int(reach / step), (image_size - 1) // step)
        return range(image_size - count * step, image_size + count * step + 1, step)

    def __call__(
        self, image: Tensor, objects: Objects, transform: Transform, another: Callable[[], Sample], rng: random.Random
    ) -> tuple[Tensor, Objects, Transform]:
        """Augment one image.

        Args:
            image: uint8 [3, H, W].
            objects: its objects, with masks if `copy_paste` is on.
            transform: what comes afterwards; it tells how large images become.
            another: draws another image of the data set, with masks where `objects` has them.
            rng: source of all randomness.

        Returns:
            The image, its objects, and the transform for them, which has the size that was drawn.
        """
        if self.multi_scale:
            transform = replace(transform, image_size=rng.choice(self.sizes(transform.image_size)))
        fit = transform.output_size
        if rng.random() < self.mosaic:
            image, objects = mosaic([(image, objects), *(another() for _ in range(3))], fit, rng)
        else:
            if rng.random() < self.zoom_out:
                image, objects = zoom_out(image, objects, fit, torch.tensor(self.ground, dtype=torch.uint8), rng)
            if rng.random() < self.iou_crop:
                image, objects = iou_crop(image, objects, rng)
        if rng.random() < self.copy_paste:
            image, objects = _fitted(image, objects, fit)
            image, objects = copy_paste((image, objects), another(), fit, rng)
        if rng.random() < self.mixup:
            image, objects = _fitted(image, objects, fit)
            image, objects = mixup((image, objects), another(), rng)
        if rng.random() < self.vertical_flip:
            image, objects = upside_down(image, objects)
        if rng.random() < self.color_jitter:
            image, objects = _fitted(image, objects, fit)
            image = recolour(image, rng)
        return image, objects, transform


def zoom_out(image: Tensor, objects: Objects, fit: Fit, grey: Tensor, rng: random.Random) -> Sample:
    """The image at a random place of a canvas once to twice as long and wide (SSD, Liu et al. 2016, section 3.6).

    SSD goes to four times, where next to nothing is left of objects that are small already.

    Args:
        image: uint8 [3, H, W].
        objects: its objects.
        fit: the size (h, w) that an image has for the model; the canvas comes in that size.
        grey: colour of the canvas, uint8 [3].
        rng: source of all randomness.
    """
    ratio = rng.uniform(1, 2)
    height, width = image.shape[-2:]
    size = fit(round(height * ratio), round(width * ratio))
    h, w = (max(1, round(side / ratio)) for side in size)
    image, objects = resize_to(image, objects, (h, w))
    return place(image, objects, rng.randint(0, size[0] - h), rng.randint(0, size[1] - w), size, grey)


def iou_crop(image: Tensor, objects: Objects, rng: random.Random) -> Sample:
    """A random window that overlaps some object by a random IoU at least (SSD, Liu et al. 2016, section 2.2).

    The window has 0.3 to 1 of each side and at most twice the image's ratio of sides, either way. Of objects that it
    cuts, those stay of which `mixing.LEAST` is left, and one at least does. Without objects, and where 40 windows were
    tried in vain (small objects never reach a high IoU with a window), the image stays as it is.
    """
    height, width = image.shape[-2:]
    boxes = objects["boxes"].as_subclass(Tensor)
    if not len(boxes):
        return image, objects
    x1, y1, x2, y2 = boxes.numpy().T
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
        inside = across.clip(0) * down.clip(0)
        if (inside / (areas + h * w - inside)).max() < min_iou:
            continue
        cut, kept = crop(image, objects, top, left, h, w, least=LEAST)
        if len(kept["labels"]):
            return cut, kept
    return image, objects


def upside_down(image: Tensor, objects: Objects) -> Sample:
    """Top becomes bottom."""
    objects = objects.copy()
    objects["boxes"] = tvf.vertical_flip(objects["boxes"])
    if "masks" in objects:
        objects["masks"] = tvf.vertical_flip(objects["masks"])
    return tvf.vertical_flip(image), objects


def recolour(image: Tensor, rng: random.Random) -> Tensor:
    """Another brightness, contrast, saturation and hue, within the ranges of SSD (its photometric distortions).

    Brightness changes by up to an eighth of white, contrast and saturation by up to half, hue by up to a twentieth of
    the circle. Through tables of 256 values, which takes a tenth of the time of torchvision's functions.

    Args:
        image: uint8 [3, H, W], RGB.
        rng: source of all randomness.
    """
    brightness, contrast, saturation = rng.uniform(-32, 32), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    hue = rng.randint(-9, 9)  # of OpenCV's 180
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    levels = np.arange(256)
    middle = sum(cv2.sumElems(pixels)) / pixels.size
    light = (levels - middle) * contrast + middle + brightness
    pixels = cv2.cvtColor(cv2.LUT(pixels, light.round().clip(0, 255).astype(np.uint8)), cv2.COLOR_RGB2HSV)
    tables = np.stack([(levels + hue) % 180, (levels * saturation).clip(0, 255), levels], axis=-1)
    pixels = cv2.LUT(pixels, tables.astype(np.uint8)[None])
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)


def _fitted(image: Tensor, objects: Objects, fit: Fit) -> Sample:
    """The image in the size it has for the model."""
    return resize_to(image, objects, fit(image.shape[-2], image.shape[-1]))
