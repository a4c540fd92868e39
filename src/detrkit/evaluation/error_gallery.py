"""Images of the worst mistakes: each a close-up, ground truth beside prediction, what it is about left bright.

Only boxes that overlap the mistake are drawn, so that crowded images stay readable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

LEAST_SIDE = 96
"""Pixels of a close-up at least, so that something is to be seen around a tiny object."""

DIMMED = 0.6
"""Brightness of what the mistake is not about."""

RELATED_IOU = 0.05
"""Boxes that overlap the mistake less than this have nothing to do with it and are not drawn."""


def choose(ranked: Mapping[Kind, list[Mistake]], most: int) -> list[Mistake]:
    """The worst `most` mistakes, the kinds in turn so that none crowds out another; grouped by kind, worst first."""
    waiting = {kind: list(reversed(ranked[kind])) for kind in KINDS}
    chosen: dict[Kind, list[Mistake]] = {kind: [] for kind in KINDS}
    while sum(map(len, chosen.values())) < most and any(waiting.values()):
        for kind in KINDS:
            if waiting[kind] and sum(map(len, chosen.values())) < most:
                chosen[kind].append(waiting[kind].pop())
    return [mistake for kind in KINDS for mistake in chosen[kind]]


def describe(columns: EvalArrays, mistake: Mistake, file: str) -> dict[str, Any]:
    """A mistake as JSON-like data: kind, image, classes, score, boxes x1, y1, x2, y2 in pixels."""
    entry: dict[str, Any] = {"kind": mistake.kind, "image_id": mistake.image_id, "file": file}
    if mistake.object >= 0:
        entry["gt"] = columns.names[columns.object_classes[mistake.object]]
        entry["gt_box"] = [round(v, 2) for v in columns.object_boxes[mistake.object].tolist()]
    if mistake.detection >= 0:
        entry["prediction"] = columns.names[columns.classes[mistake.detection]]
        entry["score"] = float(columns.scores[mistake.detection])
        entry["prediction_box"] = [round(v, 2) for v in columns.boxes[mistake.detection].tolist()]
    if mistake.doubled:
        entry["doubled"] = True
    return entry


def draw_mistakes(
    folder: Path,
    columns: EvalArrays,
    confusion: Confusion,
    chosen: Iterable[Mistake],
    image_paths: Mapping[int, Path],
    value_range: ValueRange | None = None,
) -> list[Path]:
    """Write one contact sheet a kind of mistake: `missed.jpg`, `wrong_class.jpg`, `false_alarm.jpg`.

    Detections below the threshold of `confusion` are not drawn. Images are opened one after the other. Sheets of
    an earlier report that this one has no mistakes for are removed.

    Raises:
        DataError: an image cannot be read.
    """
    written = []
    chosen = list(chosen)
    for kind in KINDS:
        path = folder / f"{kind.replace(' ', '_')}.jpg"
        tiles = [
            _tile(columns, confusion, mistake, image_paths[mistake.image_id], value_range)
            for mistake in chosen
            if mistake.kind == kind and mistake.image_id in image_paths
        ]
        if tiles:
            save_image(path, sheet(tiles, columns=2, side=360))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _tile(
    columns: EvalArrays, confusion: Confusion, mistake: Mistake, path: Path, value_range: ValueRange | None
) -> Tile:
    image = int(np.searchsorted(columns.image_ids, mistake.image_id))
    boxes = [columns.object_boxes[mistake.object]] if mistake.object >= 0 else []
    boxes += [columns.boxes[mistake.detection]] if mistake.detection >= 0 else []
    box = np.array([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]]).ravel()
    rgb = as_image(read_image(path, value_range, unknown=ignore_unknown_range))
    window = _window(box, rgb.shape[0], rgb.shape[1])
    shown = confusion.shown & (columns.images == image) & _related(columns.boxes, box)
    present = (columns.object_images == image) & _related(columns.object_boxes, box)
    certain = np.ones(len(columns.object_classes))
    return Tile(
        image=_spotlight(rgb, box, window),
        detections=_drawn(window, columns.boxes, columns.classes, columns.scores, shown, columns),
        gt=_drawn(window, columns.object_boxes, columns.object_classes, certain, present, columns),
        caption=_caption(columns, mistake, path.name),
    )


def _caption(columns: EvalArrays, mistake: Mistake, file: str) -> str:
    entry = describe(columns, mistake, file)
    if mistake.kind == "missed":
        x1, y1, x2, y2 = entry["gt_box"]
        words = f"missed {entry['gt']}, {x2 - x1:.0f} x {y2 - y1:.0f} px"
    elif mistake.kind == "wrong class":
        words = f"{entry['gt']} taken for {entry['prediction']}, score {entry['score']:.2f}"
    elif mistake.doubled:
        words = f"{entry['prediction']} found twice, score {entry['score']:.2f}"
    else:
        words = f"no {entry['prediction']} here, score {entry['score']:.2f}"
    return f"{words}  ({file})"


def _window(box: Floats, height: int, width: int) -> tuple[int, int, int, int]:
    """A square about twice the size of the box around it, moved and cut to lie in the image: x1, y1, x2, y2."""
    x1, y1, x2, y2 = box.tolist()
    side = round(max(2.0 * (x2 - x1), 2.0 * (y2 - y1), LEAST_SIDE))
    sizes = min(side, width), min(side, height)
    corner = []
    for centre, size, whole in (((x1 + x2) / 2, sizes[0], width), ((y1 + y2) / 2, sizes[1], height)):
        corner.append(int(min(max(0, round(centre - size / 2)), whole - size)))
    return corner[0], corner[1], corner[0] + sizes[0], corner[1] + sizes[1]


def _spotlight(rgb: ImageArray, box: Floats, window: tuple[int, int, int, int]) -> ImageArray:
    """The window cut out of the image, dimmed outside the box."""
    left, top, right, bottom = window
    close = rgb[top:bottom, left:right].astype(np.float32)
    x1, y1 = np.floor(box[:2] - window[:2]).clip(0).astype(int)
    x2, y2 = np.ceil(box[2:] - window[:2]).clip(0).astype(int)
    light = np.full(close.shape[:2], DIMMED, dtype=np.float32)
    light[y1:y2, x1:x2] = 1
    return np.asarray(close * light[..., None], dtype=np.uint8)


def _related(boxes: Floats, box: Floats) -> Bools:
    """[n]: which boxes [n, 4] overlap the box of a mistake."""
    related: Bools = box_iou(boxes, box[None], np.zeros(1, dtype=np.bool_))[:, 0] >= RELATED_IOU
    return related


def _drawn(
    window: tuple[int, int, int, int], boxes: Floats, classes: Ints, scores: Floats, kept: Bools, columns: EvalArrays
) -> Detections:
    """The kept boxes, in pixels of the window, with original category ids: a class has one colour everywhere."""
    left, top, _, _ = window
    rows = np.flatnonzero(kept)
    return Detections(
        xyxy=torch.as_tensor(boxes[rows] - [left, top, left, top], dtype=torch.float32).reshape(-1, 4),
        scores=torch.as_tensor(scores[rows], dtype=torch.float32),
        class_ids=torch.as_tensor(columns.category_ids[classes[rows]]),
        class_names=tuple(columns.names[k] for k in classes[rows].tolist()),
    )
