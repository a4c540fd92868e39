"""Textures of generated scenes: backgrounds, clutter, and the noise, blur and light of a camera."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Rng = np.random.Generator


def noise(shape: tuple[int, int], scale: float, rng: Rng) -> Array:
    """Smooth noise of about -1..1, float32 [h, w], with features of `scale` pixels."""
    cells = int(shape[0] / scale) + 2, int(shape[1] / scale) + 2
    coarse = 2 * rng.random(cells, dtype=np.float32) - 1
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def stripes(shape: tuple[int, int], period: float, rng: Rng) -> Array:
    """Stripes, waves or a grid of spots, float32 [h, w] in 0..1, `period` pixels apart."""
    angle = rng.uniform(0, np.pi)
    frequency = np.float32(2 * np.pi / period)
    y = np.arange(shape[0], dtype=np.float32)[:, None] * frequency
    x = np.arange(shape[1], dtype=np.float32)[None, :] * frequency
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    values = np.sin(cos * x + sin * y + np.float32(rng.uniform(0, 2 * np.pi)))
    if rng.random() < 0.4:
        values = values * np.sin(cos * y - sin * x)
    return np.asarray(np.clip(0.5 + rng.choice([0.5, 3.0]) * values, 0, 1), np.float32)


def background(size: int, rng: Rng) -> Array:
    """A background, float32 [S, S, 3]: a color with noise of several scales, and mostly stripes or regions."""
    shape = (size, size)
    canvas = np.empty((size, size, 3), np.float32)
    color = rng.uniform(0.05, 0.95, 3)
    canvas[:] = color if rng.random() < 0.6 else color.mean()
    for scale in (size / 2, size / 7, size / 24, 2.5):
        if rng.random() < 0.6:
            tint = rng.uniform(-1, 1, 3) if rng.random() < 0.3 else np.ones(3)
            canvas += (rng.uniform(0.02, 0.16) * noise(shape, scale, rng))[..., None] * tint.astype(np.float32)
    kind = rng.random()
    if kind < 0.2:
        canvas += (rng.uniform(0.05, 0.3) * stripes(shape, rng.uniform(4, size / 4), rng))[..., None]
    elif kind < 0.45:  # regions with irregular borders, which are no objects
        level = noise(shape, size / rng.uniform(1.5, 5), rng)
        other = rng.uniform(-0.4, 0.4, 3).astype(np.float32)
        canvas += (np.clip(level * rng.uniform(4, 20), -1, 1) * 0.5 + 0.5)[..., None] * other
    return canvas


def clutter(canvas: Array, rng: Rng, *, lines: int, spots: int) -> None:
    """Draw straight lines and dots that are no objects, in place."""
    size = len(canvas)
    ends = rng.uniform(-0.1, 1.1, (lines, 2, 2)) * size
    if rng.random() < 0.6:  # short scratches instead of lines across the image
        ends[:, 1] = ends[:, 0] + rng.uniform(-0.08, 0.08, (lines, 2)) * size
    for (start, end), shade in zip(np.rint(ends).astype(int).tolist(), rng.uniform(0, 1, (lines, 3)), strict=True):
        cv2.line(canvas, start, end, shade.tolist(), 1, cv2.LINE_AA)
    centers = np.rint(rng.uniform(0, size, (spots, 2))).astype(int)
    for center, shade in zip(centers.tolist(), rng.uniform(0, 1, (spots, 3)), strict=True):
        cv2.circle(canvas, center, 1, shade.tolist(), -1)


def finish(canvas: Array, rng: Rng) -> npt.NDArray[np.uint8]:
    """Light, blur, noise and contrast of a camera; uint8 [S, S, 3]."""
    size = len(canvas)
    if rng.random() < 0.25:
        canvas = np.repeat(canvas.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.4:
        canvas = canvas * (1 + rng.uniform(0.1, 0.4) * noise((size, size), size, rng))[..., None]
    if rng.random() < 0.35:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2)).astype(np.float32)
    if rng.random() < 0.5:
        grain = rng.random((size, size, 1 if rng.random() < 0.5 else 3), dtype=np.float32) - 0.5
        canvas = canvas + np.float32(rng.uniform(0.02, 0.16)) * grain
    low, high = rng.uniform(0, 0.2), rng.uniform(0.75, 1)
    return np.asarray(np.clip(canvas * (255 * (high - low)) + 255 * low, 0, 255), np.float32).astype(np.uint8)
