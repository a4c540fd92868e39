"""A checked split as a PyTorch dataset of images and targets.

Item (epoch, index), with the other images of its mosaic, depends on (seed, epoch, index) alone: not on worker
processes, batch size, order or items loaded before. So a resumed run, or a run over several processes, gets exactly the
same images.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from detrkit.data.decode.cache import ImageCache
from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.data.decode.object_masks import decode_masks
from detrkit.data.item_rows import ItemRows
from detrkit.data.records import ImageRecord, Split, StoredRecords
from detrkit.data.segmentation_json import unpack_segmentation
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.mixing import select_objects
from detrkit.data.transforms.resize_crop import Objects, Transform, has_pixels, make_objects, no_objects
from detrkit.errors import ConfigError, DataError, ShardError
from detrkit.ops.text import first_names
from detrkit.ops.tiles import Tile
from detrkit.structures import Categories, Target


class ItemKey(NamedTuple):
    """What an item of a training set depends on, besides the seed."""

    epoch: int
    image: int
    """Index of the image."""
    no_aug: bool = False
    """Whether the item belongs to the end of a run, which only has `augment.plain()`."""


Key = int | tuple[int, int] | ItemKey
"""An index, (epoch, index), or with the end of the augmentation."""


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Images and targets of a split, or its tiles, augmented and resized.

    `dataset[index]` is the item in the epoch last given to `set_epoch`; `dataset[epoch, index]` names the epoch
    itself. The samplers of `detrkit.data.loader` use the second form, because worker processes hold copies of the
    dataset that `set_epoch` does not reach; `ItemKey` also says whether the augmentation has ended.

    Crowd regions are left out of the targets, as in the reference DETR. An image that can no longer be decoded (it was
    readable when the data set was checked) does not stop an epoch: it gives a warning and a gray image without objects.

    Args:
        split: checked records.
        categories: the model's classes; those of the split are matched to them by name, else by id.
        transform: the last step for each image.
        seed: seed of the augmentation.
        with_masks: targets get `masks`, none of them empty; the mask of an object without a segmentation is its box.
        augment: augmentation before the transform; None: none.
        cache: cache of the decoded images of the split, in their order; None: images are decoded for every item.

    Attributes:
        dropped: number of objects left out because the model has no class for them.
        aspect_ratios: width / height of each image.
        image_numbers: int [n], the same for all tiles of an image; None: no record is a tile.

    Raises:
        DataError: the split has objects, but none of a class of the model.
        ConfigError: `copy_paste` is on, but no object has a segmentation.
    """

    def __init__(
        self,
        split: Split,
        categories: Categories,
        transform: Transform,
        *,
        seed: int = 0,
        with_masks: bool = False,
        augment: Augment | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        self.transform = transform
        self.seed = seed
        self.with_masks = with_masks
        self.augment = augment or Augment()
        self.cache = cache
        self.value_range = split.value_range
        self._needs_masks = with_masks or self.augment.copy_paste > 0
        self.epoch = 0
        index_of = categories.index_map_from(split.categories)
        arrays = split.arrays
        unknown = np.array([category_id not in index_of for category_id in split.categories.ids], bool)
        objects = int(arrays.counts.sum())
        self.dropped = int((unknown[arrays.class_indices] & ~arrays.crowd).sum()) if unknown.any() else 0
        if objects and self.dropped == objects:
            raise DataError(
                f"expected objects of the model's classes ({first_names(categories.names)}) in {split.source}, found "
                f"only {first_names(split.categories.names)}; rename the categories or train for these"
            )
        if self.augment.copy_paste and not split.has_masks:
            raise ConfigError(
                f"--copy_paste needs objects with segmentations, found none in {split.source}; "
                "leave it at 0, and see --mosaic and --mixup"
            )
        self._rows = ItemRows(split.images, split.categories, index_of, with_masks=self._needs_masks)
        self._sizes = arrays.heights, arrays.widths
        self.aspect_ratios = arrays.widths / arrays.heights
        self.image_numbers = None if isinstance(split.images, StoredRecords) else _image_numbers(split.images)
        self._last_image: tuple[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(h, w) of each image after a transform without randomness."""
        return [self.transform.output_size(h, w) for h, w in zip(*(side.tolist() for side in self._sizes), strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of items that are requested by index alone, in this process."""
        self.epoch = epoch

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        """The image, uint8 [3, h, w], and its target with every field of `Target`."""
        epoch, index, no_aug = ItemKey(self.epoch, key) if isinstance(key, int) else ItemKey(*key)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        row, image, objects = self._load(index)
        original_size = image.shape[-2], image.shape[-1]
        rng = random.Random(f"{self.seed} {epoch} {index}")
        transform, augment = self.transform, self.augment.plain() if no_aug else self.augment
        if augment != Augment():
            image, objects, transform = augment(image, objects, transform, lambda: self._another(rng), rng)
        if not self.with_masks:
            objects.pop("masks", None)
        pixels, target = transform(image, objects, rng)
        if self.cache and self.cache.holds(pixels):
            pixels = pixels.clone()  # the caller may write to it
        target["image_id"] = row["id"]
        target["file"] = row["path"]
        target["original_size"] = original_size
        target["noise_seed"] = rng.getrandbits(62)
        if "tile" in row:
            target["tile"] = Tile(*row["tile"])
        return pixels, target

    def _another(self, rng: random.Random) -> tuple[Tensor, Objects]:
        """A random image and its objects."""
        return self._load(rng.randrange(len(self)))[1:]

    def _load(self, index: int) -> tuple[dict[str, Any], Tensor, Objects]:
        """The packed record of an image, its pixels, and its objects (with masks if needed)."""
        row = self._rows[index]
        image = self.cache.get(index) if self.cache else None
        if image is None:
            try:
                image = self._read(row, index)
            except ShardError:  # no single broken image: the storage fails, or the data are other data
                raise
            except DataError as error:
                warnings.warn(f"{error}; a gray image without objects takes its place", stacklevel=3)
                image = torch.full((3, *row["size"]), 128, dtype=torch.uint8)
                row.update(labels=[], boxes=[], area=[], segmentations=[], files=[])
        return row, image, self._objects(row, image.shape[-2], image.shape[-1])

    def _read(self, row: dict[str, Any], index: int) -> Tensor:
        """Decode an image, or the image of a tile, and cache it; of an image all tiles are cached at once."""
        if "tile" not in row:
            image = read_image(row["path"], self.value_range, unknown=ignore_unknown_range)
            if self.cache:
                self.cache.put(index, image)
            return image
        tile = Tile(*row["tile"])
        if self._last_image is None or self._last_image[0] != row["path"]:  # in evaluation tiles follow each other
            self._last_image = None  # never two in memory
            image = read_image(row["path"], self.value_range, unknown=ignore_unknown_range)
            if tuple(image.shape[1:]) != (tile.image_height, tile.image_width):
                raise DataError(
                    f"expected {tile.image_height} x {tile.image_width} pixels (height x width) in {row['path']}, found"
                    f" {image.shape[1]} x {image.shape[2]}"
                )
            self._last_image = row["path"], image
        image = self._last_image[1]
        if self.cache:
            for other in range(index - tile.number, index - tile.number + tile.total):
                if self.cache.get(other) is None:
                    self.cache.put(other, crop_tile(image, Tile(*self._rows[other]["tile"])))
        return crop_tile(image, tile)

    def _objects(self, row: dict[str, Any], height: int, width: int) -> Objects:
        """Make the objects of an image, with boxes clipped to it; objects outside are dropped."""
        boxes = torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        sides = boxes[:, 2:] - boxes[:, :2]
        inside = (sides > 0).all(dim=1)
        areas = [w * h if a is None else a for a, (w, h) in zip(row["area"], sides.tolist(), strict=True)]
        objects = make_objects(
            boxes[inside],
            torch.tensor(row["labels"], dtype=torch.int64)[inside],
            torch.tensor(areas, dtype=torch.float32)[inside],
            height,
            width,
        )
        if self._needs_masks:
            shapes = [unpack_segmentation(packed, row["files"]) for packed in row["segmentations"]]
            try:
                tile = Tile(*row["tile"]) if "tile" in row else None
                masks = decode_masks(shapes, boxes, height, width, tile=tile)
            except ShardError:
                raise
            except DataError as error:
                warnings.warn(f"{error}; the objects of this image are left out", stacklevel=4)
                return no_objects(height, width, with_masks=True)
            if not inside.all():
                masks = masks[inside]
            objects["masks"] = tv_tensors.Mask(masks)
            seen = has_pixels(masks)
            if not seen.all():
                objects = select_objects(objects, seen)
        return objects


def _image_numbers(images: Sequence[ImageRecord]) -> np.ndarray[Any, Any] | None:
    """Number of the image of each record, int [n]; None: no record is a tile."""
    tiles = [image.tile for image in images]
    return np.cumsum([tile is None or tile.number == 0 for tile in tiles]) - 1 if any(tiles) else None


def crop_tile(image: Tensor, tile: Tile) -> Tensor:
    """Copy a tile of an image, uint8 [3, H, W], with the memory layout [h, w, 3] of decoded images."""
    x1, y1, x2, y2 = tile.box
    return image[:, y1:y2, x1:x2].permute(1, 2, 0).contiguous().permute(2, 0, 1)
