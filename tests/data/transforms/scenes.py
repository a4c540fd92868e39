"""Images whose objects are told apart by color, so that they can be found again in the pixels."""

import random

import torch
from torchvision import tv_tensors

from detrkit.data.transforms.mixing import Sample
from detrkit.data.transforms.resize_crop import Objects, make_objects

Rectangle = tuple[int, int, int, int]
BRIGHT = 230


def scene(height: int, width: int, rectangles: dict[int, Rectangle], *, ground: int = 0, masks: bool = False) -> Sample:
    """A gray image with rectangles x1, y1, x2, y2; label k, 1 to 7, has the color that k is in binary (red is 1).

    The ground is a gray of less than 100 and counts as dark.
    """
    image = torch.full((height, width, 3), ground, dtype=torch.uint8).permute(2, 0, 1)
    shapes = torch.zeros(len(rectangles), height, width, dtype=torch.bool)
    for row, (label, (x1, y1, x2, y2)) in enumerate(rectangles.items()):
        image[:, y1:y2, x1:x2] = color(label)
        shapes[row, y1:y2, x1:x2] = True
    boxes = torch.tensor(list(rectangles.values()), dtype=torch.float32).reshape(-1, 4)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    objects = make_objects(boxes, torch.tensor(list(rectangles), dtype=torch.int64), area, height, width)
    if masks:
        objects["masks"] = tv_tensors.Mask(shapes)
    return image, objects


def color(label: int) -> torch.Tensor:
    return torch.tensor([BRIGHT * (label >> c & 1) for c in range(3)], dtype=torch.uint8).view(3, 1, 1)


def pixels_of(image: torch.Tensor, label: int) -> torch.Tensor:
    """bool [h, w]: where the image, uint8, has the color of a label."""
    bright = image > BRIGHT // 2
    expected = torch.tensor([bool(label >> c & 1) for c in range(3)]).view(3, 1, 1)
    return (bright == expected).all(dim=0)


def extent(mask: torch.Tensor) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the true pixels."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    def area(box: tuple[float, ...]) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (area(a) + area(b) - both)


def assert_boxes_follow(image: torch.Tensor, objects: Objects, *, least: float = 0.9) -> None:
    """Every box is where the pixels of its object are, inside the image."""
    height, width = image.shape[1:]
    for label, box in zip(objects["labels"].tolist(), objects["boxes"].tolist(), strict=True):
        assert 0 <= box[0] < box[2] <= width + 1e-3
        assert 0 <= box[1] < box[3] <= height + 1e-3
        actual = extent(pixels_of(image, label))
        close = max(abs(x - y) for x, y in zip(actual, box, strict=True)) <= 1
        assert close or iou(actual, tuple(box)) > least, (label, actual, box)


def rectangles(rng: random.Random, height: int, width: int, labels: list[int]) -> dict[int, Rectangle]:
    """One rectangle a label, which do not touch: each in a column of its own."""
    actual = {}
    for k, label in enumerate(labels):
        left, right = k * width // len(labels) + 2, (k + 1) * width // len(labels) - 2
        w, h = rng.randint(8, right - left), rng.randint(8, height - 4)
        x, y = rng.randint(left, right - w), rng.randint(2, height - 2 - h)
        actual[label] = (x, y, x + w, y + h)
    return actual
