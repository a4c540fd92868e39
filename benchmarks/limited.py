"""A smaller data set for a short comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.validate import check_dataset
from detrkit.files import write_atomic

MIN_VAL = 100
"""Fewer validation images than this would make figures too uncertain."""


def limited_copy(data: str, limit: int, folder: Path) -> str:
    """A copy of a data set with at most `limit` training images, and as many for validation but at least `MIN_VAL`.

    The images are evenly spaced over the data set.

    The name of the copy contains a hash of its source, so that copies of two data sets cannot be confused.

    Returns:
        The folder of the copy, a COCO data set.
    """
    source = hashlib.sha256(str(Path(data).resolve()).encode()).hexdigest()[:8]
    copy = folder / f"data-{limit}-{source}"
    if (copy / "val.json").exists():  # written last
        return str(copy)
    splits, chosen = check_dataset(open_dataset(data)).splits, {}
    for name, split in splits.items():
        total = len(split.images)
        kept = limit if name == "train" else max(limit, MIN_VAL)
        chosen[name] = {split.images[k * total // kept].id for k in range(kept)} if kept < total else None
    copy_images(splits, chosen, copy)
    return str(copy)


def copy_images(splits: Mapping[str, Split], chosen: Mapping[str, Collection[int] | None], folder: Path) -> None:
    """Write a COCO data set of some images of another one.

    Args:
        splits: the other data set, by name of the split.
        chosen: ids of the images of each split; None: all.
        folder: of the copy.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        plain, ids, rows = split.to_coco(), chosen[name], []
        for row, image in zip(plain["images"], split.images, strict=True):
            if ids is None or image.id in ids:
                file_name = f"{name}-{image.id}{image.path.suffix}"
                shutil.copyfile(image.path, folder / "images" / file_name)
                rows.append({**row, "file_name": file_name})
        annotations = [row for row in plain["annotations"] if ids is None or row["image_id"] in ids]
        content = {"images": rows, "annotations": annotations, "categories": plain["categories"]}
        write_atomic(folder / f"{name}.json", json.dumps(content))
