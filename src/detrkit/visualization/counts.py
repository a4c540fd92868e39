"""Drawing of zones and lines with their counts on a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

from detrkit.visualization.box_labels import write_labels
from detrkit.visualization.canvas import ImageArray, color_of
from detrkit.visualization.fonts import name_of

Points = Mapping[str, Sequence[tuple[float, float]]]


def draw_counts(
    scene: ImageArray, size: tuple[int, int], zones: Points, lines: Points, counts: Mapping[str, str]
) -> ImageArray:
    """Draw zones as outlines and lines as arrows from their first to their second point, each with its name and counts.

    Args:
        scene: uint8 RGB [H, W, 3], the frame or an enlarged copy.
        size: height and width of the frame, in whose pixels the points are.
        zones: corners of each zone by its name.
        lines: first and second point of each line by its name.
        counts: text of the counts, by the names.

    Returns:
        uint8 RGB [H, W, 3], another array.
    """
    drawn = np.ascontiguousarray(scene).copy()
    height, width = drawn.shape[:2]
    scale = np.array([width / size[1], height / size[0]])
    thickness = max(2, round(max(height, width) / 400))
    letters = max(11, round(max(height, width) / 50))
    boxes, labels, colors = [], [], []
    for k, (name, points) in enumerate({**zones, **lines}.items()):
        color = color_of(k)
        corners = np.rint(np.asarray(points) * scale).astype(np.int32)
        if name in zones:
            cv2.polylines(drawn, [corners], isClosed=True, color=color, thickness=thickness, lineType=cv2.LINE_AA)
        else:
            tip = 20 * thickness / max(1.0, float(np.hypot(*(corners[1] - corners[0]))))
            start, end = corners.tolist()
            cv2.arrowedLine(drawn, start, end, color, thickness, cv2.LINE_AA, tipLength=min(0.2, tip))
        left, top = corners.min(axis=0).tolist() if name in zones else corners.mean(axis=0).tolist()
        boxes.append((left, top, left, top))
        labels.append(f"{name_of(name)}: {counts[name]}")
        colors.append(color)
    labeled = Image.fromarray(drawn)
    write_labels(labeled, boxes, labels, colors, letters)
    return np.asarray(labeled, dtype=np.uint8).copy()
