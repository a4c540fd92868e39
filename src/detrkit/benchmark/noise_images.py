"""Synthetic images for benchmarks without a data set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.structures import Categories

HEIGHT, WIDTH = 480, 640
"""The most frequent size in COCO."""

OBJECTS = 7
"""Objects per image; COCO has 7.3 on average."""


def draw_images(folder: Path, count: int, categories: Categories, seed: int = 0) -> Split:
    """Write JPEG files, each about as large as one of COCO, with boxes of one color on a cloudy background.

    Args:
        folder: where to write.
        count: number of images, at least 1.
        categories: from which the classes of objects are drawn.
        seed: of the random numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for image_id in range(1, count + 1):
        random = np.random.default_rng((seed, image_id))
        clouds = random.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
        pixels = cv2.resize(clouds, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        objects = []
        for number in range(OBJECTS):
            w, h = (int(side) for side in random.integers(24, (WIDTH // 2, HEIGHT // 2)))
            x, y = (int(low) for low in random.integers(0, (WIDTH - w, HEIGHT - h)))
            cv2.rectangle(pixels, (x, y), (x + w, y + h), random.integers(0, 256, 3).tolist(), thickness=-1)
            category = categories.ids[int(random.integers(len(categories)))]
            box = (float(x), float(y), float(x + w), float(y + h))
            objects.append(ObjectRecord(number, category, box, None, False, None, f"object {number}"))
        noise = random.normal(0, 12, pixels.shape)  # without it the files would be too small
        path = folder / f"{image_id:06d}.jpg"
        cv2.imwrite(str(path), np.clip(pixels + noise, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])
        images.append(ImageRecord(image_id, path, path.name, HEIGHT, WIDTH, objects))
    return Split("train", images, categories, str(folder))
