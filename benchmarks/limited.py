"""A smaller data set for a short comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from detrkit.data.formats.detect import open_dataset
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
    (copy / "images").mkdir(parents=True, exist_ok=True)
    for name, split in check_dataset(open_dataset(data)).splits.items():
        gt = split.to_coco()
        total = len(split.images)
        kept = limit if name == "train" else max(limit, MIN_VAL)
        chosen = {k * total // kept for k in range(kept)} if kept < total else set(range(total))
        rows = []
        for index in sorted(chosen):
            image = split.images[index]
            file_name = f"{name}-{image.id}{image.path.suffix}"
            shutil.copyfile(image.path, copy / "images" / file_name)
            rows.append({**gt["images"][index], "file_name": file_name})
        ids = {row["id"] for row in rows}
        annotations = [row for row in gt["annotations"] if row["image_id"] in ids]
        content = {"images": rows, "annotations": annotations, "categories": gt["categories"]}
        write_atomic(copy / f"{name}.json", json.dumps(content))
    return str(copy)
