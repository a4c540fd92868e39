"""Training images loaded per second and core, compared with the reference DETR's recipe in PIL and torchvision.

    python benchmarks/data.py                           # 48 drawn JPEGs of 640 x 480, as COCO has them: a minute
    python benchmarks/data.py --data path/to/dataset --size 640

All variants load the same images with the same random choices, from JPEG to padded batch, in turns, in one process on
one thread. Times are processor times, which other work changes little, of the fastest round. The first table goes from
the reference recipe to detrkit, one change at a time; the second shows the time per stage of detrkit; the third the
cost of mosaic and mixup, which load several images per item, without and with the cache.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as pil

from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.cache import ImageCache
from detrkit.data.formats.detect import open_dataset
from detrkit.data.loader import collate
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.resize_crop import resized_size, train_transform
from detrkit.data.validation.validate import check_dataset
from detrkit.structures import Categories

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Load = Callable[[int, int], Any]
"""(epoch, first index) -> a batch."""


def draw_split(folder: Path, count: int, seed: int = 0) -> Split:
    """Draw JPEGs of 640 x 480 pixels and about 100 kB, with seven boxes each."""
    rng = np.random.default_rng(seed)
    images = []
    for k in range(count):
        coarse = cv2.resize(
            rng.uniform(0, 255, (12, 16, 3)).astype(np.float32), (640, 480), interpolation=cv2.INTER_CUBIC
        )
        fine = cv2.GaussianBlur(rng.normal(0, 40, (480, 640, 3)).astype(np.float32), (0, 0), 1.2)
        path = folder / f"{k:04d}.jpg"
        cv2.imwrite(str(path), (coarse + fine).clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])
        objects = []
        for j in range(7):
            x, y, w, h = rng.uniform((0, 0, 20, 20), (500, 350, 140, 130))
            box = (float(x), float(y), float(x + w), float(y + h))
            objects.append(ObjectRecord(7 * k + j, 1 + j % 3, box, None, False, None, ""))
        images.append(ImageRecord(k, path, path.name, 480, 640, objects))
    return Split("train", images, Categories((1, 2, 3), ("a", "b", "c")), str(folder))


def reference_item(image: ImageRecord, size: int, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
    """Load one image by the recipe of the paper (appendix A.4), with PIL and the functions of torchvision for it.

    Random choices are made in the order of `detrkit.data.transforms.resize_crop`, so that both do the same work.
    """
    with Image.open(image.path) as file:
        pixels = file.convert("RGB")
    width, height = pixels.size
    boxes = torch.tensor([o.box for o in image.objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    labels = torch.tensor([o.category_id for o in image.objects], dtype=torch.int64)

    def resize(shorter: int, longest: int | None) -> None:
        nonlocal pixels, boxes
        w, h = pixels.size
        pixels = pil.resize(pixels, list(resized_size(h, w, shorter, longest)))
        boxes = boxes * torch.tensor([pixels.size[0] / w, pixels.size[1] / h] * 2)

    def scaled(pixels: int) -> int:
        return max(1, round(pixels * size / 800))

    if rng.random() < 0.5:
        pixels = pil.hflip(pixels)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([width, 0.0, width, 0])
    if rng.random() >= 0.5:
        resize(scaled(rng.choice((400, 500, 600))), None)
        w, h = pixels.size
        wide = rng.randint(min(scaled(384), w), min(scaled(600), w))
        tall = rng.randint(min(scaled(384), h), min(scaled(600), h))
        top, left = rng.randint(0, h - tall), rng.randint(0, w - wide)
        pixels = pil.crop(pixels, top, left, tall, wide)
        boxes = (boxes - torch.tensor([left, top] * 2)).reshape(-1, 2, 2)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([wide, tall])).reshape(-1, 4)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, labels = boxes[kept], labels[kept]
    resize(scaled(rng.choice(range(480, 801, 32))), scaled(1333))
    pixels = pil.normalize(pil.to_tensor(pixels), MEAN, STD)
    h, w = pixels.shape[1:]
    boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / torch.tensor([w, h, w, h])
    return pixels, {"labels": labels, "boxes": boxes}


def pad(num_images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Make a batch plainly: copy images into a tensor of zeros."""
    height, width = (max(pixels.shape[d] for pixels in num_images) for d in (1, 2))
    images = torch.zeros(len(num_images), 3, height, width, dtype=num_images[0].dtype)
    padding = torch.ones(len(num_images), height, width, dtype=torch.bool)
    for k, pixels in enumerate(num_images):
        images[k, :, : pixels.shape[1], : pixels.shape[2]].copy_(pixels)
        padding[k, : pixels.shape[1], : pixels.shape[2]] = False
    return images, padding


def read_with_pil(path: str, *_: object, planes: bool, **__: object) -> Tensor:
    """Read an 8-bit image with PIL, in the memory layout [3, H, W] or [H, W, 3]."""
    with Image.open(path) as file:
        pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    return pixels.contiguous() if planes else pixels


def normalized(pixels: Tensor) -> Tensor:
    """Pixels as float32, normalized."""
    mean, std = (torch.tensor(values).mul_(255).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)


class Variants:
    """The variants to load a batch, by name, from the reference recipe to detrkit."""

    def __init__(self, split: Split, size: int, batch: int) -> None:
        self.split, self.size, self.batch = split, size, batch
        self.sizes = [(image.height, image.width) for image in split.images]
        self.detrkit = self.dataset()
        self.cached = self.dataset(cache=ImageCache(self.sizes, 10**10))
        self.loads: dict[str, Load] = {
            "reference recipe: PIL, ToTensor, Normalize": self.reference,
            "tensors resized by torchvision": partial(self.tensors, planes=True, floats=True),
            "not normalized: uint8 batches": partial(self.tensors, planes=True, floats=False),
            "pixels stay [H, W, 3]": partial(self.tensors, planes=False, floats=False),
            "batches filled by OpenCV": partial(self.tensors, planes=False, floats=False, fill=True),
            "OpenCV decodes: detrkit": partial(self.load, self.detrkit),
            "decoded once: the cache": partial(self.load, self.cached),
        }

    def dataset(self, augment: Augment | None = None, cache: ImageCache | None = None) -> DetectionDataset:
        """Make the dataset of detrkit."""
        transform = train_transform("detr", self.size)
        return DetectionDataset(self.split, self.split.categories, transform, augment=augment, cache=cache)

    def keys(self, epoch: int, first: int) -> list[tuple[int, int]]:
        """Keys of the items of a batch."""
        return [(epoch, k) for k in range(first, min(first + self.batch, len(self.split)))]

    def reference(self, epoch: int, first: int) -> Any:
        """Load a batch by the reference recipe."""
        items = [
            reference_item(self.split.images[k], self.size, random.Random(f"0 {epoch} {k}"))
            for epoch, k in self.keys(epoch, first)
        ]
        return *pad([pixels for pixels, _ in items]), [target for _, target in items]

    def load(self, dataset: DetectionDataset, epoch: int, first: int) -> Any:
        """Load a batch with detrkit."""
        return collate([dataset[key] for key in self.keys(epoch, first)])

    def tensors(self, epoch: int, first: int, *, planes: bool, floats: bool, fill: bool = False) -> Any:
        """Load a batch with detrkit's transforms, but as in the reference in the given respects."""
        with patch("detrkit.data.dataset.read_image", partial(read_with_pil, planes=planes)):
            items = [self.detrkit[key] for key in self.keys(epoch, first)]
        if fill:
            return collate(items)
        return *pad([normalized(p) if floats else p for p, _ in items]), [target for _, target in items]


def seconds(loads: dict[str, Load], variants: Variants, rounds: int) -> dict[str, float]:
    """Processor seconds per image of each variant, the least of all rounds, which have different random choices."""
    firsts = range(0, len(variants.split), variants.batch)
    times: dict[str, list[float]] = {name: [] for name in loads}
    for epoch in range(rounds + 1):
        for name, load in loads.items():
            begun = time.process_time()
            for first in firsts:
                load(epoch % 2, first)
            if epoch:  # the first one warms up, and fills caches
                times[name].append((time.process_time() - begun) / len(variants.split))
    # epochs come in two kinds, of different random choices; the mean of the best of both
    return {name: (min(both[0::2]) + min(both[1::2])) / 2 for name, both in times.items()}


@contextmanager
def timed(stages: dict[str, float]) -> Iterator[None]:
    """Add up the processor seconds of the stages of loading."""

    def timing(name: str, function: Callable[..., Any], only: type | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            result = function(*args, **kwargs)
            if only is None or type(args[0]) is only:
                stages[name] = stages.get(name, 0.0) + time.process_time() - begun
            return result

        return call

    from detrkit.data import dataset
    from detrkit.data.transforms import resize_crop as transforms

    with ExitStack() as stack:
        for name, owner, attribute, only in (
            ("decode", dataset, "read_image", None),
            ("resize pixels", transforms.tvf, "resize", Tensor),
            ("boxes and labels", dataset.DetectionDataset, "_objects", None),
        ):
            wrapped = timing(name, getattr(owner, attribute), only)
            stack.enter_context(patch.object(owner, attribute, wrapped))
        yield


def stages_of(variants: Variants, rounds: int) -> dict[str, float]:
    """Milliseconds per image of detrkit, by stage, in the fastest round."""
    best: dict[str, float] = {}
    for epoch in range(rounds):
        stages: dict[str, float] = {}
        begun = time.process_time()
        padding = 0.0
        with timed(stages):
            for first in range(0, len(variants.split), variants.batch):
                items = [variants.detrkit[key] for key in variants.keys(epoch % 2, first)]
                before = time.process_time()
                collate(items)
                padding += time.process_time() - before
        total = time.process_time() - begun
        stages |= {"batch": padding, "the rest": total - padding - sum(stages.values()), "total": total}
        if not best or total < best["total"]:
            best = stages
    return {name: 1000 * value / len(variants.split) for name, value in best.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="data set of any format; without one, images are drawn")
    parser.add_argument("--size", type=int, default=800, help="largest shorter side, pixels")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        split = check_dataset(open_dataset(args.data)).splits["train"] if args.data else None
        split = split or draw_split(Path(folder), args.images)
        split = Split(split.name, split.images[: args.images], split.categories, split.source)
        variants = Variants(split, args.size, args.batch_size)
        print(f"{len(split)} images, the first of {split.images[0].width} x {split.images[0].height}, to {args.size}")
        per_image = seconds(variants.loads, variants, args.rounds)
        plain = next(iter(per_image.values()))
        print("\n| one change at a time | ms per image | images/s per core | times the reference |")
        print("|---|---:|---:|---:|")
        for name, each in per_image.items():
            print(f"| {name} | {1000 * each:.2f} | {1 / each:.0f} | {plain / each:.1f} |")
        print("\n| stage of detrkit | ms per image |\n|---|---:|")
        for name, each in stages_of(variants, args.rounds).items():
            print(f"| {name} | {each:.2f} |")
        mixed = Augment(mosaic=0.5, mixup=0.3)
        both = {
            "without": partial(variants.load, variants.dataset(mixed)),
            "with": partial(variants.load, variants.dataset(mixed, ImageCache(variants.sizes, 10**10))),
        }
        print("\n| mosaic 0.5, mixup 0.3 | ms per image |\n|---|---:|")
        for name, each in seconds(both, variants, args.rounds).items():
            print(f"| {name} the cache | {1000 * each:.2f} |")


if __name__ == "__main__":
    main()
