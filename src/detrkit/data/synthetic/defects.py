"""Draw the demo images: machined metal under uneven light, with five kinds of surface defects.

An image is a float32 array [S, S, 3], RGB, about 0..1. A defect is drawn as a `Patch`: the share of each pixel that it
covers, and the light that it adds or removes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detrkit.data.synthetic.background import lay_on_table

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

_FINE = 4
"""Supersampling: shapes are drawn at this many times the resolution, then averaged."""


@dataclass(frozen=True)
class Patch:
    """A defect on a square of P x P pixels."""

    cover: Array
    """[P, P], share of each pixel that the defect covers, 0..1."""
    gain: Array
    """[P, P, 3], factor on the brightness of covered pixels."""
    glow: Array
    """[P, P], brightness that is added; negative for shadows."""


@dataclass(frozen=True)
class Drawing:
    """A finished image and its annotations."""

    pixels: npt.NDArray[np.uint8]
    """[S, S, 3], RGB."""
    classes: list[int]
    """Index into `DEFECTS` of each defect."""
    masks: list[npt.NDArray[np.bool_]]
    """[S, S] of each defect; they do not overlap."""
    ground: npt.NDArray[np.uint8]
    """[S, S], index into `GROUND` of each pixel, below any defect."""


def draw_image(size: int, difficulty: float, rng: Rng, table: Rng | None = None) -> Drawing:
    """Draw metal with 0 to 3 defects; one image in ten has none.

    Args:
        size: side in pixels, at least 32.
        difficulty: difficulty from 0 (large, high contrast) to 1 (small, faint, blurred and noisy).
        rng: source of randomness.
        table: source of randomness for a table below the metal and its shadow; None: metal fills the image.
    """
    image = _metal(size, difficulty, rng)
    ground = np.zeros((size, size), np.uint8)
    if table is not None:
        image, ground = lay_on_table(image, table)
    strength = 1.0 - 0.6 * difficulty
    classes: list[int] = []
    masks: list[npt.NDArray[np.bool_]] = []
    taken = cv2.dilate((ground > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    for _ in range(int(rng.choice(4, p=(0.1, 0.4, 0.3, 0.2)))):
        kind = int(rng.integers(len(DEFECTS)))
        extent = size * rng.uniform(0.21 - 0.16 * difficulty, 0.56 - 0.31 * difficulty)
        patch = list(DEFECTS.values())[kind](max(extent, 5.0), rng)
        spot = _free_spot(taken, patch, rng)
        if spot is None:
            continue
        mask = np.zeros((size, size), bool)
        mask[spot] = patch.cover > 0.4
        if mask.sum() < 4:
            continue
        cover = patch.cover[..., None] * strength
        image[spot] = image[spot] * (1 - cover + cover * patch.gain) + strength * patch.glow[..., None]
        taken[spot] |= cv2.dilate(mask[spot].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        classes.append(kind)
        masks.append(mask)
    if difficulty > 0:
        image = cv2.GaussianBlur(image, (0, 0), 0.1 + 0.8 * difficulty * size / 128).astype(np.float32)
    image += rng.normal(0, 0.008 + 0.025 * difficulty, (size, size, 1)).astype(np.float32)
    return Drawing((image.clip(0, 1) * 255).round().astype(np.uint8), classes, masks, ground)


def _free_spot(taken: npt.NDArray[np.bool_], patch: Patch, rng: Rng) -> tuple[slice, slice] | None:
    """Find a place inside the image where the defect touches no other; None after 20 failed tries."""
    size, side = len(taken), len(patch.cover)
    if side > size:
        return None
    for _ in range(20):
        top, left = rng.integers(0, size - side + 1, 2)
        spot = slice(top, top + side), slice(left, left + side)
        if not (taken[spot] & (patch.cover > 0.05)).any():
            return spot
    return None


# --- the metal -------------------------------------------------------------------------------------------------------


def _metal(size: int, difficulty: float, rng: Rng) -> Array:
    """Draw brushed, turned or cast metal with a tint, under light that falls off to one side."""
    texture = (_brushed, _turned, _cast)[int(rng.integers(3))](size, rng)
    texture *= (0.028 + 0.022 * difficulty) / max(float(texture.std()), 1e-6)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0.05, 0.25) * (np.cos(angle) * x + np.sin(angle) * y)
    cx, cy = rng.uniform(-0.6, 0.6, 2)
    highlight = rng.uniform(0, 0.12) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.15)
    gray = rng.uniform(0.48, 0.66) + slope + highlight + texture
    tint = 1 + rng.uniform(-0.035, 0.035) * np.array([1, 0.1, -1])
    return np.asarray(gray[..., None] * tint, np.float32)


def _brushed(size: int, rng: Rng) -> Array:
    """Texture of fine parallel lines, horizontal or vertical."""
    noise = rng.normal(size=(size, size * 2)).astype(np.float32)
    lines = cv2.blur(noise, (size // 2 | 1, 1))[:, size // 2 : size // 2 + size]
    lines = lines / lines.std() + 0.35 * noise[:, :size]
    return np.asarray(lines if rng.random() < 0.5 else lines.T, np.float32).copy()


def _turned(size: int, rng: Rng) -> Array:
    """Texture of arcs around a center outside the image, as from a lathe."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.0) * size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    radius = np.hypot(x - size / 2 - distance * np.cos(angle), y - size / 2 - distance * np.sin(angle))
    rings = np.convolve(rng.normal(size=4 * size), np.ones(3) / 3, mode="same")
    arcs = np.interp(radius, np.arange(4 * size), rings)
    return np.asarray(arcs / arcs.std() + 0.4 * rng.normal(size=(size, size)), np.float32)


def _cast(size: int, rng: Rng) -> Array:
    """Texture of isotropic grain."""
    noise = rng.normal(size=(size, size)).astype(np.float32)
    fine, coarse = cv2.GaussianBlur(noise, (0, 0), 0.9), cv2.GaussianBlur(noise, (0, 0), max(size / 24, 1.0))
    return np.asarray(fine / fine.std() + 0.6 * coarse / coarse.std(), np.float32)


# --- the defects -----------------------------------------------------------------------------------------------------


def _scratch(extent: float, rng: Rng) -> Patch:
    """A long, slightly bent groove with a bright and a dark side."""
    side, angle = _side(extent), rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    t = np.linspace(-1, 1, 17)[:, None]
    path = side / 2 + t * along * extent / 2 + rng.uniform(-0.12, 0.12) * extent * (1 - t**2) * across
    width = max(1.6, 0.042 * extent)
    taper = width * (1 - 0.6 * np.abs(t[:-1, 0]) ** 3)
    bright, dark = (_lines(path + shift * across * width / 2, taper, side) for shift in (-0.7, 0.7))
    return Patch(np.maximum(bright, dark), _ones(side), 0.42 * bright - 0.3 * dark * (1 - bright))


def _crack(extent: float, rng: Rng) -> Patch:
    """A dark jagged line that branches."""
    side, angle = _side(extent), rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    knots = 13
    wander = np.cumsum(rng.normal(0, 0.05, knots))
    zigzag = (wander - wander.mean() + rng.uniform(-0.07, 0.07, knots)).clip(-0.3, 0.3) * extent
    path = side / 2 + np.linspace(-0.5, 0.5, knots)[:, None] * extent * along + zigzag[:, None] * across
    width = max(1.5, 0.05 * extent) * np.linspace(1.2, 0.6, knots - 1)
    cover = _lines(path, width, side)
    for knot in rng.choice(np.arange(2, knots - 3), 2, replace=False):
        turn = angle + rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
        steps = np.linspace(0, rng.uniform(0.2, 0.34) * extent, 4)
        branch = path[knot] + steps[:, None] * np.array([np.cos(turn), np.sin(turn)])
        branch[1:] += rng.normal(0, 0.025 * extent, (3, 2))
        cover = np.maximum(cover, _lines(branch, np.linspace(0.7, 0.4, 3) * width[0], side))
    return Patch(cover, 0.18 * _ones(side), np.zeros_like(cover))


def _pit(extent: float, rng: Rng) -> Patch:
    """A round hollow, shaded on the side of the light, with a bright rim on the other."""
    side = _side(extent)
    x, y = _grid(side)
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
    u, v = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / squeeze
    r = np.hypot(u, v) / (extent / 2)
    light = rng.uniform(0, 2 * np.pi)
    towards = (x * np.cos(light) + y * np.sin(light)) / (extent / 2)
    inside = _smooth((1 - r) * extent / 4 + 0.5)
    slope = inside * np.clip(r, 0, 1) ** 1.5 * towards
    return Patch(inside, 0.72 * _ones(side), np.asarray(0.38 * slope, np.float32))


def _stain(extent: float, rng: Rng) -> Patch:
    """A soft, colored spot with a darker edge, such as rust or burnt oil."""
    side = _side(extent)
    x, y = _grid(side)
    theta, r = np.arctan2(y, x), np.hypot(x, y)
    outline = np.ones_like(theta)
    for order in (2, 3, 5):
        outline = outline + rng.uniform(0.03, 0.3 / order) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    depth = 1 - r / (extent / 2 * outline / outline.max())
    cover = _smooth(depth * 5)
    color = np.array([(0.92, 0.62, 0.36), (0.55, 0.62, 0.9), (0.8, 0.7, 0.4)][int(rng.integers(3))])
    cloud = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), max(extent / 10, 1))
    shade = 0.85 + 0.1 * cloud / max(float(cloud.std()), 1e-6) - 0.25 * np.exp(-(((depth - 0.2) / 0.1) ** 2))
    gain = color * np.clip(shade, 0.4, 1.1)[..., None]
    return Patch(cover, np.asarray(gain, np.float32), np.zeros_like(cover))


def _inclusion(extent: float, rng: Rng) -> Patch:
    """A foreign grain in the surface: angular, sharp, black, with one bright facet."""
    side = _side(extent)
    corners = int(rng.integers(5, 8))
    theta = np.sort((np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners)
    radius = extent / 2 * rng.uniform(0.72, 1.0, corners)
    outline = side / 2 + radius[:, None] * np.stack([np.cos(theta), np.sin(theta)], 1)
    cover = _polygon(outline, side)
    first = int(rng.integers(corners))
    chosen = [outline[(first + k) % corners] for k in range(3)]
    facet = _polygon(np.array([*chosen, outline.mean(0) * 0.9 + chosen[0] * 0.1]), side)
    return Patch(cover, 0.16 * _ones(side), np.asarray(0.17 * facet * cover, np.float32))


DEFECTS: dict[str, Callable[[float, Rng], Patch]] = {
    "scratch": _scratch,
    "crack": _crack,
    "pit": _pit,
    "stain": _stain,
    "inclusion": _inclusion,
}
"""Class name -> function (extent in pixels, source of randomness) that draws it."""


def _side(extent: float) -> int:
    """Side of the patch, with a margin for lines that reach beyond the extent."""
    return int(np.ceil(extent * 1.15)) + 4


def _grid(side: int) -> tuple[Array, Array]:
    """Coordinates x and y, [P, P] each, in pixels from the center of the patch."""
    middle = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x, y = np.meshgrid(middle, middle)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _ones(side: int) -> Array:
    return np.ones((side, side, 3), np.float32)


def _smooth(values: npt.NDArray[Any]) -> Array:
    """Smoothstep: 0 below 0, 1 above 1, cubic between."""
    t = np.clip(values, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _polygon(points: npt.NDArray[Any], side: int) -> Array:
    """Cover of a filled polygon with points [k, 2], x and y in pixels of the patch."""
    fine = np.zeros((side * _FINE, side * _FINE), np.uint8)
    cv2.fillPoly(fine, [np.rint(points * _FINE).astype(np.int32)], 255)
    return _averaged(fine, side)


def _lines(points: npt.NDArray[Any], widths: npt.NDArray[Any], side: int) -> Array:
    """Cover of a line through points [k, 2] in pixels of the patch, with k - 1 widths."""
    fine = np.zeros((side * _FINE, side * _FINE), np.uint8)
    corners = np.rint(points * _FINE).astype(int)
    for start, end, width in zip(corners[:-1].tolist(), corners[1:].tolist(), widths.tolist(), strict=True):
        cv2.line(fine, start, end, 255, max(1, round(width * _FINE)))
    return _averaged(fine, side)


def _averaged(fine: npt.NDArray[np.uint8], side: int) -> Array:
    coarse = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(coarse / 255, np.float32)
