"""Records of tiles: a split of images becomes a split of the tiles of these images, which are cropped when loaded."""

from __future__ import annotations

from dataclasses import replace

from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.transforms.mixing import MIN_VISIBLE
from detrkit.ops.tiles import Tile, Tiling, visible_share


def tile_split(split: Split, tiling: Tiling) -> Split:
    """Cut all images of a split into tiles; the tiles of an image are consecutive.

    An object belongs to each tile that shows at least a quarter of it (`visible_share`), with its box clipped to the
    tile; so every object belongs to at least one. Crowd regions belong to every tile that they touch. An image that
    fits into one tile stays as it is.
    """
    return replace(split, images=[tile for image in split.images for tile in tile_image(image, tiling)])


def tile_image(image: ImageRecord, tiling: Tiling) -> list[ImageRecord]:
    """Cut one image into tiles, see `tile_split`. Boxes are in pixels of the tile, masks of the whole image."""
    grid = tiling.grid(image.height, image.width)
    if len(grid) == 1:
        return [image]
    return [
        ImageRecord(image.id, image.path, image.file_name, tile.height, tile.width, _objects_in(image, tile), tile=tile)
        for tile in grid
    ]


def _objects_in(image: ImageRecord, tile: Tile) -> list[ObjectRecord]:
    objects = []
    for obj in image.objects:
        share, box = visible_share(obj.box, tile)
        if share >= MIN_VISIBLE or (obj.crowd and share > 0):
            whole = (obj.box[2] - obj.box[0]) * (obj.box[3] - obj.box[1])
            part = (box[2] - box[0]) * (box[3] - box[1])
            area = None if obj.area is None else obj.area * min(1.0, part / whole)
            objects.append(replace(obj, box=box, area=area))
    return objects
