"""Crowd regions: treat them as objects if a split has nothing else, and report classes without trainable objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.records import Split
from detrkit.data.validation.findings import Findings


def crowds_as_objects(raw_split: RawSplit, images: Sequence[RawImage], findings: Findings) -> None:
    """Turn crowds into objects if a split has nothing else, and each crowd has a mask.

    CVAT exports every brush mask with `iscrowd` 1, only to say that the mask is an RLE.
    """
    count = 0
    for image in images:
        for raw in image.objects:
            if not raw.crowd or raw.segmentation is None or raw.segmentation == []:
                return
            count += 1
    if count:
        for image in images:
            for raw in image.objects:
                raw.crowd = False
        findings.add("crowd_as_object", raw_split.source, detail=f"{count} of {count} objects")


def note_classes(splits: dict[str, Split], statistics: dict[str, Any], findings: Findings) -> None:
    """Report classes that cannot be trained or measured: those without objects, or mostly with crowds.

    Args:
        splits: the checked splits.
        statistics: statistics of each split, see `split_statistics`.
        findings: list that takes these classes.
    """
    categories = next(iter(splits.values())).categories
    counts = {name: numbers["objects_per_class"] for name, numbers in statistics.items()}
    crowds = {
        name: Counter(dict(zip(categories.ids, split.arrays.class_counts(crowd=True).tolist(), strict=False)))
        for name, split in splits.items()
    }
    if "val" in splits and not statistics["val"]["objects"]:
        ignored = statistics["val"]["crowds"]
        detail = f"{ignored} crowds or difficult objects, which are ignored" if ignored else "none at all"
        findings.add("val_without_objects", splits["val"].source, detail=detail)
    for category_id, name in zip(categories.ids, categories.names, strict=True):
        if not any(of[name] for of in counts.values()) and not any(of[category_id] for of in crowds.values()):
            findings.add("category_unused", next(iter(splits.values())).source, detail=name)
            continue
        if "train" not in splits:
            continue
        objects, ignored = counts["train"][name], crowds["train"][category_id]
        if ignored > objects:
            detail = f"{name}: {ignored} of {objects + ignored} objects"
            findings.add("category_mostly_crowds", splits["train"].source, detail=detail)
        elif not objects and "val" in splits and counts["val"][name]:
            detail = f"{name}, {counts['val'][name]} objects in val"
            findings.add("category_not_in_train", splits["train"].source, detail=detail)
