"""Images of the worst mistakes: close-ups with ground truth beside prediction, dimmed around the mistake.

Only boxes that overlap the mistake are drawn, so that crowded images stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detrkit.data.decode.images import ignore_unknown_range, read_image
from detrkit.evaluation.arrays import Bools, Floats, Ints
from detrkit.evaluation.confusion import KINDS, Confusion, Kind, Mistake
from detrkit.evaluation.matching import EvalArrays, box_iou
from detrkit.ops.value_range import ValueRange
from detrkit.results import Detections
from detrkit.visualization.draw import ImageArray, Tile, as_image, save_image, sheet
from detrkit.visualization.html_report.sections import BoxOverlay, GalleryImage

LEAST_SIDE = 96
"""Lowest side of a close-up in pixels, so that the surroundings of a tiny object are seen."""

DIMMED = 0.6
"""Brightness outside the box of the mistake, relative to the image."""

ERROR_COLOR = (255, 59, 48)
"""RGB of the boxes of the mistake itself in a gallery of an HTML report."""

RELATED_IOU = 0.05
"""Lowest IoU with the box of a mistake at which other boxes are drawn."""


def choose(ranked: Mapping[Kind, list[Mistake]], most: int) -> list[Mistake]:
    """Choose the worst `most` mistakes, taking the kinds in turn; grouped by kind, worst first."""
    waiting = {kind: list(reversed(ranked[kind])) for kind in KINDS}
    chosen: dict[Kind, list[Mistake]] = {kind: [] for kind in KINDS}
    while sum(map(len, chosen.values())) < most and any(waiting.values()):
        for kind in KINDS:
            if waiting[kind] and sum(map(len, chosen.values())) < most:
                chosen[kind].append(waiting[kind].pop())
    return [mistake for kind in KINDS for mistake in chosen[kind]]


def describe(arrays: EvalArrays, mistake: Mistake, file: str) -> dict[str, Any]:
    """Convert a mistake to JSON-like data: kind, image, classes, score, boxes x1, y1, x2, y2 in pixels."""
    entry: dict[str, Any] = {"kind": mistake.kind, "image_id": mistake.image_id, "file": file}
    if mistake.object >= 0:
        entry["gt"] = arrays.names[arrays.object_classes[mistake.object]]
        entry["gt_box"] = [round(v, 2) for v in arrays.object_boxes[mistake.object].tolist()]
    if mistake.detection >= 0:
        entry["prediction"] = arrays.names[arrays.classes[mistake.detection]]
        entry["score"] = float(arrays.scores[mistake.detection])
        entry["prediction_box"] = [round(v, 2) for v in arrays.boxes[mistake.detection].tolist()]
    if mistake.doubled:
        entry["doubled"] = True
    return entry


def draw_mistakes(
    folder: Path,
    arrays: EvalArrays,
    confusion: Confusion,
    chosen: Iterable[Mistake],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None = None,
) -> list[Path]:
    """Write one contact sheet per kind of mistake: `missed.jpg`, `wrong_class.jpg`, `false_alarm.jpg`.

    Detections below the threshold of `confusion` are not drawn. Images are opened one at a time. A sheet of an earlier
    report is removed where there is no such mistake any more.

    Raises:
        DataError: an image cannot be read.
    """
    written = []
    chosen = list(chosen)
    for kind in KINDS:
        path = folder / f"{kind.replace(' ', '_')}.jpg"
        tiles = [
            _tile(arrays, confusion, mistake, image_paths[mistake.image_id], value_range)
            for mistake in chosen
            if mistake.kind == kind and mistake.image_id in image_paths
        ]
        if tiles:
            save_image(path, sheet(tiles, columns=2, side=360))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def gallery_images(
    arrays: EvalArrays,
    confusion: Confusion,
    chosen: Iterable[Mistake],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None = None,
) -> list[GalleryImage]:
    """Make the images of a gallery: each mistake with its surroundings, ground truth dashed, the mistake itself in red.

    All boxes of the surroundings are drawn, but for detections below the threshold of `confusion`. Mistakes whose image
    is unknown are left out; images are read when the page is written.
    """
    images = []
    for mistake in chosen:
        if mistake.image_id not in image_paths:
            continue
        path = Path(image_paths[mistake.image_id])
        image = int(np.searchsorted(arrays.image_ids, mistake.image_id))
        boxes = []
        for row in np.flatnonzero(arrays.object_images == image).tolist():
            color = ERROR_COLOR if row == mistake.object else None
            name = arrays.names[arrays.object_classes[row]]
            boxes.append(BoxOverlay(arrays.object_boxes[row].tolist(), name, "ground truth", color, dashed=True))
        for row in np.flatnonzero(confusion.shown & (arrays.images == image)).tolist():
            color = ERROR_COLOR if row == mistake.detection else None
            label = f"{arrays.names[arrays.classes[row]]} {arrays.scores[row]:.2f}"
            boxes.append(BoxOverlay(arrays.boxes[row].tolist(), label, "prediction", color))
        # the mistake last, so that it is drawn above the others and kept where boxes are limited
        boxes.sort(key=lambda box: box.color is not None)
        x1, y1, x2, y2 = _extent(arrays, mistake).tolist()
        high = max(2.5 * (y2 - y1), 2 * (x2 - x1), 2 * LEAST_SIDE)
        window = _around(x1, y1, x2, y2, high * 4 / 3, high)
        read = partial(_read, path, value_range)
        images.append(GalleryImage(read, _words(arrays, mistake), boxes, path.name, window, group=mistake.kind))
    return images


def _around(x1: float, y1: float, x2: float, y2: float, width: float, height: float) -> tuple[int, int, int, int]:
    """The corners of a window of this size around a box; it may reach beyond the image."""
    left, top = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
    return round(left), round(top), round(left + width), round(top + height)


def _read(path: Path, value_range: ValueRange | None) -> ImageArray:
    return as_image(read_image(path, value_range, unknown=ignore_unknown_range))


def _extent(arrays: EvalArrays, mistake: Mistake) -> Floats:
    """The box x1, y1, x2, y2 around object and detection of a mistake."""
    boxes = [arrays.object_boxes[mistake.object]] if mistake.object >= 0 else []
    boxes += [arrays.boxes[mistake.detection]] if mistake.detection >= 0 else []
    return np.array([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]]).ravel()


def _tile(
    arrays: EvalArrays, confusion: Confusion, mistake: Mistake, path: Path, value_range: ValueRange | None
) -> Tile:
    image = int(np.searchsorted(arrays.image_ids, mistake.image_id))
    box = _extent(arrays, mistake)
    rgb = _read(path, value_range)
    window = _window(box, rgb.shape[0], rgb.shape[1])
    shown = confusion.shown & (arrays.images == image) & _related(arrays.boxes, box)
    present = (arrays.object_images == image) & _related(arrays.object_boxes, box)
    certain = np.ones(len(arrays.object_classes))
    return Tile(
        image=_spotlight(rgb, box, window),
        detections=_drawn(window, arrays.boxes, arrays.classes, arrays.scores, shown, arrays),
        gt=_drawn(window, arrays.object_boxes, arrays.object_classes, certain, present, arrays),
        caption=f"{_words(arrays, mistake)}  ({path.name})",
    )


def _words(arrays: EvalArrays, mistake: Mistake) -> str:
    """The mistake in a few words."""
    entry = describe(arrays, mistake, "")
    if mistake.kind == "missed":
        x1, y1, x2, y2 = entry["gt_box"]
        return f"missed {entry['gt']}, {x2 - x1:.0f} x {y2 - y1:.0f} px"
    if mistake.kind == "wrong class":
        return f"{entry['gt']} taken for {entry['prediction']}, score {entry['score']:.2f}"
    if mistake.doubled:
        return f"{entry['prediction']} detected twice, score {entry['score']:.2f}"
    return f"no {entry['prediction']} here, score {entry['score']:.2f}"


def _window(box: Floats, height: int, width: int) -> tuple[int, int, int, int]:
    """The corners x1, y1, x2, y2 of a square about twice as large as the box, moved and cut to lie in the image."""
    x1, y1, x2, y2 = box.tolist()
    side = round(max(2.0 * (x2 - x1), 2.0 * (y2 - y1), LEAST_SIDE))
    sizes = min(side, width), min(side, height)
    corner = []
    for center, size, whole in (((x1 + x2) / 2, sizes[0], width), ((y1 + y2) / 2, sizes[1], height)):
        corner.append(int(min(max(0, round(center - size / 2)), whole - size)))
    return corner[0], corner[1], corner[0] + sizes[0], corner[1] + sizes[1]


def _spotlight(rgb: ImageArray, box: Floats, window: tuple[int, int, int, int]) -> ImageArray:
    """Cut the window out of the image and dim it outside the box."""
    left, top, right, bottom = window
    close = rgb[top:bottom, left:right].astype(np.float32)
    x1, y1 = np.floor(box[:2] - window[:2]).clip(0).astype(int)
    x2, y2 = np.ceil(box[2:] - window[:2]).clip(0).astype(int)
    light = np.full(close.shape[:2], DIMMED, dtype=np.float32)
    light[y1:y2, x1:x2] = 1
    return np.asarray(close * light[..., None], dtype=np.uint8)


def _related(boxes: Floats, box: Floats) -> Bools:
    """[n]: whether boxes [n, 4] overlap the box of a mistake."""
    return np.asarray(box_iou(boxes, box[None], np.zeros(1, dtype=np.bool_))[:, 0] >= RELATED_IOU)


def _drawn(
    window: tuple[int, int, int, int], boxes: Floats, classes: Ints, scores: Floats, kept: Bools, arrays: EvalArrays
) -> Detections:
    """The kept boxes in pixels of the window, with original category ids, which decide the colors."""
    left, top, _, _ = window
    rows = np.flatnonzero(kept)
    return Detections(
        xyxy=torch.as_tensor(boxes[rows] - [left, top, left, top], dtype=torch.float32).reshape(-1, 4),
        scores=torch.as_tensor(scores[rows], dtype=torch.float32),
        class_ids=torch.as_tensor(arrays.category_ids[classes[rows]]),
        class_names=tuple(arrays.names[k] for k in classes[rows].tolist()),
    )
