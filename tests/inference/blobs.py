"""A backend that finds bright rectangles exactly, so that what becomes of its detections can be foretold."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from detrkit import Categories, Detector
from detrkit.ops.tiles import Tiling
from detrkit.structures import Output, Preprocessing

CATEGORIES = Categories((3, 7), ("red", "green"))
QUERIES = 40


class BlobBackend:
    """Every connected region of one color channel is an object, found with a score of 0.9 and an exact box."""

    device, sigmoid, num_queries = torch.device("cpu"), True, QUERIES

    def __init__(self, masks: bool = False) -> None:
        self.makes_masks = masks
        self.shapes: list[tuple[int, ...]] = []
        """Shapes of the batches so far."""

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        self.shapes.append(tuple(images.shape))
        count, _, height, width = images.shape
        logits = torch.full((count, QUERIES, 2), -9.0)
        boxes, masks = torch.full((count, QUERIES, 4), 0.5), torch.full((count, QUERIES, height, width), -9.0)
        for i, image in enumerate(images.numpy()):
            query = 0
            for label in (0, 1):
                number, regions = cv2.connectedComponents((image[label] > 127).astype(np.uint8))
                for region in range(1, number):
                    rows, columns = np.nonzero(regions == region)
                    x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                    box = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
                    boxes[i, query] = torch.tensor(box)
                    logits[i, query, label] = 2.0
                    masks[i, query] = torch.from_numpy(np.where(regions == region, 9.0, -9.0))
                    query += 1
        out = Output(logits, boxes, sigmoid=True, padded_size=(height, width))
        return Output(logits, boxes, masks, sigmoid=True, padded_size=(height, width)) if self.makes_masks else out


def blob_detector(image_size: int, tiling: Tiling | None, masks: bool = False) -> Detector:
    """A detector of blobs, which leaves tiles of `image_size` pixels as they are."""
    return Detector(BlobBackend(masks), CATEGORIES, Preprocessing(image_size, tiling=tiling))


def draw_blobs(
    height: int, width: int, count: int, seed: int, sides: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, int, int, int, int]]]:
    """An image [H, W, 3] of rectangles that do not touch, and their x1, y1, x2, y2, class."""
    rng = np.random.default_rng(seed)
    image, taken, rows = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool), []
    for _ in range(count):
        w, h = (int(v) for v in rng.integers(*sides, 2))
        x, y, label = int(rng.integers(0, width - w)), int(rng.integers(0, height - h)), int(rng.integers(2))
        if not taken[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            taken[y : y + h, x : x + w] = True
            image[y : y + h, x : x + w, label] = 255
            rows.append((x, y, x + w, y + h, label))
    return image, rows
