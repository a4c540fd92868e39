"""How often each training image occurs per epoch: those of rare classes more often, tiles without objects less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.records import ImageRecord, Split

Floats = NDArray[np.float64]

NAMED = 4
"""Rare classes that the line of a run names."""


def class_factors(split: Split, threshold: float) -> dict[int, float]:
    """Repeat factor of each class that occurs: r(c) = max(1, sqrt(t / f(c))).

    f(c) is the fraction of the images that show the class; the tiles of an image count as one. It is the repeat-factor
    sampling of Gupta et al. 2019 (LVIS).

    Args:
        split: training images, or their tiles.
        threshold: t, the fraction of images below which a class is rare, 0..1.

    Returns:
        Category id -> factor.
    """
    shown: dict[int, set[int]] = {}
    for image in split.images:
        for category_id in _classes(image):
            shown.setdefault(category_id, set()).add(image.id)
    count = len({image.id for image in split.images})
    return {category_id: max(1.0, (threshold * count / len(ids)) ** 0.5) for category_id, ids in shown.items()}


def repeat_factors(split: Split, threshold: float) -> Floats | None:
    """Mean number of times that each image, or tile, occurs per epoch; float64 [n].

    It is the largest factor of its classes (`class_factors`). Of tiles without objects, which may be most of them, no
    more occur than there are others: as many teach what background is, and more would take the time of the rest.

    Args:
        split: training images, or their tiles.
        threshold: see `class_factors`; 0: images of rare classes are not repeated.

    Returns:
        The factors; None: every image occurs once.
    """
    by_class = class_factors(split, threshold) if threshold else {}
    factors = np.array([_largest(by_class, image) for image in split.images])
    empty = np.array([image.tile is not None and not image.has_trainable for image in split.images])
    if empty.any():
        factors[empty] = min(1.0, float((~empty).sum()) / float(empty.sum()))
    return None if (factors == 1).all() else factors


def describe_repeats(split: Split, threshold: float) -> str:
    """A line about the factors of a run; empty: every image occurs once."""
    factors = repeat_factors(split, threshold)
    if factors is None:
        return ""
    names = dict(zip(split.categories.ids, split.categories.names, strict=True))
    by_class = class_factors(split, threshold) if threshold else {}
    rare = sorted(((factor, names[i]) for i, factor in by_class.items() if factor > 1), reverse=True)
    parts = [f"images of {name} {factor:.1f} times" for factor, name in rare[:NAMED]]
    parts += [f"{len(rare) - NAMED} more rare classes"] if len(rare) > NAMED else []
    empty = sum(image.tile is not None and not image.has_trainable for image in split.images)
    shown = round(float(factors[[image.tile is not None and not image.has_trainable for image in split.images]].sum()))
    parts += [f"{shown} of {empty} tiles without objects"] if empty else []
    return f"{', '.join(parts)} per epoch, which has {number_per_epoch(factors)} {'tiles' if empty else 'images'}"


def _classes(image: ImageRecord) -> set[int]:
    return {obj.category_id for obj in image.objects if not obj.crowd}


def _largest(by_class: Mapping[int, float], image: ImageRecord) -> float:
    return max((by_class.get(category_id, 1.0) for category_id in _classes(image)), default=1.0)


def draw_repeated(factors: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of one epoch: each as often as the whole part of its factor, or, by the fraction's chance, once more.

    Systematic sampling: the number of indices is the sum of the factors, rounded down, in every epoch.

    Args:
        factors: float64 [n], at least 0.
        rng: source of all randomness.

    Returns:
        int64, in rising order.
    """
    whole = np.floor(factors)
    order = rng.permutation(len(factors))
    ends = np.floor(np.cumsum((factors - whole)[order]) + rng.random())
    chosen = order[np.diff(ends, prepend=0) > 0]
    always: NDArray[Any] = np.repeat(np.arange(len(factors)), whole.astype(np.int64))
    return np.sort(np.concatenate([always, chosen[: max(0, number_per_epoch(factors) - len(always))]]))


def number_per_epoch(factors: Floats) -> int:
    """Number of indices that `draw_repeated` draws, at least 1."""
    return max(1, int(np.floor(factors.sum() + 1e-6)))
