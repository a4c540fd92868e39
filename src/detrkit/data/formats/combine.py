"""Combine several annotation files into one data set: shared classes, unique ids, no image twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.ops.text import first_names
from detrkit.structures import Categories


def merge_splits(split_name: str, parts: list[RawSplit], source: Source) -> RawSplit:
    """Merge several files with different images, such as those of several sites, into one split.

    Raises:
        DataError: two files list the same image, so that only one of them can be right; categories contradict.
    """
    if len(parts) == 1:
        return parts[0]
    first_of = {image.path: parts[0] for image in parts[0].images}
    for part in parts[1:]:
        shared = next((image.path for image in part.images if first_of.setdefault(image.path, part) is not part), None)
        if shared is not None:
            listed = ", ".join("/".join(source.index.relative(_path(p))) for p in parts)
            raise DataError(
                f"expected one json file of the {split_name} images in {source.root}, found {len(parts)}: {listed}, "
                f"which share {shared.name}; choose with --train_json and --val_json"
            )
    share_categories(parts, source.findings)
    images = [image for part in parts for image in part.images]
    if len({image.id for image in images}) < len(images):
        for number, image in enumerate(images, start=1):
            image.id = number
    objects = [raw for image in images for raw in image.objects]
    if len({repr(raw.id) for raw in objects}) < len(objects):
        for number, raw in enumerate(objects, start=1):
            raw.id = number
    names = ", ".join("/".join(source.index.relative(_path(part))) for part in parts)
    source.notes.append(f"{len(parts)} files make up {split_name}: {names}")
    source.use(*(_path(part) for part in parts))
    return replace(parts[0], name=split_name, images=images, source=str(source.root))


def split_by_image(split: RawSplit, source: Source) -> dict[str, RawSplit]:
    """Divide the images of one file into splits by their field `split`, or by the folders in their names.

    Args:
        split: all images, as `train`.
        source: takes notes, and the reasons why images are left out.
    """
    by_split: dict[str, list[RawImage]] = {}
    for image in split.images:
        by_split.setdefault(image.split_name or split_of_parts(image.file_name.split("/")[:-1]), []).append(image)
    if "train" not in by_split or not by_split.keys() & {"val", "test"}:
        return {"train": split}
    kept = source.fold_splits(by_split, lambda image: [image.path])
    counts = ", ".join(f"{len(images)} of {split_name}" for split_name, images in by_split.items() if split_name)
    source.notes.append(f"images of one file are divided by `split` or by their folders: {counts}")
    return {split_name: replace(split, name=split_name, images=images) for split_name, images in kept.items()}


def share_categories(splits: list[RawSplit], findings: Findings) -> None:
    """Give all splits the union of their categories, in the order of first occurrence.

    Raises:
        DataError: an id has two names, or a name two ids.
    """
    if len({split.categories for split in splits}) < 2:
        return
    names: dict[int, str] = {}
    for split in splits:
        for category_id, name in zip(split.categories.ids, split.categories.names, strict=True):
            other = next((i for i, n in names.items() if n == name and i != category_id), None)
            if names.setdefault(category_id, name) != name or other is not None:
                known = f"id {category_id} is {names[category_id]!r}" if other is None else f"{name!r} has id {other}"
                raise DataError(
                    f"expected the same categories in all splits, found that {known} in {splits[0].source}, but id "
                    f"{category_id} is {name!r} in {split.source}; number the classes alike in both"
                )
    things = {i: t for split in splits for i, t in zip(split.categories.ids, split.categories.isthing, strict=False)}
    for split in splits:
        for category_id, thing in zip(split.categories.ids, split.categories.isthing, strict=False):
            if things[category_id] != thing:
                raise DataError(
                    f"expected the same value of isthing in all splits, found that {names[category_id]!r} is "
                    f"{'a thing' if thing else 'stuff'} in {split.source} alone; say the same in both"
                )
    shared = Categories(tuple(names), tuple(names.values()), tuple(things[i] for i in names) if things else ())
    for split in splits:
        missing = sorted(set(names.values()) - set(split.categories.names))
        if missing:
            findings.add("categories_differ", split.source, "categories", f"without {first_names(missing)}")
        split.categories = shared


def _path(part: RawSplit) -> Path:
    return Path(part.source)
