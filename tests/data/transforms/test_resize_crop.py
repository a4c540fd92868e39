"""The transforms against geometry that shares no code with them."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from detrkit.data.loader import collate
from detrkit.data.transforms.resize_crop import (
    Objects,
    crop,
    eval_transform,
    flip_horizontal,
    make_objects,
    no_objects,
    resize,
    resized_size,
    train_transform,
)
from detrkit.models.detection_model import normalize


def scene(height: int, width: int, rectangles: list[tuple[int, int, int, int]]) -> tuple[torch.Tensor, Objects]:
    """A dark image with a bright rectangle in a color channel of its own for each object, and its masks."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(rectangles), height, width, dtype=torch.bool)
    for k, (x1, y1, x2, y2) in enumerate(rectangles):
        image[k, y1:y2, x1:x2] = 255
        masks[k, y1:y2, x1:x2] = True
    boxes = torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    objects = make_objects(boxes, torch.arange(len(rectangles)), area, height, width)
    objects["masks"] = tv_tensors.Mask(masks)
    return image, objects


def measured(channel: torch.Tensor) -> tuple[float, float, float, float]:
    """Box of what is bright in an image, to a fraction of a pixel: the edges are where brightness passes one half."""
    x, y = channel.amax(0).double(), channel.amax(1).double()

    def edges(profile: torch.Tensor) -> tuple[float, float]:
        bright = (profile > 0.5).nonzero().flatten()
        return float(bright[0]), float(bright[-1] + 1)

    (x1, x2), (y1, y2) = edges(x), edges(y)
    return x1, y1, x2, y2


def original_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """The rule of the original, written down in its words: shorter side to size, unless the longer exceeds max_size."""
    short, long = float(min(height, width)), float(max(height, width))
    if max_size is not None and long / short * size > max_size:
        size = int(round(max_size * short / long))  # noqa: RUF046
    if min(height, width) == size:
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def test_resized_size_equals_the_reference() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        height, width = rng.randint(1, 3000), rng.randint(1, 3000)
        if max(height, width) / min(height, width) > 30:
            continue
        size = rng.choice(range(40, 801))
        longest = rng.choice([None, 1333, round(size * 1333 / 800)])
        assert resized_size(height, width, size, longest) == original_size(height, width, size, longest)
    assert resized_size(480, 640, 800, 1333) == (800, 1066)
    assert resized_size(1, 5000, 800, 1333) == (1, 5000)  # never 0 pixels


def test_resize_gives_pils_pixels() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    for shorter in (40, 97, 160):
        image, _ = resize(torch.from_numpy(pixels).permute(2, 0, 1), no_objects(97, 131), shorter, None)
        h, w = image.shape[1:]
        expected = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR))
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_masks_are_resized_to_the_nearest_pixel() -> None:
    masks = torch.rand(2, 45, 67, generator=torch.Generator().manual_seed(0)) > 0.5
    objects = no_objects(45, 67)
    objects["masks"] = tv_tensors.Mask(masks)
    for shorter in (20, 64, 90):
        _, resized = resize(torch.zeros(3, 45, 67, dtype=torch.uint8), objects, shorter, None)
        size = resized["masks"].shape[1:]
        expected = torch.nn.functional.interpolate(masks[:, None].double(), size, mode="nearest-exact")[:, 0] > 0.5
        assert torch.equal(resized["masks"].as_subclass(torch.Tensor), expected)


def test_mirror_resize_crop_follow_the_image() -> None:
    image, objects = scene(120, 200, [(20, 30, 80, 70), (100, 10, 180, 110), (0, 0, 200, 120)])
    image, objects = flip_horizontal(image, objects)
    assert objects["boxes"].tolist() == [[120, 30, 180, 70], [20, 10, 100, 110], [0, 0, 200, 120]]
    image, objects = resize(image, objects, 240, None)
    assert objects["boxes"].tolist() == [[240, 60, 360, 140], [40, 20, 200, 220], [0, 0, 400, 240]]
    assert objects["area"].tolist() == [120 * 80, 160 * 200, 400 * 240]
    image, objects = crop(image, objects, 100, 210, 120, 180)
    assert objects["labels"].tolist() == [0, 2]  # the second lies left of the window
    assert objects["boxes"].tolist() == [[30, 0, 150, 40], [0, 0, 180, 120]]
    assert objects["area"].tolist() == [120 * 40, 180 * 120]
    for k, (label, box) in enumerate(zip(objects["labels"], objects["boxes"].tolist(), strict=True)):
        assert measured(image[label] / 255) == pytest.approx(box, abs=1)
        assert measured(objects["masks"][k].float()) == pytest.approx(box, abs=1)


@pytest.mark.parametrize("seed", range(60))
def test_recipe_keeps_boxes_masks_and_areas_in_step(seed: int) -> None:
    rng = random.Random(seed)
    height, width = rng.randint(60, 300), rng.randint(60, 300)
    rectangles = []
    for _ in range(3):
        w, h = rng.randint(12, width), rng.randint(12, height)
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        rectangles.append((x, y, x + w, y + h))
    image, objects = scene(height, width, rectangles)
    transform = train_transform("detr", 160)
    result, target = transform(image, objects, rng)
    assert result.dtype == torch.uint8
    result = result / 255
    h, w = result.shape[1:]
    assert target["size"] == (h, w)
    longest = round(1333 * 160 / 800)
    assert 480 * 160 / 800 <= min(h, w) <= 160 or max(h, w) >= longest - max(h, w) / min(h, w)
    assert max(h, w) <= longest + max(h, w) / min(h, w)
    scale = torch.tensor([w, h, w, h])
    center_size = target["boxes"] * scale
    boxes = torch.cat([center_size[:, :2] - center_size[:, 2:] / 2, center_size[:, :2] + center_size[:, 2:] / 2], 1)
    assert len(boxes) == len(target["labels"]) == len(target["area"]) == len(target["masks"])
    assert target["masks"].shape[1:] == (h, w)
    gone = set(range(3)) - set(target["labels"].tolist())
    for k, label in enumerate(target["labels"].tolist()):
        # The edge of a resized image is blurred over about two source pixels.
        blur = 1.5 + 1.5 * max(h / 60, w / 60)
        if (result[label] > 0.5).any():
            assert measured(result[label]) == pytest.approx(boxes[k].tolist(), abs=blur)
        sides = boxes[k, 2:] - boxes[k, :2]
        assert target["masks"][k].sum() == pytest.approx(float(sides.prod()), rel=0.15, abs=4 * float(sides.sum()))
        assert float(target["area"][k]) == pytest.approx(float(sides.prod()), rel=1e-3)
    for label in gone:
        assert (result[label] > 0.5).sum() <= 2 * (h + w)


def test_recipe_covers_both_branches_and_all_sizes() -> None:
    transform = train_transform("detr", 800)
    image, objects = scene(24, 30, [(0, 0, 30, 24)])
    shorter = set()
    for seed in range(120):
        size = transform(image, objects, random.Random(seed))[1]["size"]
        shorter.add(min(size))
    assert set(range(480, 801, 32)) <= shorter


def test_flip_and_none() -> None:
    image, objects = scene(80, 100, [(0, 0, 50, 80)])
    sides = set()
    for seed in range(20):
        _, target = train_transform("flip", 80)(image, objects, random.Random(seed))
        sides.add(target["boxes"][0, 0].item())
        _, target = train_transform("none", 80)(image, objects, random.Random(seed))
        assert target["boxes"].tolist() == [[0.25, 0.5, 0.5, 1.0]]
    assert sides == {0.25, 0.75}


def test_images_reach_the_model_as_pixels_which_it_normalizes_as_the_field_does() -> None:
    pixels = torch.randint(0, 256, (3, 64, 90), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image, target = eval_transform(64)(pixels)
    assert image.dtype == torch.uint8
    assert torch.equal(image, pixels)
    colors = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in colors)
    batch = collate([(image, target)])
    seen = normalize(batch.images, batch.padding_mask, *colors)
    assert torch.allclose(seen[0].double(), (pixels.double() / 255 - mean) / std, atol=1e-5)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].dtype == torch.int64
    transform = eval_transform(100)
    for height, width in ((64, 90), (300, 40), (50, 51)):
        image, _ = transform(torch.zeros(3, height, width, dtype=torch.uint8))
        assert tuple(image.shape[1:]) == transform.output_size(height, width)


def test_crop_drops_objects_without_area_or_visible_mask() -> None:
    image, objects = scene(40, 40, [(0, 0, 20, 40), (0, 0, 40, 40), (20, 20, 30, 30)])
    objects["masks"][1, :, 20:] = False  # its box reaches the window, its mask does not
    _, kept = crop(image, objects, 0, 20, 40, 20)
    assert kept["labels"].tolist() == [2]
    del objects["masks"]
    _, kept = crop(image, objects, 0, 20, 40, 20)
    assert kept["labels"].tolist() == [1, 2]


def test_same_seed_same_result() -> None:
    image, objects = scene(120, 90, [(10, 10, 80, 60)])
    transform = train_transform("detr", 120)
    first, again = (transform(image, objects, random.Random("7 3 1"))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert image.max() == 255  # the source is untouched


@pytest.mark.parametrize("augmentation", ["detr", "flip", "none"])
def test_squares(augmentation: Any) -> None:
    """Both sides become the size, and boxes and masks are stretched with the image."""
    image = torch.zeros(3, 60, 100, dtype=torch.uint8)
    image[:, 15:45, 20:70] = 255
    objects = make_objects(torch.tensor([[20.0, 15.0, 70.0, 45.0]]), torch.tensor([1]), torch.tensor([1500.0]), 60, 100)
    objects["masks"] = tv_tensors.Mask(image[:1] > 0)
    transform = train_transform(augmentation, 80, square_resize=True)
    for seed in range(8):
        one_image, target = transform(image, objects, random.Random(seed))
        assert one_image.shape[1] == one_image.shape[2] <= 80
        assert augmentation == "detr" or one_image.shape[1] == 80
        bright = (one_image[0] > 127).nonzero()
        (top, left), (bottom, right) = bright.min(0).values.tolist(), (bright.max(0).values + 1).tolist()
        cx, cy, w, h = (target["boxes"][0] * one_image.shape[1]).tolist()
        assert [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] == pytest.approx([left, top, right, bottom], abs=1.5)
        assert target["masks"][0].sum().item() == pytest.approx(w * h, rel=0.1)
    assert transform.output_size(60, 100) == (80, 80)
