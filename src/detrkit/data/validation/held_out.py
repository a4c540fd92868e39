"""Hold images out for validation where a data set has no such split: among the usable ones, so after the check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detrkit.data.formats.raw import RawDataset, RawImage
from detrkit.data.records import ImageRecord, Split
from detrkit.errors import ConfigError
from detrkit.files import write_atomic


def keep_required_splits(raw: RawDataset, required_splits: Collection[str]) -> None:
    """Leave the splits of a raw data set that `required_splits` ones are made of, so that no other need be in order.

    Args:
        raw: loses the others.
        wanted: `train`, `val`; empty: all that there are.

    Raises:
        ConfigError: the data set has none of that name, and none is held out.
    """
    if not required_splits:
        return
    if not _holds_out(raw):
        for name in required_splits:
            if name not in raw.splits:
                raise ConfigError(_no_such_split(name, raw))
        raw.splits = {name: raw_split for name, raw_split in raw.splits.items() if name in required_splits}


def hold_out(raw: RawDataset, splits: dict[str, Split], required_splits: Collection[str]) -> dict[str, Split]:
    """The clean splits, with a validation split taken out of train where the data set has none.

    Those whose seeded hash of the file name is smallest are held out, so that no order of listing changes the choice,
    and the same share of the images with and of those without an object to train on. Where the images that a run
    held out are known (`raw.held_out`), it is these.

    Args:
        raw: what the splits were made of; its `made_split` and `notes` tell what was chosen.
        splits: checked.
        wanted: see `keep_required_splits`.

    Raises:
        ConfigError: a split is wanted that cannot be made.
    """
    if _holds_out(raw) and (split := splits.get("train")) is not None:
        by_split = _sides(raw, split)
        if by_split is None:
            raw.notes.append(f"there is no validation split, and none can be held out of {_many(len(split))}")
        else:
            splits = {name: replace(split, name=name, images=images) for name, images in by_split.items()}
            names = {name: sorted({image.file_name for image in images}) for name, images in by_split.items()}
            raw.made_split = {"seed": raw.seed, "val_fraction": raw.val_fraction, **names}
    for name in required_splits:
        if name not in splits:
            raise ConfigError(_no_such_split(name, raw))
    return {name: split for name, split in splits.items() if not required_splits or name in required_splits}


def listed_images(raw: RawDataset, split: str) -> list[RawImage]:
    """The images that the files list for a checked split, usable or not; without those of the side it was parted from.

    Args:
        raw: after the check.
        split: `train` or `val`.
    """
    if raw.made_split is None:
        return raw.splits[split].images
    other = set(raw.made_split["train" if split == "val" else "val"])
    return [image for image in raw.splits["train"].images if image.file_name not in other]


def write_split(path: str | Path, raw: RawDataset) -> None:
    """Write down which images a made validation split took: seed, fraction and the file names of both splits.

    Does nothing where the data set brought its own split.
    """
    if raw.made_split is not None:
        write_atomic(path, json.dumps(raw.made_split, indent=1) + "\n")


def _holds_out(raw: RawDataset) -> bool:
    return "train" in raw.splits and "val" not in raw.splits and raw.val_fraction > 0


def _sides(raw: RawDataset, split: Split) -> dict[str, list[ImageRecord]] | None:
    """The images of both splits; None where there are too few."""
    known = set(raw.held_out)
    held_out = {image.file_name for image in split.images if image.file_name in known}
    note = "the {count} that the run held out are used"
    if not 0 < len(held_out) < len(split.images):
        held_out = {image.file_name for image in _chosen(split.images, raw.val_fraction, raw.seed)}
        note = f"{{count}} of {_many(len(split))} were held out (seed {raw.seed})"
    by_split: dict[str, list[ImageRecord]] = {"train": [], "val": []}
    for image in split.images:
        by_split["val" if image.file_name in held_out else "train"].append(image)
    if not all(by_split.values()):
        return None
    raw.notes.append("there is no validation split; " + note.format(count=len(by_split["val"])))
    return by_split


def _chosen(images: Sequence[ImageRecord], fraction: float, seed: int) -> list[ImageRecord]:
    """A share of the images, at least one and never all, and never the only one with an object to train on."""
    ranked = sorted(images, key=lambda image: _hash(f"{seed}:{image.file_name}"))
    count = min(len(ranked) - 1, max(1, round(fraction * len(ranked))))
    full = [image for image in ranked if image.has_trainable]
    empty = [image for image in ranked if not image.has_trainable]
    of_full = max(0, min(len(full) - 1, max(1, round(count * len(full) / len(ranked)))))
    of_empty = min(len(empty), count - of_full)
    return full[: count - of_empty] + empty[:of_empty]


def _hash(text: str) -> bytes:
    """SHA-256 of a text, which may hold bytes of a file name that are no UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _no_such_split(name: str, raw: RawDataset) -> str:
    found = " and ".join(raw.splits) or "none"
    return f"expected a {name} split in {raw.source}, found {found}; choose another with --split"


def _many(images: int) -> str:
    return f"{images} usable image{'' if images == 1 else 's'}"


def made_split(weights: str) -> dict[str, Any]:
    """Which images the run behind some weights held out for validation, where its data set had no such split.

    So that a detector is never measured on images it was trained on. Empty where nothing was made; keywords of
    `open_dataset`.
    """
    path = Path(weights)
    written = (path if path.is_dir() else path.parent) / "split.json"
    if not weights or not written.is_file():
        return {}
    made = json.loads(written.read_text(encoding="utf-8"))
    return {"seed": made["seed"], "val_fraction": made["val_fraction"], "held_out": made.get("val", [])}
