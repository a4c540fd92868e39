"""Masks of every source through every augmentation: where the pixels of the object are, and its box around them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode.mask_files import FileMask
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.mixing import mosaic
from detrkit.data.transforms.resize_crop import (
    Augmentation,
    make_objects,
    no_objects,
    resize_to,
    resized_size,
    train_transform,
)
from detrkit.ops.masks import encode_rle
from detrkit.structures import Categories

from .scenes import extent, pixels_of, rectangles, scene

SOURCES = ("polygons", "rle", "file", "files", "panoptic")
CATEGORIES = Categories(tuple(range(1, 8)), tuple("abcdefg"))


def segmentation(source: str, folder: Path, label: int, box: tuple[int, ...], plane: torch.Tensor) -> Any:
    x1, y1, x2, y2 = box
    if source == "polygons":
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]
    if source == "rle":
        return encode_rle(plane)
    if source == "files":
        path = folder / f"{label}.png"
        assert cv2.imwrite(str(path), plane.numpy().astype(np.uint8) * 255)
        return FileMask(path, 0)
    path = folder / "ids.png"
    channels = 3 if source == "panoptic" else 1  # blue is the highest of R + 256 G + 65536 B
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.exists() else None
    if ids is None:
        ids = np.zeros((*plane.shape, channels) if channels == 3 else plane.shape, np.uint8)
    ids[plane.numpy()] = (label, 0, 0) if channels == 3 else label
    assert cv2.imwrite(str(path), ids)
    return FileMask(path, label * 65536 if channels == 3 else label)


def scenes(folder: Path, source: str) -> Split:
    """Three images of several shapes with two objects each, which colors tell apart."""
    rng = random.Random(0)
    images = []
    for k, (height, width, labels) in enumerate([(90, 140, [1, 2]), (130, 100, [4, 3]), (120, 120, [5, 6])]):
        inside = folder / str(k)
        inside.mkdir()
        actual = rectangles(rng, height, width, labels)
        image, objects = scene(height, width, actual, ground=40, masks=True)
        path = inside / "image.png"
        assert cv2.imwrite(str(path), image.permute(1, 2, 0).flip(-1).numpy())
        records = []
        for label, plane in zip(labels, objects["masks"].as_subclass(torch.Tensor), strict=True):
            shape = segmentation(source, inside, label, actual[label], plane)
            box = tuple(float(v) for v in actual[label])
            records.append(ObjectRecord(10 * k + label, label, box, None, False, shape, f"annotations[{label}]"))
        images.append(ImageRecord(k + 1, path, path.name, height, width, records))
    return Split("train", images, CATEGORIES, str(folder))


DARK = (0, 0, 0)
AUGMENTATIONS: dict[str, tuple[Augmentation, Augment]] = {
    "none": ("none", Augment()),
    "flip": ("flip", Augment()),
    "detr": ("detr", Augment()),
    **{
        name: ("flip", Augment(**{name: 1.0}, fill=DARK))
        for name in ("mosaic", "copy_paste", "zoom_out", "iou_crop", "vertical_flip", "mixup", "multi_scale")
    },
    "all": ("detr", Augment(mosaic=0.5, copy_paste=0.5, zoom_out=0.5, iou_crop=0.5, vertical_flip=0.5, fill=DARK)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_masks_follow_their_pixels(tmp_path: Path, source: str) -> None:
    split = scenes(tmp_path, source)
    for name, (recipe, augment) in AUGMENTATIONS.items():
        dataset = DetectionDataset(
            split, CATEGORIES, train_transform(recipe, 110), with_masks=True, augment=augment, seed=3
        )
        epochs = 1 if name == "none" else 4
        seen = 0
        for epoch, k in ((epoch, k) for epoch in range(epochs) for k in range(3)):
            one_image, target = dataset[epoch, k]
            height, width = one_image.shape[1:]
            masks = target["masks"]
            assert masks.shape == (len(target["labels"]), height, width)
            for label, box, mask in zip(target["labels"].tolist(), target["boxes"], masks, strict=True):
                assert mask.any()
                cx, cy, w, h = (box * torch.tensor([width, height, width, height])).tolist()
                around = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                assert np.abs(np.array(around) - extent(mask)).max() <= 1.51, (name, label)
                if augment.mixup or target["labels"].tolist().count(label) > 1:
                    continue  # colors are mixed, or two objects have one
                pixels = pixels_of(one_image, label + 1)
                left, top, right, bottom = (int(v) for v in extent(mask))  # beyond it lies what a mosaic cut off
                differ = (pixels ^ mask)[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
                assert differ.sum() <= 2 * (w + h), (name, label)
                seen += 1
        assert seen or name == "mixup"


@pytest.mark.parametrize("source", SOURCES)
def test_values_without_augmentation(tmp_path: Path, source: str) -> None:
    """At its own size the mask is the object; at another one it is what OpenCV makes of it."""
    split = scenes(tmp_path, source)
    for size in (90, 61, 200):
        dataset = DetectionDataset(split, CATEGORIES, train_transform("none", size), with_masks=True)
        one_image, target = dataset[0]
        own = cv2.imread(str(split.images[0].path))[..., ::-1].copy()
        for obj, mask in zip(split.images[0].objects, target["masks"], strict=True):
            plane = pixels_of(torch.from_numpy(own).permute(2, 0, 1), obj.category_id).numpy().astype(np.uint8)
            h, w = one_image.shape[1:]
            expected = cv2.resize(plane, (w, h), interpolation=cv2.INTER_NEAREST_EXACT) > 0
            assert np.array_equal(mask.numpy(), expected)


def test_masks_at_another_size_are_the_nearest_pixels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width, h, w = rng.integers(1, 40, 4).tolist()
        masks = torch.from_numpy(rng.random((4, height, width)) < 0.3)
        masks[1] = False
        objects = no_objects(height, width)
        objects = make_objects(torch.ones(4, 4), torch.zeros(4), torch.zeros(4), height, width)
        objects["masks"] = type(scene(2, 2, {}, masks=True)[1]["masks"])(masks)
        got = resize_to(torch.zeros(3, height, width, dtype=torch.uint8), objects, (h, w))[1]["masks"]
        expected = functional.interpolate(masks[None].float(), size=(h, w), mode="nearest-exact")[0] > 0
        assert (got.as_subclass(torch.Tensor) ^ expected).float().mean() < 0.02  # but where two are as near


def test_objects_without_a_visible_pixel_are_dropped_by_crops_and_kept_by_resizing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.zeros((100, 100, 3), np.uint8))
    dot = [[51, 51, 52, 51, 52, 52, 51, 52]]
    corner = [[0, 0, 8, 0, 8, 8, 0, 8]]
    objects = [
        ObjectRecord(1, 1, (51, 51, 52, 52), 1, False, dot, ""),
        ObjectRecord(2, 2, (0, 0, 100, 100), 64, False, corner, ""),  # its box is everywhere, its pixels are not
    ]
    split = Split("train", [ImageRecord(1, path, "a.png", 100, 100, objects)], CATEGORIES, "")
    small = DetectionDataset(split, CATEGORIES, train_transform("none", 20), with_masks=True)[0][1]
    assert small["masks"].flatten(1).sum(dim=1).tolist() == [1, 4]  # the dot is between the nearest pixels
    assert small["masks"][0, 10, 10]
    cropped = DetectionDataset(split, CATEGORIES, train_transform("detr", 100), with_masks=True)
    labels = [cropped[epoch, 0][1]["labels"].tolist() for epoch in range(40)]
    assert [0, 1] in labels
    assert [0] in labels or [] in labels
    for epoch in range(40):
        assert cropped[epoch, 0][1]["masks"].flatten(1).any(dim=1).all()


def test_segments_that_are_not_in_their_file_are_dropped(tmp_path: Path) -> None:
    split = scenes(tmp_path, "panoptic")
    gone = replace(split.images[0].objects[0], segmentation=FileMask(tmp_path / "0" / "ids.png", 7))
    images = [replace(split.images[0], objects=[gone, *split.images[0].objects[1:]])]
    dataset = DetectionDataset(replace(split, images=images), CATEGORIES, train_transform("none", 90), with_masks=True)
    assert dataset[0][1]["labels"].tolist() == [1]
    assert len(dataset[0][1]["masks"]) == 1
    (tmp_path / "0" / "ids.png").unlink()
    with pytest.warns(UserWarning, match=r"ids\.png, found no such file; the objects of this image are left out"):
        _, target = dataset[0]
    assert target["masks"].shape[0] == len(target["labels"]) == 0


def test_a_mosaic_of_crowded_images() -> None:
    """500 objects per image: the masks of what is shown are held once, at the size of the result."""
    side, each = 200, 500
    boxes = torch.tensor([[k % 25 * 8, k // 25 * 8, k % 25 * 8 + 6, k // 25 * 8 + 6] for k in range(each)]).float()
    masks = torch.zeros(each, side, side, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    objects = make_objects(boxes, torch.zeros(each, dtype=torch.int64), torch.full((each,), 36.0), side, side)
    objects["masks"] = type(scene(2, 2, {}, masks=True)[1]["masks"])(masks)
    _, mixed = mosaic([(image, objects)] * 4, lambda h, w: resized_size(h, w, 100, None), random.Random(0))
    count = len(mixed["labels"])
    assert 500 < count <= 2000
    assert mixed["masks"].shape == (count, 100, 100)
    for box, mask in zip(mixed["boxes"].tolist()[::97], mixed["masks"][::97], strict=True):
        assert np.abs(np.array(box) - extent(mask)).max() <= 1.5
