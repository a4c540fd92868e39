"""How often each training image occurs per epoch: those of rare classes more often, tiles without objects less."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.records import Split, StoredRecords

Floats = NDArray[np.float64]

RARE = 0.1
"""Fraction of the images below which a class is rare to `suggest_threshold`."""

THRESHOLDS = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Thresholds that `suggest_threshold` takes, the first that makes an epoch at most `LONGEST` times as long."""

LONGEST = 1.5
"""Growth of an epoch by the repeated images beyond which `suggest_threshold` takes a smaller threshold."""

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
    shown = np.zeros(len(split.categories), np.int64)
    count = len(split)
    if isinstance(split.images, StoredRecords):
        for _, classes in split.arrays.class_pairs():
            shown += np.bincount(classes, minlength=len(shown))
    else:  # tiles, whose classes are those of their image
        ids, numbers = np.unique([image.id for image in split.images], return_inverse=True)
        pairs = [np.stack([numbers[images], classes]) for images, classes in split.arrays.class_pairs()]
        shown += np.bincount(np.unique(np.concatenate(pairs, axis=1), axis=1)[1], minlength=len(shown))
        count = len(ids)
    return {
        category_id: max(1.0, (threshold * count / number) ** 0.5)
        for category_id, number in zip(split.categories.ids, shown.tolist(), strict=True)
        if number
    }


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
    factors = np.ones(len(split))
    if threshold:
        by_class = class_factors(split, threshold)
        of_class = np.array([by_class.get(category_id, 1.0) for category_id in split.categories.ids])
        for images, classes in split.arrays.class_pairs():
            np.maximum.at(factors, images, of_class[classes])
    empty = _empty_tiles(split)
    if empty.any():
        factors[empty] = min(1.0, float((~empty).sum()) / float(empty.sum()))
    return None if (factors == 1).all() else factors


def suggest_threshold(split: Split) -> float:
    """Threshold for `repeat_factors` from the classes of the training images.

    With at most 0.3, rare classes gain in trainings of as many steps as without repetition, and the others as well
    (docs/benchmarks/rare-classes.md). With many classes that would repeat most images, so that an epoch only grows
    longer; the threshold is smaller there.

    Args:
        split: training images, or their tiles.

    Returns:
        0 unless a class is in less than `RARE` of the images.
    """
    if max(class_factors(split, RARE).values(), default=1.0) == 1.0:
        return 0.0
    longest = LONGEST * _epoch_length(split, 0.0)
    return next((threshold for threshold in THRESHOLDS if _epoch_length(split, threshold) <= longest), 0.0)


def _epoch_length(split: Split, threshold: float) -> int:
    factors = repeat_factors(split, threshold)
    return len(split) if factors is None else number_per_epoch(factors)


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
    tiles = _empty_tiles(split)
    empty, shown = int(tiles.sum()), round(float(factors[tiles].sum()))
    parts += [f"{shown} of {empty} tiles without objects"] if empty else []
    return f"{', '.join(parts)} per epoch, which has {number_per_epoch(factors)} {'tiles' if empty else 'images'}"


def _empty_tiles(split: Split) -> NDArray[np.bool_]:
    """Whether each record is a tile without objects, bool [n]."""
    if isinstance(split.images, StoredRecords):
        return np.zeros(len(split), bool)
    return np.array([image.tile is not None and not image.has_trainable for image in split.images], bool)


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
