"""Divide images into folds for cross-validation: groups stay whole, and rare classes are spread evenly."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError, DataError
from detrkit.ops.text import first_names


def group_images(images: Sequence[ImageRecord], copies: Mapping[Path, int], pattern: str = "") -> list[int]:
    """Number the groups of images that must stay together: copies of one another, and those of one name.

    Args:
        images: images.
        copies: number of the group of copies of each image that has one, see `NearDuplicates.group_of`.
        pattern: regular expression that is searched for in each file name, and whose first group is the name of the
            group, such as `(part\\d+)_`; empty: none.

    Returns:
        The number of the group of each image: groups that share an image are one.

    Raises:
        ConfigError: the pattern is no regular expression with a group.
        DataError: the pattern does not match a file name.
    """
    names = _names(images, pattern) if pattern else [None] * len(images)
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (parent := parents.setdefault(key, key)) != key:
            key = parent
        return key

    for image, name in zip(images, names, strict=True):
        for key in (("copies", copies.get(image.path)), ("name", name)):
            if key[1] is not None:
                parents[root(key)] = root(image.path)
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(image.path), len(numbers)) for image in images]


def _names(images: Sequence[ImageRecord], pattern: str) -> list[str | None]:
    """The first group of the pattern in each file name."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"expected a regular expression as --group_by, found {pattern!r} ({error}); in a shell, put it in quotes"
        ) from None
    if not expression.groups:
        raise ConfigError(
            f"expected a group in --group_by, whose text names the group of an image, found none in {pattern!r}; put "
            rf"that part in parentheses, such as '(part\d+)_'"
        )
    matches = [expression.search(image.file_name) for image in images]
    missed = [image.file_name for image, match in zip(images, matches, strict=True) if not match or match[1] is None]
    if missed:
        raise DataError(
            f"expected --group_by {pattern!r} to match all {len(images)} file names, but it does not match "
            f"{len(missed)}: {first_names(missed, 3)}; widen the pattern"
        )
    return [match[1] if match else None for match in matches]


def assign_folds(images: Sequence[ImageRecord], groups: Sequence[int], folds: int, seed: int) -> list[int]:
    """Assign each image to a fold, 0..folds-1, by its group.

    The groups whose rarest class has the fewest images come first, those with more images of it before others, and
    equal ones in the order of a seeded hash. Each goes to the fold with the fewest images of that class, of these to
    the one with the fewest images.

    Args:
        images: images.
        groups: number of the group of each.
        folds: number of folds, at least 2.
        seed: random seed.

    Raises:
        DataError: there are fewer groups than folds.
    """
    members: dict[int, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    if len(members) < folds:
        kept, whole = "", len(members)
        if whole < len(images):
            kept = f" in {whole} group{'' if whole == 1 else 's'}, of copies or of one name, that stay whole"
        raise DataError(
            f"expected at least {folds} groups of images for --folds {folds}, found {len(images)} "
            f"image{'' if len(images) == 1 else 's'}{kept}; "
            + ("choose fewer folds, or add images" if whole > 1 else "add images that look different")
        )
    classes = [{obj.category_id for obj in image.objects if not obj.crowd} for image in images]
    counts = Counter(category for present in classes for category in present)
    rarest = {
        group: min((category for k in rows for category in classes[k]), key=lambda c: (counts[c], c), default=None)
        for group, rows in members.items()
    }

    def order(group: int) -> tuple[int, int, int, str]:
        category, rows = rarest[group], members[group]
        with_it = sum(category in classes[k] for k in rows)
        rarity = len(images) + 1 if category is None else counts[category]
        return rarity, -with_it, -len(rows), _hash(f"{seed}:{min(images[k].file_name for k in rows)}")

    sizes, per_class = [0] * folds, [Counter[int]() for _ in range(folds)]
    result = [0] * len(images)
    for group in sorted(members, key=order):
        category = rarest[group]
        load = [sizes[k] if category is None else per_class[k][category] for k in range(folds)]
        fold = min(range(folds), key=lambda k: (load[k], sizes[k], k))
        for k in members[group]:
            result[k] = fold
            per_class[fold].update(classes[k])
        sizes[fold] += len(members[group])
    return result


def classes_of_one_group(split: Split, groups: Sequence[int]) -> list[str]:
    """Names of the classes whose objects lie in one group, so that no model is both trained and measured on them."""
    groups_of: dict[int, set[int]] = {}
    for image, group in zip(split.images, groups, strict=True):
        for obj in image.objects:
            if not obj.crowd:
                groups_of.setdefault(obj.category_id, set()).add(group)
    named = zip(split.categories.ids, split.categories.names, strict=True)
    return [name for category, name in named if len(groups_of.get(category, ())) == 1]


def _hash(text: str) -> str:
    """SHA-256 of a file name, which may contain bytes that are no UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
