"""Write detections as labels that tools import, to be corrected there and trained on afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detrkit.data.formats.coco_writer import CocoWriter
from detrkit.data.formats.cvat_writer import CvatWriter
from detrkit.data.formats.label_studio_writer import LabelStudioWriter
from detrkit.data.formats.label_writer import LabelWriter
from detrkit.data.formats.labelme_writer import LabelmeWriter
from detrkit.data.formats.voc_writer import VocWriter
from detrkit.data.formats.yolo_writer import YoloWriter
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.ops.masks import encode_rle
from detrkit.results import Detections
from detrkit.structures import Categories

WRITERS: dict[str, type[LabelWriter]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "voc": VocWriter,
    "labelme": LabelmeWriter,
    "cvat": CvatWriter,
    "label_studio": LabelStudioWriter,
}
"""Value of `--write` -> writer."""

SPLIT = "train"
"""The split that pre-labeled images belong to, in formats with splits: corrected, they are trained on."""


class PreLabels:
    """Writes images and their detections as labels of a tool.

    Args:
        folder: an empty folder.
        form: a key of `WRITERS`.
        categories: the model's classes.
        masks: whether detections have masks.
        tolerance: largest distance in pixels of polygons from the masks, see `polygons_from_mask`.
    """

    def __init__(self, folder: Path, form: str, categories: Categories, *, masks: bool, tolerance: float) -> None:
        self.writer = WRITERS[form](folder, categories, masks=masks, tolerance=tolerance)
        self._next_id = 1

    def write(
        self,
        detections: Detections,
        image_id: int,
        name: str,
        path: Path,
        size: tuple[int, int],
        pixels: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Write an image with its detections.

        Args:
            detections: of the image, with original ids.
            image_id: COCO id of the image.
            name: relative name of the image, with forward slashes.
            path: the image file, or the video of a frame.
            size: height and width of the image in pixels.
            pixels: the frame of a video, uint8 RGB [H, W, 3]; None: the image is a file.
        """
        objects, scores = as_objects(detections, size, self._next_id)
        self._next_id += len(objects)
        self.writer.add(ImageRecord(image_id, path, name, *size, objects), SPLIT, scores, pixels)


def as_objects(
    detections: Detections, size: tuple[int, int], first_id: int = 1
) -> tuple[list[ObjectRecord], list[float]]:
    """Convert detections to annotated objects and their scores.

    Boxes are clipped to the image; with masks, they are the boxes around these, as labeling tools compute them.
    Detections of which nothing is inside the image are left out.

    Args:
        detections: with original ids.
        size: height and width of the image in pixels.
        first_id: id of the first object; the next one has the next id.
    """
    height, width = size
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = detections.xyxy.float().nan_to_num(0.0).clamp(min=0).minimum(limit)
    objects: list[ObjectRecord] = []
    scores: list[float] = []
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), strict=True)
    for k, (corners, score, category_id) in enumerate(rows):
        box: tuple[float, float, float, float] = (corners[0], corners[1], corners[2], corners[3])
        mask = None if detections.masks is None else detections.masks[k]
        segmentation, area = None, None
        if mask is not None and mask.any():
            ys, xs = (mask.any(dim).nonzero() for dim in (1, 0))
            box = float(xs[0]), float(ys[0]), float(xs[-1]) + 1, float(ys[-1]) + 1
            segmentation, area = encode_rle(mask), float(mask.sum())
        if box[0] < box[2] and box[1] < box[3]:
            number = first_id + len(objects)
            objects.append(ObjectRecord(number, category_id, box, area, False, segmentation, f"detection {k + 1}"))
            scores.append(score)
    return objects, scores
