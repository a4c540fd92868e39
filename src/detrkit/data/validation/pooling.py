"""Pool the splits of a data set into one, which is then divided into folds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from detrkit.data.formats.raw import RawDataset, RawSplit


def pool_splits(raw: RawDataset) -> None:
    """Make train and val of a raw data set one split, `train`.

    Ids that occur twice are given anew, and names that occur twice get the name of their split as folder.
    """
    raw.pooled = True
    if len(raw.splits) == 1:
        only = next(iter(raw.splits.values()))
        checked = only.checked and replace(only.checked, name="train")
        raw.splits = {"train": replace(only, name="train", checked=checked)}
        return
    if raw.is_packed:
        raw.splits = {"train": _pool_packed(raw)}
        return
    names = Counter(image.file_name for split in raw.splits.values() for image in split.images)
    images = []
    for name, split in raw.splits.items():
        for image in split.images:
            if names[image.file_name] > 1:
                image.file_name = f"{name}/{image.file_name}"
            images.append(image)
    if len({str(image.id) for image in images}) < len(images):
        for number, image in enumerate(images, start=1):
            image.id, image.text_id = number, ""
    objects = [raw_object for image in images for raw_object in image.objects]
    if len({str(raw_object.id) for raw_object in objects}) < len(objects):
        for number, raw_object in enumerate(objects, start=1):
            raw_object.id = number
    raw.notes.append(_describe(raw))
    first = next(iter(raw.splits.values()))
    raw.splits = {"train": replace(first, name="train", images=images, source=raw.source)}


def _pool_packed(raw: RawDataset) -> RawSplit:
    """Make the splits of packed data one, as a list of records; ids and names are given anew as for others."""
    splits = {name: split.checked for name, split in raw.splits.items() if split.checked is not None}
    names = Counter(image.file_name for split in splits.values() for image in split.images)
    images = []
    for name, split in splits.items():
        for image in split.images:
            if names[image.file_name] > 1:
                image.file_name = f"{name}/{image.file_name}"
            images.append(image)
    if len({image.id for image in images}) < len(images):
        for number, image in enumerate(images, start=1):
            image.id = number
    objects = [obj for image in images for obj in image.objects]
    if len({obj.id for obj in objects}) < len(objects):
        for number, obj in enumerate(objects, start=1):
            obj.id = number
    raw.notes.append(_describe(raw))
    first = next(iter(raw.splits.values()))
    assert first.checked is not None
    checked = replace(first.checked, name="train", images=images)
    return replace(first, name="train", checked=checked, parts=tuple(splits.values()))


def _describe(raw: RawDataset) -> str:
    counts = " and ".join(f"{len(split)} of {name}" for name, split in raw.splits.items())
    return f"{counts} are one set of images for the folds"
