"""Pool the splits of a data set into one, which is then divided into folds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from detrkit.data.formats.raw import RawDataset


def pool_splits(raw: RawDataset) -> None:
    """Make train and val of a raw data set one split, `train`.

    Ids that occur twice are given anew, and names that occur twice get the name of their split as folder.
    """
    raw.pooled = True
    if len(raw.splits) == 1:
        raw.splits = {"train": replace(next(iter(raw.splits.values())), name="train")}
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
    counts = " and ".join(f"{len(split.images)} of {name}" for name, split in raw.splits.items())
    raw.notes.append(f"{counts} are one set of images for the folds")
    first = next(iter(raw.splits.values()))
    raw.splits = {"train": replace(first, name="train", images=images, source=raw.source)}
