"""Masks as PNG: folders of images beside folders of mask files.

A mask file holds all objects of an image, each with a value of its own and 0 for the background, or a single object,
whose pixels are not 0. It belongs to the image of its own name, or of the name of its folder:

    masks/NAME.png, masks/NAME_mask.png      all objects of images/NAME.jpg
    masks/NAME/ANY.png                       one object of images/NAME.jpg
    masks/CLASS/..., masks/NAME/CLASS/...    the same, of a class
    NAME/images/ANY.png, NAME/masks/ANY.png  one folder per image, as in the Data Science Bowl 2018

Classes are the folder names, or the entries of masks/NAME.json ({"1": "cat"}); without both there is one class. Boxes
are computed from the masks, so every mask is read once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from detrkit.data.files.class_names import name_files, read_names
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.mask_values import MaskedImage, read_split
from detrkit.data.formats.raw import IMAGE_SUFFIXES, RawSplit
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.structures import Categories

_IMAGES = ("images", "imgs", "image", "img", "jpegimages", "pngimages")
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""Lossless formats; JPEG and WebP change values."""
_TAILS = ("", "_mask", "_masks", "_instances", "_instance", "_label", "_labels", "-mask", "-masks")
_ONE_CLASS = "object"


def detect_masks(source: Source) -> str:
    """Name the folders of images and masks that are there, for messages; empty if there are none."""
    return next((_describe(base, source.root) for base in _bases(source.index)), "")


def load_masks(source: Source) -> dict[str, RawSplit]:
    """Load a data set of these layouts.

    Args:
        source: files of the data set; takes findings and notes.

    Raises:
        DataError: there are no images, no masks, or masks saved in a format that changes their values.
    """
    root, findings, notes = source.root, source.findings, source.notes
    bases = _bases(source.index)
    by_split = _items_by_split(source, bases)
    for split_name, given in source.image_dirs.items():
        if given is not None:
            by_split[split_name] = _of_pair(given, _masks_beside(given), findings)
    if "test" in by_split:
        test = by_split.pop("test")
        if not by_split.get("val"):
            by_split["val"] = test
            notes.append("there is no validation split; test is used for it")
        else:
            notes.append("test is left alone: only train and val are used")
            masks = [path for item in test for path, _ in (*item.values, *item.objects)]
            source.leave_out([*(item.path for item in test), *masks], "", "set_aside")
    if not any(by_split.values()):
        raise DataError(f"expected images and masks of them in {root}, found none; fix --data")
    listed = next((path for path in name_files(source.index) if path.parent in (root, *bases)), None)
    order = list(read_names(listed).values()) if listed is not None else []
    source.use(*([listed] if listed is not None and order else []))
    for item in (item for items in by_split.values() for item in items):
        source.use(item.path)
        source.use(*(path.with_suffix(".json") for path, _ in item.values))
        source.use(*(path for path, _ in (*item.values, *item.objects)))
    read = {split_name: read_split(items, findings) for split_name, items in by_split.items() if items}
    named = sorted(
        {o.category for split_images in read.values() for image in split_images for o in image.objects if o.category}
    )
    names = order or named or [_ONE_CLASS]
    number = {name: index for index, name in enumerate(names)}
    if not named and len(names) > 1:
        raise DataError(
            f"expected the classes of masks as folders or in json files beside them, since {listed} has "
            f"{len(names)}, found neither"
        )
    object_id = 0
    for split_images in read.values():
        for image in split_images:
            for raw in image.objects:
                object_id += 1
                raw.id = object_id
                raw.category = 0 if not named and raw.category == "" else number.get(raw.category, raw.category)
    categories = Categories(tuple(range(len(names))), tuple(names))
    if not named:
        notes.append(f"no folder or json file names a class; all objects are of the class {names[0]!r}")
    return {
        split_name: RawSplit(
            split_name, split_images, categories, "xywh", str(root), masks_in_files=True, boxes_from_masks=True
        )
        for split_name, split_images in sorted(read.items())
    }


# --- what there is ---------------------------------------------------------------------------------------------------


def _bases(index: FileIndex) -> list[Path]:
    """Find the folders, at any depth, that hold images and masks in one of the layouts, or splits of these.

    No such folder lies in another one of the list.
    """
    above: set[Path] = set()
    for path in map(Path, index.folders):
        if path != index.root and _names_masks(path):
            # masks/ lies in the base itself, or in a folder of a split, of an image, or of an image in one of a split
            above.update(p for p in list(path.parents)[:3] if p == index.root or p.is_relative_to(index.root))
    bases: list[Path] = []
    for folder in sorted(above, key=lambda p: (len(p.parts), p)):
        if not any(parent in bases for parent in folder.parents) and _describe(folder, index.root):
            bases.append(folder)
    return bases


def _describe(base: Path, root: Path) -> str:
    """Name the images and masks of a folder or its splits, for messages; empty if there are none."""
    for folder in (base, *_split_folders(base)):
        pair = _pair(folder)
        if pair is not None:
            return " and ".join(f"{inner.relative_to(root).as_posix()}/" for inner in pair)
        some = next(islice(_image_folders(folder), 1), None)
        if some is not None:
            return f"{some.relative_to(root).as_posix()}/images/ and masks/"
    return ""


def _items_by_split(source: Source, bases: list[Path]) -> dict[str, list[MaskedImage]]:
    """Return split -> the images of all these folders."""
    by_split: dict[str, list[MaskedImage]] = {}
    for base in bases:
        for split_name, items in _items_of_base(base, source.findings).items():
            by_split.setdefault(split_name, []).extend(items)
            for item in items if len(bases) > 1 else []:  # different folders may hold the same names
                item.name = "/".join(source.index.relative(item.path))
    return by_split


def _items_of_base(root: Path, findings: Findings) -> dict[str, list[MaskedImage]]:
    by_split: dict[str, list[MaskedImage]] = {}
    pair = _pair(root)
    if pair is not None:
        items, masks = pair
        inner = {split_of_name(p.name): p for p in _folders(items) if split_of_name(p.name)}
        for split_name, folder in inner.items():
            if _is_folder(masks / folder.name):
                by_split[split_name] = _of_pair(folder, masks / folder.name, findings)
        return by_split or {"train": _of_pair(items, masks, findings)}
    for folder in _split_folders(root):
        pair = _pair(folder)
        of_split = _of_pair(*pair, findings) if pair else _of_folders(folder)
        if of_split:
            by_split.setdefault(split_of_name(folder.name), []).extend(of_split)
    return by_split or {"train": _of_folders(root)}


def _split_folders(root: Path) -> list[Path]:
    return [p for p in _folders(root) if split_of_name(p.name)]


def _folders(folder: Path) -> list[Path]:
    """Subfolders of a folder; none if it cannot be opened, which the file index reports."""
    try:
        return sorted(p for p in folder.iterdir() if _is_folder(p))
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; unlike `Path.is_dir`, False inside a folder without permission."""
    return os.path.isdir(path)  # noqa: PTH112


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The image folder and the mask folder inside a folder, if there is exactly one of each."""
    inner = _folders(folder)
    items = [p for p in inner if p.name.lower() in _IMAGES]
    masks = [p for p in inner if _names_masks(p)]
    return (items[0], masks[0]) if len(items) == 1 and len(masks) == 1 else None


def _names_masks(folder: Path) -> bool:
    return folder.name.lower().endswith(("masks", "mask", "instances"))


def _image_folders(folder: Path) -> Iterable[Path]:
    """Subfolders that hold one image each: images/ with a single file, and masks/."""
    for path in _folders(folder):
        if _is_folder(path / "images") and _is_folder(path / "masks"):
            images = (p for p in (path / "images").glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if len(list(islice(images, 2))) == 1:
                yield path


def _masks_beside(items: Path) -> Path:
    """Find the mask folder of an image folder.

    Raises:
        DataError: there is none.
    """
    for above, below in ((items.parent, ""), (items.parent.parent, items.name)):
        for folder in (p for p in _folders(above) if p != items and _names_masks(p)):
            if _is_folder(folder / below):
                return folder / below
    raise DataError(f"expected a folder masks/ beside the images in {items}, found none")


def _of_folders(folder: Path) -> list[MaskedImage]:
    masked = []
    for path in _image_folders(folder):
        for item in _files(path / "images", IMAGE_SUFFIXES)[:1]:
            objects = [(mask, "") for mask in _files(path / "masks", _SUFFIXES)]
            masked.append(MaskedImage(item, item.relative_to(folder).as_posix(), objects=objects, labeled=True))
    return masked


def _of_pair(items: Path, masks: Path, findings: Findings) -> list[MaskedImage]:
    """Pair the images of one folder with the mask files of another."""
    masked = [MaskedImage(path, path.relative_to(items).as_posix()) for path in _files(items, IMAGE_SUFFIXES)]
    by_name: dict[str, MaskedImage | None] = {}
    for item in masked:
        stem = Path(item.name).stem
        by_name[stem] = None if stem in by_name else item  # a name of two images stands for neither
    by_name |= {Path(item.name).with_suffix("").as_posix(): item for item in masked}
    files = _files(masks, _SUFFIXES)
    if not files:
        other = next(iter(_files(masks, IMAGE_SUFFIXES)), None)
        raise DataError(
            f"expected masks as PNG in {masks}, found "
            + (f"{other.name}, whose format changes values a little; save them again as PNG" if other else "none")
        )
    for folder in masks.rglob("*"):  # an empty folder means that the image has no objects
        empty = by_name.get(folder.name) if folder.is_dir() else None
        if empty is not None:
            empty.labeled = True
    for file in files:
        parents = list(file.parent.relative_to(masks).parts)
        own = next((by_name[part] for part in reversed(parents) if by_name.get(part)), None)
        if own is not None:
            named = [part for part in parents if by_name.get(part) is None]
            own.objects.append((file, "/".join(named)))
            own.labeled = True
            continue
        own, label = _by_stem(file, parents, by_name)
        if own is None:
            findings.add("mask_without_image", file)
            continue
        own.values.append((file, label))
        own.labeled = True
    return masked


def _by_stem(file: Path, parents: list[str], by_name: dict[str, MaskedImage | None]) -> tuple[MaskedImage | None, str]:
    """The image of a mask file with several objects, and the class, which is the name of its folder."""
    for tail in _TAILS:
        stem = file.stem.removesuffix(tail)
        whole = by_name.get("/".join([*parents, stem]))
        if whole is not None:
            return whole, ""
        short = by_name.get(stem)
        if short is not None:
            return short, "/".join(parents)
    return None, ""


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes and not p.name.startswith(".")]
