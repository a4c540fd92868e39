"""Background of the demo images: the edge of the metal, the table below, and the shadow of the metal on it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

GROUND = ("metal", "table", "shadow")
"""Stuff classes: the content of a pixel without a defect."""

Array = npt.NDArray[np.float32]
Rng = np.random.Generator


def lay_on_table(image: Array, rng: Rng) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Cut off an image of metal, float32 [S, S, 3], at one or two straight edges, and draw a table beyond them.

    Returns:
        The image, and uint8 [S, S], index into `GROUND` of each pixel.
    """
    size = len(image)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) - (size - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    beyond = _beyond(x, y, angle, rng.uniform(0.12, 0.34) * size)
    if rng.random() < 0.4:
        beyond = np.maximum(beyond, _beyond(x, y, angle + np.pi / 2, rng.uniform(0.2, 0.38) * size))
    table = _felt(size, rng)
    width = rng.uniform(0.05, 0.1) * size if rng.random() < 0.8 else 0.0
    shade = _cover(width - beyond)[..., None] if width else 0.0
    table = table * (1 - 0.62 * shade)
    metal = image + 0.16 * np.exp(-((beyond + 1) ** 2) / 2)[..., None]  # a bevelled edge, which reflects light
    cover = _cover(-beyond)[..., None]
    ground = np.where(beyond <= 0, 0, np.where(beyond <= width, 2, 1))
    return np.asarray(cover * metal + (1 - cover) * table, np.float32), ground.astype(np.uint8)


def _beyond(x: npt.NDArray[Any], y: npt.NDArray[Any], angle: float, distance: float) -> npt.NDArray[Any]:
    """Signed distance in pixels of each pixel from a line at `distance` from the center; negative before the line."""
    return np.asarray(x * np.cos(angle) + y * np.sin(angle) - distance)


def _cover(inside: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Share of each pixel that lies inside an edge, from its signed distance in pixels."""
    return np.clip(inside + 0.5, 0, 1)


def _felt(size: int, rng: Rng) -> Array:
    """Texture of a dark mat: green, blue or brown, and slightly worn."""
    color = np.array([(0.16, 0.27, 0.22), (0.17, 0.22, 0.33), (0.3, 0.21, 0.15)][int(rng.integers(3))])
    noise = rng.normal(size=(size, size)).astype(np.float32)
    worn = cv2.GaussianBlur(noise, (0, 0), max(size / 16, 1.0))
    light = 1 + 0.08 * noise + 0.12 * worn / max(float(worn.std()), 1e-6)
    return np.asarray(rng.uniform(0.85, 1.2) * light[..., None] * color, np.float32)
