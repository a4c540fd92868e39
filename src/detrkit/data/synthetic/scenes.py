"""Draw generated scenes for pretraining: shapes by formula with contours, textures, occlusion and clutter.

Nothing in a scene means anything, so that a detector learns what holds in all images: that an object has a contour, is
in front of another or behind it, and has a size, a texture and a box.

A canvas is a float32 array [S, S, 3], RGB, about 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from detrkit.data.synthetic.contours import FAMILIES, Outline
from detrkit.data.synthetic.textures import Array, background, clutter, finish, noise, stripes

Rng = np.random.Generator

MOST = 60
"""Largest number of objects of a scene."""
SMALLEST = 6.0
"""Least longer side of an object, before occlusion, in pixels."""
LEAST_VISIBLE = 0.35
"""Share of the pixels of every object that no other object and no border of the image hides."""
LEAST_PIXELS = 10
"""Least number of visible pixels of an object."""
TRIES = 8
"""Positions that are tried for an object before it is left out."""

_SUBPIXEL = 4
"""Bits of a pixel's fraction in coordinates for OpenCV."""


@dataclass(frozen=True)
class Scene:
    """A finished image and its objects."""

    pixels: npt.NDArray[np.uint8]
    """[S, S, 3], RGB."""
    labels: list[int]
    """Index into `FAMILIES` of each object."""
    boxes: npt.NDArray[np.int64]
    """[n, 4], x1, y1, x2, y2 in pixels: the extent of the visible pixels."""
    owner: npt.NDArray[np.int16]
    """[S, S], the object that each pixel shows, 1..n; 0: the background."""

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Visible pixels of an object, [S, S]."""
        return self.owner == index + 1


@dataclass(frozen=True)
class Plan:
    """How the objects of one scene are drawn."""

    sizes: list[float]
    """Longer side of each object in pixels."""
    families: list[int]
    """Index into `FAMILIES`, of which those of the objects are drawn."""
    overlap: bool
    """Whether objects may hide each other."""
    colors: npt.NDArray[Any] | None
    """[k, 3], the colors of all objects; None: each object has its own."""
    contour: float
    """Probability that an object has a visible contour line."""
    shadow: bool
    """Whether objects throw a shadow."""


@dataclass
class _Placed:
    """Objects drawn so far."""

    labels: list[int] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    """Pixels of each object as if nothing hid it."""
    visible: list[int] = field(default_factory=list)


def draw_scene(size: int, rng: Rng, plan: Plan | None = None) -> Scene:
    """Draw a square image with 1 to `MOST` objects.

    Objects are `SMALLEST` pixels to the whole image wide or high, and drawn one upon another; none is hidden so far
    that less than `LEAST_VISIBLE` of it is left.

    Args:
        size: side in pixels, at least 32.
        rng: source of all randomness.
        plan: sizes, families and looks of the objects, at most 32,767; None: those of `plan_scene`.
    """
    plan = plan or plan_scene(size, rng)
    canvas = background(size, rng)
    clutter(canvas, rng, lines=int(rng.integers(0, 20)), spots=int(rng.integers(0, 16)))
    owner = np.zeros((size, size), np.int16)
    placed = _Placed()
    for extent in plan.sizes:
        _draw_object(canvas, owner, placed, plan, extent, rng)
    while not placed.labels:  # all were hidden or outside
        _draw_object(canvas, owner, placed, plan, size / 3, rng)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(owner)]
    return Scene(finish(canvas, rng), placed.labels, np.array(boxes, np.int64).reshape(-1, 4), owner)


def plan_scene(size: int, rng: Rng) -> Plan:
    """Choose the sizes, families and looks of a scene: a few large objects, a mixture, or a crowd of like objects."""
    kind = rng.random()
    if kind < 0.25:
        sizes = size * rng.uniform(0.25, 1.0, int(rng.integers(1, 4)))
        count = int(rng.integers(1, 4))
    elif kind < 0.75:
        sizes = _log_uniform(SMALLEST, 0.6 * size, int(rng.integers(2, 19)), rng)
        count = int(rng.integers(2, 8))
    else:
        typical = float(_log_uniform(1.5 * SMALLEST, size / 6, 1, rng)[0])
        sizes = typical * rng.uniform(0.7, 1.4, int(rng.integers(12, MOST + 1)))
        count = int(rng.integers(1, 4))
    sizes = np.clip(sizes, SMALLEST, size)
    sizes = np.sort(sizes)[::-1] if rng.random() < 0.7 else sizes  # small objects mostly lie on large ones
    return Plan(
        sizes=sizes.tolist(),
        families=rng.choice(len(FAMILIES), count, replace=False).tolist(),
        overlap=rng.random() < 0.7,
        colors=rng.uniform(0, 1, (int(rng.integers(1, 4)), 3)) if rng.random() < 0.5 else None,
        contour=float(rng.choice([0.0, 0.3, 1.0])),
        shadow=rng.random() < 0.2,
    )


def _log_uniform(low: float, high: float, count: int, rng: Rng) -> npt.NDArray[Any]:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def _draw_object(
    canvas: Array, owner: npt.NDArray[np.int16], placed: _Placed, plan: Plan, extent: float, rng: Rng
) -> None:
    """Draw one object where there is room for it, or none."""
    family = plan.families[int(rng.integers(len(plan.families)))]
    outline = list(FAMILIES.values())[family](rng)
    cover, paths, pen = _render(outline, extent, rng.uniform(0, 2 * np.pi))
    spot = _find_spot(owner, cover > 127, placed, rng, overlap=plan.overlap)
    if spot is None:
        return
    here, part = spot
    alpha = np.asarray(cover[part] / np.float32(255), np.float32)
    region = canvas[here]
    if plan.shadow:
        _throw_shadow(canvas, here, alpha, extent)
    color = _color(region, plan.colors, rng)
    fill = _fill(region.shape[:2], color, extent, rng)
    if not pen and rng.random() < plan.contour:
        edge = np.zeros_like(cover)
        cv2.polylines(edge, paths, True, 255, max(1, round(0.04 * extent)), cv2.LINE_AA, _SUBPIXEL)
        line = edge[part][..., None].astype(np.float32) / 255
        fill += line * (rng.uniform(-0.6, 0.6) - 0.5 * (fill - color))
    alpha = alpha[..., None] * (1.0 if rng.random() < 0.8 else rng.uniform(0.6, 0.9))
    region += alpha * (fill - region)
    owner[here][cover[part] > 127] = len(placed.labels)
    placed.labels[-1] = family


def _render(outline: Outline, extent: float, angle: float) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[Any]], int]:
    """Draw the cover of a shape whose longer side has `extent` pixels.

    Returns:
        uint8 [h, w], 255 where the shape covers a pixel whole; the contours in subpixels of it; the pen in pixels.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turned = [path @ np.array([[cos, sin], [-sin, cos]]) for path in outline.paths]
    low = np.min([path.min(0) for path in turned], axis=0)
    high = np.max([path.max(0) for path in turned], axis=0)
    pen = max(2, round(outline.pen * extent)) if outline.pen else 0
    scale = max(extent - pen, 2.0) / (high - low).max()
    margin = pen / 2 + 1
    width, height = np.ceil((high - low) * scale + 2 * margin).astype(int)
    cover = np.zeros((height, width), np.uint8)
    paths = [np.rint(((path - low) * scale + margin - 0.5) * 2**_SUBPIXEL).astype(np.int32) for path in turned]
    if pen:
        cv2.polylines(cover, paths, outline.closed, 255, pen, cv2.LINE_AA, _SUBPIXEL)
    else:
        cv2.fillPoly(cover, paths, 255, cv2.LINE_AA, _SUBPIXEL)
    return cover, paths, pen


def _find_spot(
    owner: npt.NDArray[np.int16], inside: npt.NDArray[np.bool_], placed: _Placed, rng: Rng, *, overlap: bool
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Find a place where the object and those below it stay visible, and count it in.

    Returns:
        Rows and columns of the canvas, and those of the object that are shown there; None after `TRIES` failed tries.
    """
    size, (height, width) = len(owner), inside.shape
    area = int(np.count_nonzero(inside))
    for _ in range(TRIES):
        # centers lie in the image; an object about as large as the image is centered
        top, left = (
            round(float(rng.uniform(min(0.0, (size - side) / 2), max(size - side, (size - side) / 2))))
            if rng.random() < 0.8
            else int(rng.integers(-side // 2, size - side // 2))
            for side in (height, width)
        )
        here = slice(max(top, 0), min(top + height, size)), slice(max(left, 0), min(left + width, size))
        part = tuple(slice(h.start - o, h.stop - o) for h, o in zip(here, (top, left), strict=True))
        shown = inside[part]
        own = int(np.count_nonzero(shown))
        if own < max(LEAST_PIXELS, LEAST_VISIBLE * area):
            continue
        hidden = np.bincount(owner[here][shown], minlength=len(placed.labels) + 1)[1:]
        if hidden.any() and not (overlap and _stay_visible(placed, hidden)):
            continue
        placed.visible = [now - int(less) for now, less in zip(placed.visible, hidden, strict=True)] + [own]
        placed.areas.append(area)
        placed.labels.append(-1)
        return here, (part[0], part[1])
    return None


def _stay_visible(placed: _Placed, hidden: npt.NDArray[np.int64]) -> bool:
    """Whether every object that loses pixels keeps enough of them."""
    return all(
        now - less >= max(LEAST_PIXELS, LEAST_VISIBLE * area)
        for now, less, area in zip(placed.visible, hidden.tolist(), placed.areas, strict=True)
        if less
    )


def _color(region: Array, colors: npt.NDArray[Any] | None, rng: Rng) -> Array:
    """A color that differs from what is below, float32 [3]."""
    color = rng.uniform(0, 1, 3) if colors is None else colors[int(rng.integers(len(colors)))]
    color = color + rng.uniform(-0.06, 0.06, 3)
    below = cv2.mean(region)[:3]
    difference = color - below
    contrast = float(np.abs(difference).max())
    least = rng.uniform(0.1, 0.3)
    if contrast < least:
        away = 1.0 if sum(below) < 1.5 else -1.0
        color = np.asarray(below) + away * least + 0.3 * difference
    return np.clip(color, 0, 1).astype(np.float32)


def _fill(shape: tuple[int, int], color: Array, extent: float, rng: Rng) -> Array:
    """Texture of an object, float32 [h, w, 3]: plain, shaded, noisy, striped or spotted."""
    fill = np.empty((*shape, 3), np.float32)
    fill[:] = color
    kind = rng.random()
    if kind < 0.3:
        return fill
    amount = rng.uniform(0.1, 0.35) * (1 if rng.random() < 0.5 else -1)
    if kind < 0.5:
        slope = np.linspace(-amount, amount, shape[0 if rng.random() < 0.5 else 1], dtype=np.float32)
        fill += slope[:, None, None] if len(slope) == shape[0] else slope[None, :, None]
    elif kind < 0.75:
        fill += amount * noise(shape, max(1.0, extent * rng.uniform(0.04, 0.3)), rng)[..., None]
    else:
        other = rng.uniform(0, 1, 3).astype(np.float32) if rng.random() < 0.5 else color + amount
        fill += stripes(shape, max(2.5, extent * rng.uniform(0.08, 0.3)), rng)[..., None] * (other - color)
    return fill


def _throw_shadow(canvas: Array, here: tuple[slice, slice], alpha: Array, extent: float) -> None:
    """Darken the canvas to the lower right of an object, within its patch."""
    shift = max(1, round(0.05 * extent))
    shadow = np.zeros_like(alpha)
    shadow[shift:, shift:] = alpha[:-shift, :-shift]
    canvas[here] *= 1 - 0.45 * cv2.blur(shadow, (2 * shift + 1, 2 * shift + 1))[..., None]
