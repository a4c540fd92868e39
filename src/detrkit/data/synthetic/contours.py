"""Families of plane curves by formula: the classes of generated scenes.

Each family is a set of formulas with random parameters, after the idea of pretraining on formula-driven images (Kataoka
et al. 2020, "Pre-training without Natural Images"; Kataoka et al. 2022, "Replacing Labeled Real-image Datasets with
Auto-generated Contours").

A contour is a float64 array [K, 2] of x, y, as the formula has it: neither turned nor scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Rng = np.random.Generator

K = 72
"""Points of a smooth contour."""

_T = np.linspace(0, 2 * np.pi, K, endpoint=False)


@dataclass(frozen=True)
class Outline:
    """A shape: filled contours, or curves drawn with a pen."""

    paths: list[Points]
    """Contours or curves, [K, 2] each. Filled contours inside others are holes."""
    pen: float = 0.0
    """Width of the pen relative to the longer side of the shape; 0: the contours are filled."""
    closed: bool = True
    """Whether the pen returns to where it began."""


def _ellipse(rng: Rng) -> Outline:
    return Outline([_polar(np.ones(K)) * (1, rng.uniform(0.4, 1))])


def _superellipse(rng: Rng) -> Outline:
    """|x|^n + |y|^n = 1 with n above 2: a rectangle with round corners."""
    return Outline([_lame(rng.uniform(3.5, 12)) * (1, rng.uniform(0.4, 1))])


def _astroid(rng: Rng) -> Outline:
    """|x|^n + |y|^n = 1 with n below 1: four cusps."""
    return Outline([_lame(rng.uniform(0.5, 0.8)) * (1, rng.uniform(0.6, 1))])


def _polygon(rng: Rng) -> Outline:
    corners = int(rng.integers(3, 8))
    angles = (np.arange(corners) + rng.uniform(-0.2, 0.2, corners)) * 2 * np.pi / corners
    return Outline([_at(angles, rng.uniform(0.85, 1, corners)) * (1, rng.uniform(0.6, 1))])


def _star(rng: Rng) -> Outline:
    points = int(rng.integers(4, 10))
    radius = np.tile([1.0, rng.uniform(0.3, 0.6)], points)
    return Outline([_at(np.arange(2 * points) * np.pi / points, radius)])


def _rose(rng: Rng) -> Outline:
    """r = 1 + a cos(k t): petals."""
    return Outline([_polar(1 + rng.uniform(0.4, 0.8) * np.cos(rng.integers(3, 8) * _T))])


def _superformula(rng: Rng) -> Outline:
    """The superformula (Gielis 2003) with an odd symmetry."""
    m, n1, n2 = 2 * rng.integers(1, 4) + 1, rng.uniform(0.3, 0.6), rng.uniform(0.6, 1.6)
    radius = (np.abs(np.cos(m * _T / 4)) ** n2 + np.abs(np.sin(m * _T / 4)) ** n2) ** (-1 / n1)
    return Outline([_polar(np.maximum(radius / radius.max(), 0.15))])


def _blob(rng: Rng) -> Outline:
    """A radius of few low frequencies: smooth and irregular."""
    return Outline([_polar(1 + _waves(rng, (2, 3, 4, 5), 0.5)) * (1, rng.uniform(0.5, 1))])


def _burst(rng: Rng) -> Outline:
    """A radius of many high frequencies: jagged all around."""
    return Outline([_polar(1 + 0.5 * rng.uniform(-1, 1, K) * np.tile([1, -0.3], K // 2))])


def _gear(rng: Rng) -> Outline:
    teeth, depth = int(rng.integers(6, 13)), rng.uniform(0.15, 0.3)
    corners = np.arange(4 * teeth)
    return Outline([_at((corners + 0.5) * np.pi / (2 * teeth), 1 - depth * (corners // 2 % 2))])


def _ring(rng: Rng) -> Outline:
    squeeze, hole = (1, rng.uniform(0.5, 1)), rng.uniform(0.4, 0.75)
    return Outline([_polar(np.ones(K)) * squeeze, hole * _polar(np.ones(K)) * squeeze])


def _crescent(rng: Rng) -> Outline:
    """A disc without another, which lies to its right."""
    half = np.linspace(0, np.pi, K // 2)
    bend = rng.uniform(0.2, 0.7)
    outer = np.stack([-np.sin(half), np.cos(half)], 1)
    inner = np.stack([-bend * np.sin(half), np.cos(half)], 1)
    return Outline([np.concatenate([outer, inner[::-1]])])


def _teardrop(rng: Rng) -> Outline:
    """x = cos t, y = sin t sin(t/2)^m: round on one side, a cusp on the other."""
    return Outline([np.stack([np.cos(_T), np.sin(_T) * np.sin(_T / 2) ** rng.uniform(1.2, 3)], 1)])


def _cassini(rng: Rng) -> Outline:
    """Cassini's oval with a waist: the product of the distances from two points is constant."""
    b = rng.uniform(1.01, 1.12)
    radius = np.sqrt(np.cos(2 * _T) + np.sqrt(b**4 - np.sin(2 * _T) ** 2))
    return Outline([_polar(radius)])


def _cross(rng: Rng) -> Outline:
    a, b = rng.uniform(0.18, 0.38, 2)
    quarter = np.array([(1, b), (a, b), (a, 1)])
    turned = [quarter, quarter[::-1] * (-1, 1), quarter * (-1, -1), quarter[::-1] * (1, -1)]
    return Outline([np.concatenate(turned) * (1, rng.uniform(0.6, 1))])


def _spiral(rng: Rng) -> Outline:
    """Archimedes' spiral, r = a + b t."""
    turns = rng.uniform(1.5, 2.6)
    t = np.linspace(0, 1, K)
    return Outline([_at(2 * np.pi * turns * t, 0.12 + t)], pen=rng.uniform(0.06, 0.11), closed=False)


def _wave(rng: Rng) -> Outline:
    x = np.linspace(-1, 1, K)
    y = rng.uniform(0.2, 0.5) * np.sin(np.pi * rng.uniform(1.6, 4) * x + rng.uniform(0, 2 * np.pi))
    return Outline([np.stack([x, y], 1)], pen=rng.uniform(0.05, 0.14), closed=False)


def _lissajous(rng: Rng) -> Outline:
    """x = sin(a t + d), y = sin(b t): a closed curve that crosses itself."""
    a, b = ((1, 2), (2, 3), (3, 2), (3, 4))[int(rng.integers(4))]
    t = np.linspace(0, 2 * np.pi, 2 * K, endpoint=False)
    curve = np.stack([np.sin(a * t + rng.uniform(0.3, 1.2)), np.sin(b * t)], 1)
    return Outline([curve * (1, rng.uniform(0.6, 1))], pen=rng.uniform(0.05, 0.1))


def _strand(rng: Rng) -> Outline:
    """A cubic Bezier curve, drawn with a pen."""
    ends = np.array([(-1, 0), (-0.4, 0), (0.4, 0), (1, 0)]) + rng.uniform(-0.6, 0.6, (4, 2)) * (0.2, 1)
    t = np.linspace(0, 1, K // 2)[:, None]
    curve = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
    return Outline([curve], pen=rng.uniform(0.04, 0.2), closed=False)


def _branch(rng: Rng) -> Outline:
    """A stem with side branches."""
    stem = np.stack([np.linspace(-1, 1, 9), 0.08 * np.cumsum(rng.normal(size=9))], 1)
    paths = [stem]
    side = 1 if rng.random() < 0.5 else -1
    for knot in range(1, 8, int(rng.integers(1, 3))):
        length, angle = rng.uniform(0.3, 0.6), side * rng.uniform(0.5, 1.1)
        paths.append(np.stack([stem[knot], stem[knot] + length * np.array([np.cos(angle), np.sin(angle)])]))
        side = -side
    return Outline(paths, pen=rng.uniform(0.04, 0.09), closed=False)


FAMILIES: dict[str, Callable[[Rng], Outline]] = {
    "ellipse": _ellipse,
    "superellipse": _superellipse,
    "astroid": _astroid,
    "polygon": _polygon,
    "star": _star,
    "rose": _rose,
    "superformula": _superformula,
    "blob": _blob,
    "burst": _burst,
    "gear": _gear,
    "ring": _ring,
    "crescent": _crescent,
    "teardrop": _teardrop,
    "cassini": _cassini,
    "cross": _cross,
    "spiral": _spiral,
    "wave": _wave,
    "lissajous": _lissajous,
    "strand": _strand,
    "branch": _branch,
}
"""Class name -> function that draws its random parameters."""


def _polar(radius: npt.NDArray[Any]) -> Points:
    """Contour of K points from the radius at each angle."""
    return _at(_T, radius)


def _at(angles: npt.NDArray[Any], radius: npt.NDArray[Any]) -> Points:
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)


def _lame(n: float) -> Points:
    """Contour of a Lame curve, |x|^n + |y|^n = 1."""
    cos, sin = np.cos(_T), np.sin(_T)
    return np.stack([np.sign(cos) * np.abs(cos) ** (2 / n), np.sign(sin) * np.abs(sin) ** (2 / n)], 1)


def _waves(rng: Rng, orders: tuple[int, ...], amount: float) -> npt.NDArray[Any]:
    """Sum of cosines of random amplitudes and phases, at most `amount`."""
    k = np.array(orders)[:, None]
    amplitudes = rng.uniform(0.2, 1, (len(orders), 1)) / k
    values = (amplitudes * np.cos(k * _T + rng.uniform(0, 2 * np.pi, (len(orders), 1)))).sum(0)
    return np.asarray(amount * values / amplitudes.sum())
