"""Detect objects in the tiles of an image, batch by batch, and merge them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from detrkit.data.dataset import crop_tile
from detrkit.data.loader import collate
from detrkit.inference.guards import memory_explained
from detrkit.inference.inputs import ImageInput
from detrkit.inference.prefetch import prefetch
from detrkit.inference.streaming import Read, Sample, batched
from detrkit.inference.tile_merging import MIN_SCORE_SHARE, MaskPatch, TileDetections, merge_tiles
from detrkit.ops.tiles import Tile, Tiling
from detrkit.results import Detections
from detrkit.structures import Batch, Categories, Target

Detect = Callable[[Batch, float, int | None], list[Detections]]
"""From a batch, the lowest score and top_k to the detections of each image."""


class TiledDetector:
    """Detects objects in whole images by detecting them in tiles.

    Memory grows with one image and one batch of tiles, not with the number of tiles.

    Args:
        tiling: how images are cut.
        sample: resizes a tile.
        detect: detects objects in a batch of tiles.
        categories: classes of the detections.
        batch_size: most tiles per batch.
        max_overlap: see `Detector.max_overlap`; `detect` applies it to tiles.
    """

    def __init__(
        self,
        tiling: Tiling,
        sample: Sample,
        detect: Detect,
        categories: Categories,
        batch_size: int,
        max_overlap: float | None = None,
    ) -> None:
        self.max_overlap = max_overlap
        self.tiling, self.sample, self._detect, self.batch_size = tiling, sample, detect, batch_size
        self.name_of = dict(zip(categories.ids, categories.names, strict=True))

    def stream(
        self,
        images: Iterable[ImageInput],
        read: Read,
        threshold: float,
        top_k: int | None,
        limit: int,
    ) -> Iterator[tuple[Tensor, str | None, Detections]]:
        """As `stream_batches`: each image, its source and its detections. At most one image is read in advance."""
        for pixels, source in prefetch(read, images, min(limit, 1)):
            yield pixels, source, self.detect(pixels, threshold, top_k)

    def detect(self, pixels: Tensor, threshold: float, top_k: int | None = None) -> Detections:
        """Detect objects in an image, uint8 [3, H, W]; see `Detector.predict`.

        In tiles also detections below the threshold are made, down to those that may extend one above it, so that a
        higher threshold only leaves out detections.
        """
        grid = self.tiling.grid(pixels.shape[1], pixels.shape[2])
        if len(grid) == 1:
            return self._detect(collate([self.sample(pixels)]), threshold, top_k)[0]

        def crop(tile: Tile) -> tuple[Tile, tuple[Tensor, Target]]:
            return tile, self.sample(crop_tile(pixels, tile))

        parts = []
        for some in batched(prefetch(crop, grid, 2 * self.batch_size), self.batch_size):
            batch = collate([sample for _, sample in some])
            found = self._detect(batch, MIN_SCORE_SHARE * threshold, top_k)
            parts += [_of_tile(detections, tile) for (tile, _), detections in zip(some, found, strict=True)]
        merged = merge_tiles(parts)
        count = int((merged.scores.astype(np.float32) >= np.float32(threshold)).sum()) if threshold > 0 else len(merged)
        detections = self._detections(merged, min(count, top_k) if top_k else count)
        return detections if self.max_overlap is None else detections.without_overlaps(self.max_overlap)

    def _detections(self, merged: TileDetections, count: int) -> Detections:
        """The best `count` detections, with masks of the size of the image."""
        tile, masks = merged.tile, None
        if merged.masks is not None:
            # memory that is never written to is not occupied
            with memory_explained():
                pixels = np.zeros((count, tile.height, tile.width), np.bool_)
            for mask, patch in zip(pixels, merged.masks, strict=False):
                if patch:
                    patch.paint(mask)
            masks = torch.from_numpy(pixels)
        ids = merged.labels[:count]
        return Detections(
            torch.from_numpy(merged.boxes[:count]).float(),
            torch.from_numpy(merged.scores[:count]).float(),
            torch.from_numpy(ids),
            tuple(self.name_of[k] for k in ids.tolist()),
            masks,
            (tile.height, tile.width),
        )


def _of_tile(detections: Detections, tile: Tile) -> TileDetections:
    """Move the detections of a tile to their place in the image."""
    on_cpu = detections.cpu()
    masks = None
    if on_cpu.masks is not None:
        masks = tuple(MaskPatch.of(mask, tile) for mask in on_cpu.masks.numpy())
    corner = np.array([tile.left, tile.top] * 2, np.float64)
    return TileDetections(
        tile, on_cpu.xyxy.double().numpy() + corner, on_cpu.scores.double().numpy(), on_cpu.class_ids.numpy(), masks
    )
