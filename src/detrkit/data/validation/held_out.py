"""Hold out a validation split of the usable images, if a data set has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detrkit.data.formats.raw import RawDataset, RawImage, RawSplit
from detrkit.data.records import ImageRecord, Split, select_images
from detrkit.errors import ConfigError
from detrkit.files import write_atomic


def keep_required_splits(raw: RawDataset, required_splits: Collection[str]) -> None:
    """Drop the splits that are not required, so that they need not be valid.

    Args:
        raw: the data set; it loses the other splits, unless a split has to be held out of train. What is left is not
            divided again.
        required_splits: `train`, `val`; empty: all splits.

    Raises:
        ConfigError: a required split does not exist, and none is held out.
    """
    if not required_splits:
        return
    if not _holds_out(raw):
        for name in required_splits:
            if name not in raw.splits:
                raise ConfigError(_no_such_split(name, raw))
        raw.splits = {name: raw_split for name, raw_split in raw.splits.items() if name in required_splits}
        raw.val_fraction = 0.0


def hold_out(
    raw: RawDataset,
    splits: dict[str, Split],
    required_splits: Collection[str],
    group_of: Mapping[Path, int] | None = None,
) -> dict[str, Split]:
    """Divide train into train and val, if the data set has no validation split, and return the required splits.

    The images with the smallest seeded hash of their file name are held out, so the choice does not depend on their
    order; the share is the same of images with and without trainable objects. Images of one group stay together. If
    `raw.held_out` names images, these are held out instead.

    Args:
        raw: the raw data set; its `held_out_split` and `notes` take the choice.
        splits: the checked splits.
        required_splits: see `keep_required_splits`.
        group_of: number of the group of each image that has one.

    Raises:
        ConfigError: a required split can be neither found nor held out.
    """
    if _holds_out(raw) and (split := splits.get("train")) is not None:
        by_split = _divide(raw, split, group_of or {})
        if by_split is None:
            raw.notes.append(f"there is no validation split, and none can be held out of {_many(len(split))}")
        else:
            splits = {name: replace(split, name=name, images=images) for name, images in by_split.items()}
            names = {name: sorted({image.file_name for image in images}) for name, images in by_split.items()}
            raw.held_out_split = {"seed": raw.seed, "val_fraction": raw.val_fraction, **names}
            if raw.pooled:
                raw.held_out_split["pooled"] = True
    for name in required_splits:
        if name not in splits:
            raise ConfigError(_no_such_split(name, raw))
    return {name: split for name, split in splits.items() if not required_splits or name in required_splits}


def listed_images(raw: RawDataset, split: str) -> list[RawImage]:
    """All images that the annotation files list for a split, usable or not.

    Args:
        raw: the raw data set, after `check_dataset`.
        split: `train` or `val`.
    """
    if raw.held_out_split is None:
        return _listed(raw.splits[split])
    other = set(raw.held_out_split["train" if split == "val" else "val"])
    return [image for image in _listed(raw.splits["train"]) if image.file_name not in other]


def _listed(raw_split: RawSplit) -> list[RawImage]:
    if raw_split.checked is None:
        return raw_split.images
    return [
        RawImage(image.id, image.path, image.file_name, image.height, image.width, [], raw_split.source)
        for image in raw_split.checked.images
    ]


def write_split(path: str | Path, raw: RawDataset) -> None:
    """Write a held-out split to a json file: seed, fraction, and the file names of both splits.

    Does nothing if the data set has its own validation split.
    """
    if raw.held_out_split is not None:
        write_atomic(path, json.dumps(raw.held_out_split, indent=1) + "\n")


def chooses_images(raw: RawDataset, splits: Mapping[str, Split]) -> bool:
    """Whether `hold_out` will choose images, rather than take those that a run held out."""
    known = set(raw.held_out)
    return _holds_out(raw) and "train" in splits and not _are_there(known, splits["train"])


def _holds_out(raw: RawDataset) -> bool:
    return "train" in raw.splits and "val" not in raw.splits and raw.val_fraction > 0


def _are_there(names: Collection[str], split: Split) -> bool:
    """Whether some images of a split have these names, but not all."""
    return 0 < sum(image.file_name in names for image in split.images) < len(split.images)


def _divide(raw: RawDataset, split: Split, group_of: Mapping[Path, int]) -> dict[str, Sequence[ImageRecord]] | None:
    """Divide the images of train into both splits; None if there are too few."""
    held_out = set(raw.held_out)
    note = "the {count} of the fold are used" if raw.pooled else "the {count} that the run held out are used"
    if not _are_there(held_out, split):
        chosen = _choose(split.images, raw.val_fraction, raw.seed, group_of)
        note = f"{{count}} of {_many(len(split))} were held out (seed {raw.seed})"
        if group_of:
            groups = len({group_of[image.path] for image in split.images if image.path in group_of})
            note += f"; {groups} group{'' if groups == 1 else 's'} of images that look alike "
            note += f"{'was' if groups == 1 else 'were'} kept together"
        if not chosen and len(split) > 1:
            chosen = _choose(split.images, raw.val_fraction, raw.seed, {})
            note = f"{{count}} of {_many(len(split))}, which all look alike, were held out (seed {raw.seed})"
        held_out = {image.file_name for image in chosen}
    indices: dict[str, list[int]] = {"train": [], "val": []}
    for index, image in enumerate(split.images):
        indices["val" if image.file_name in held_out else "train"].append(index)
    if not all(indices.values()):
        return None
    by_split = {name: select_images(split.images, some) for name, some in indices.items()}
    raw.notes.append("there is no validation split; " + note.format(count=len(by_split["val"])))
    return by_split


def _choose(
    images: Sequence[ImageRecord], fraction: float, seed: int, group_of: Mapping[Path, int]
) -> list[ImageRecord]:
    """Choose a share of the images: at least one, never all, and never the only one with a trainable object.

    Groups are chosen whole: by the smallest hash of their images, unless they are too large; if all are, the smallest.
    Empty if that would leave nothing to train on.
    """
    groups: dict[object, list[ImageRecord]] = {}
    for image in sorted(images, key=lambda image: _hash(f"{seed}:{image.file_name}")):
        groups.setdefault(group_of.get(image.path, image.path), []).append(image)
    count = min(len(images) - 1, max(1, round(fraction * len(images))))
    full = sum(image.has_trainable for image in images)
    of_full = max(0, min(full - 1, max(1, round(count * full / len(images)))))
    of_empty = min(len(images) - full, count - of_full)
    left = {True: count - of_empty, False: of_empty}
    chosen: list[ImageRecord] = []
    for group in groups.values():
        if _fits(group, left):
            chosen += group
            for image in group:
                left[image.has_trainable] -= 1
    if not chosen:
        small = [group for group in groups.values() if _fits(group, {True: full - 1, False: len(images)})]
        chosen = min(small, key=len) if small and len(groups) > 1 else []
    return chosen


def _fits(group: Sequence[ImageRecord], left: Mapping[bool, int]) -> bool:
    """Whether a group has no more images with and without trainable objects than are left to be chosen."""
    full = sum(image.has_trainable for image in group)
    return full <= left[True] and len(group) - full <= left[False]


def _hash(text: str) -> bytes:
    """SHA-256 of a file name, which may contain bytes that are no UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _no_such_split(name: str, raw: RawDataset) -> str:
    found = " and ".join(raw.splits) or "none"
    return f"expected a {name} split in {raw.source}, found {found}; choose another with --split"


def _many(images: int) -> str:
    return f"{images} usable image{'' if images == 1 else 's'}"


def read_split(weights: str) -> dict[str, Any]:
    """Read the split that the training run of some weights held out, as keyword arguments of `open_dataset`.

    With it, a detector is never evaluated on images it was trained on. Empty if the run held out no split.
    """
    path = Path(weights)
    written = (path if path.is_dir() else path.parent) / "split.json"
    if not weights or not written.is_file():
        return {}
    made = json.loads(written.read_text(encoding="utf-8"))
    pooled = {"pooled": True} if made.get("pooled") else {}
    return {"seed": made["seed"], "val_fraction": made["val_fraction"], "held_out": made.get("val", []), **pooled}


def read_fold(run_dir: Path | None) -> dict[str, Any]:
    """Read the images that a fold holds out, as keyword arguments of `open_dataset`; empty if the run is no fold."""
    choice = read_split(str(run_dir)) if run_dir else {}
    return choice if choice.get("pooled") else {}
