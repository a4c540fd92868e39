"""Generated scenes as a data set: drawn when they are loaded, or written to a folder.

dataset = SceneDataset(images=10_000, size=224, seed=0)      new images in every epoch, no file
make_scene_dataset("scenes", images=10_000, size=224)        a COCO folder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detrkit.data.dataset import ItemKey, Key
from detrkit.data.synthetic.coco_folder import complete_folder, instance_rows, write_coco, write_image
from detrkit.data.synthetic.contours import FAMILIES
from detrkit.data.synthetic.scenes import Scene, draw_scene
from detrkit.errors import ConfigError
from detrkit.structures import Categories, Target

SCENE_CATEGORIES = Categories(tuple(range(1, len(FAMILIES) + 1)), tuple(FAMILIES))
"""The classes of generated scenes."""


class SceneDataset(Dataset[tuple[Tensor, Target]]):
    """Generated scenes that are drawn when they are loaded.

    Item (epoch, index) depends on (seed, epoch, index) alone, and epochs have different images. `dataset[index]` is the
    item of epoch 0, so that a data set of its own seed can be evaluated on.

    Args:
        images: number of images per epoch.
        size: side of the images in pixels.
        seed: source of all randomness.

    Attributes:
        shapes: (h, w) of each image.
        aspect_ratios: width / height of each image.
        image_numbers: None, since no image is a tile of another.
    """

    def __init__(self, images: int, size: int, seed: int = 0) -> None:
        _check(images, size, seed)
        self.images, self.size, self.seed = images, size, seed
        self.shapes = [(size, size)] * images
        self.aspect_ratios = np.ones(images)
        self.image_numbers = None

    def __len__(self) -> int:
        return self.images

    def draw(self, epoch: int, index: int) -> Scene:
        """Draw the scene of an item."""
        if not 0 <= index < self.images:
            raise IndexError(f"image {index} of {self.images}")
        return draw_scene(self.size, np.random.default_rng((self.seed, epoch, index)))

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        """The image, uint8 [3, S, S], and its target."""
        epoch, index, _ = ItemKey(0, key) if isinstance(key, int) else ItemKey(*key)
        scene = self.draw(epoch, index)
        boxes = torch.from_numpy(scene.boxes).float()  # [n, 4], x1, y1, x2, y2
        corner, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        target = Target(
            labels=torch.tensor(scene.labels, dtype=torch.int64),
            boxes=torch.cat([corner + sides / 2, sides], 1) / self.size,
            area=sides.prod(1),
            image_id=index + 1,
            file=f"scene {index} of epoch {epoch}",
            original_size=(self.size, self.size),
            size=(self.size, self.size),
            noise_seed=(epoch << 32) + index,
        )
        return torch.from_numpy(scene.pixels).permute(2, 0, 1), target

    def to_coco(self) -> dict[str, Any]:
        """Draw all images of epoch 0, and make their ground truth as COCO instances, without masks."""
        rows: list[dict[str, Any]] = []
        for index in range(self.images):
            scene = self.draw(0, index)
            for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes.tolist(), strict=True):
                row = {"id": len(rows) + 1, "image_id": index + 1, "category_id": label + 1, "iscrowd": 0}
                rows.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        images = [{"id": i + 1, "height": self.size, "width": self.size} for i in range(self.images)]
        return {"images": images, "annotations": rows, "categories": SCENE_CATEGORIES.to_plain()}


def make_scene_dataset(
    folder: str | Path, *, images: int, val_images: int = 500, size: int = 224, seed: int = 0
) -> Path:
    """Write generated scenes as a COCO folder with masks, unless it already holds them with the same settings.

    The same settings give the same files, byte for byte. The folder gets its name only when it is complete.

    Args:
        folder: the folder of the data set; it must be absent or empty.
        images: number of training images.
        val_images: number of validation images.
        size: side of the images in pixels, at least 32.
        seed: source of all randomness.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the folder holds other files.
    """
    _check(min(images, val_images), size, seed)
    info = {"description": "detrkit: generated scenes of shapes by formula", "version": "1"}
    settings = {"images": images, "val_images": val_images, "size": size, "seed": seed}
    with complete_folder(Path(folder), info | settings) as new:
        if new:
            _write_split(new, "train", range(1, images + 1), info | settings)
            _write_split(new, "val", range(images + 1, images + 1 + val_images), info | settings)
    return Path(folder)


def _write_split(root: Path, name: str, ids: range, info: dict[str, Any]) -> None:
    """Draw and write one split; an image depends on size, seed and its id alone."""
    size = info["size"]
    (root / "images" / name).mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in ids:
        scene = draw_scene(size, np.random.default_rng((info["seed"], image_id)))
        file_name = f"{name}/{image_id:06d}.jpg"
        write_image(root / "images" / file_name, scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        rows.append({"id": image_id, "file_name": file_name, "height": size, "width": size})
        masks = [scene.mask(k) for k in range(len(scene.labels))]
        annotations += instance_rows(scene.labels, masks, image_id, first_id=len(annotations) + 1)
    write_coco(root / f"{name}.json", info, rows, annotations, SCENE_CATEGORIES.to_plain())


def _check(images: int, size: int, seed: int) -> None:
    """Refuse settings out of range."""
    if images < 1 or size < 32 or seed < 0:
        raise ConfigError(
            f"generated scenes need images >= 1, size >= 32 and seed >= 0, found {images}, {size} and {seed}"
        )
