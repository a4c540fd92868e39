"""Read folders of pictures beside folders of mask PNGs, into RawSplits.

A mask file is that of a whole picture, each object with a value of its own and 0 for the background, or that of one
object, whose pixels are not 0. It belongs to the picture of its name, or to that of the folder it lies in:

    masks/NAME.png, masks/NAME_mask.png      values of the objects of images/NAME.jpg
    masks/NAME/ANY.png                       one object of it
    masks/CLASS/..., masks/NAME/CLASS/...    either, of a class
    NAME/images/ANY.png, NAME/masks/ANY.png  one folder a picture, as in the Data Science Bowl of 2018

Classes are the folders, or what masks/NAME.json says of the values ({"1": "cat"}); without both there is one class.
Boxes are those of the masks, so every mask is read once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from detrkit.data.class_names import name_files, read_names
from detrkit.data.encodings import read_json
from detrkit.data.file_index import FileIndex
from detrkit.data.findings import Findings
from detrkit.data.image_files import look_at
from detrkit.data.mask_check import size_problem
from detrkit.data.mask_files import Ids, Region, read_ids, regions_of
from detrkit.data.raw import IMAGE_SUFFIXES, RawImage, RawObject, RawSplit
from detrkit.data.records import FileMask
from detrkit.data.source import Source
from detrkit.data.splits import role_of
from detrkit.errors import DataError
from detrkit.structures import Categories

_PICTURES = ("images", "imgs", "image", "img", "jpegimages", "pngimages")
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""Formats that keep values as they are; JPEG and WebP do not."""
_TAILS = ("", "_mask", "_masks", "_instances", "_instance", "_label", "_labels", "-mask", "-masks")
_ONE_CLASS = "object"
_WHITE = 255
_EDGE_VALUES = 8
"""Values beside white from which on a mask looks smoothed."""


@dataclass
class _Picture:
    """A picture and the files of its masks."""

    path: Path
    name: str
    values: list[tuple[Path, str]] = field(default_factory=list)
    """Files with values of objects, and the class of their folder, or nothing."""
    objects: list[tuple[Path, str]] = field(default_factory=list)
    """Files of one object each, likewise."""
    labelled: bool = False


def find_masks(index: FileIndex) -> str:
    """What of images with masks is there, in words; empty if nothing."""
    return next((_describe(base, index.root) for base in _bases(index)), "")


def read_masks(source: Source) -> dict[str, RawSplit]:
    """Read a data set of these layouts.

    Args:
        source: its files; takes findings and notes.

    Raises:
        DataError: there are no images, no masks, or masks saved in a format that changes their values.
    """
    root, findings, notes = source.root, source.findings, source.notes
    bases = _bases(source.index)
    sides = _all_sides(source, bases)
    for role, given in source.image_dirs.items():
        if given is not None:
            sides[role] = _of_pair(given, _masks_beside(given), findings)
    if "test" in sides:
        test = sides.pop("test")
        if not sides.get("val"):
            sides["val"] = test
            notes.append("there is no validation split; test is used for it")
        else:
            notes.append("test is left alone: only train and val are used")
            masks = [path for picture in test for path, _ in (*picture.values, *picture.objects)]
            source.leave([*(picture.path for picture in test), *masks], "", "set_aside")
    if not any(sides.values()):
        raise DataError(f"expected pictures and masks of them in {root}, found none; mend --data")
    listed = next((path for path in name_files(source.index) if path.parent in (root, *bases)), None)
    order = list(read_names(listed).values()) if listed is not None else []
    source.use(*([listed] if listed is not None and order else []))
    for picture in (picture for pictures in sides.values() for picture in pictures):
        source.use(picture.path)
        source.use(*(path.with_suffix(".json") for path, _ in picture.values))
        source.use(*(path for path, _ in (*picture.values, *picture.objects)))
    read = {role: _read_side(pictures, findings) for role, pictures in sides.items() if pictures}
    named = sorted({o.category for side in read.values() for image in side for o in image.objects if o.category})
    names = order or named or [_ONE_CLASS]
    number = {name: index for index, name in enumerate(names)}
    if not named and len(names) > 1:
        raise DataError(
            f"expected the classes of masks as folders or in json files beside them, since {listed} has "
            f"{len(names)}, found neither"
        )
    identity = 0
    for side in read.values():
        for image in side:
            for found in image.objects:
                identity += 1
                found.id = identity
                found.category = 0 if not named and found.category == "" else number.get(found.category, found.category)
    categories = Categories(tuple(range(len(names))), tuple(names))
    if not named:
        notes.append(f"no folder or json file names a class; all objects are of the class {names[0]!r}")
    return {role: RawSplit(role, side, categories, "xywh", str(root)) for role, side in sorted(read.items())}


# --- what there is ---------------------------------------------------------------------------------------------------


def _bases(index: FileIndex) -> list[Path]:
    """The folders, however deep, that hold images and their masks in one of the layouts, or splits that do.

    None lies in another.
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
    """What of images with masks lies in a folder or its splits, in words; empty if nothing."""
    for folder in (base, *_side_folders(base)):
        pair = _pair(folder)
        if pair is not None:
            return " and ".join(f"{inner.relative_to(root).as_posix()}/" for inner in pair)
        some = next(islice(_picture_folders(folder), 1), None)
        if some is not None:
            return f"{some.relative_to(root).as_posix()}/images/ and masks/"
    return ""


def _all_sides(source: Source, bases: list[Path]) -> dict[str, list[_Picture]]:
    """Split -> the images of all these folders."""
    sides: dict[str, list[_Picture]] = {}
    for base in bases:
        for role, pictures in _sides(base, source.findings).items():
            sides.setdefault(role, []).extend(pictures)
            for picture in pictures if len(bases) > 1 else []:  # names of several folders may be the same
                picture.name = "/".join(source.index.relative(picture.path))
    return sides


def _sides(root: Path, findings: Findings) -> dict[str, list[_Picture]]:
    sides: dict[str, list[_Picture]] = {}
    pair = _pair(root)
    if pair is not None:
        pictures, masks = pair
        inner = {role_of(p.name): p for p in _folders(pictures) if role_of(p.name)}
        for role, folder in inner.items():
            if _is_folder(masks / folder.name):
                sides[role] = _of_pair(folder, masks / folder.name, findings)
        return sides or {"train": _of_pair(pictures, masks, findings)}
    for folder in _side_folders(root):
        pair = _pair(folder)
        found = _of_pair(*pair, findings) if pair else _of_folders(folder)
        if found:
            sides.setdefault(role_of(folder.name), []).extend(found)
    return sides or {"train": _of_folders(root)}


def _side_folders(root: Path) -> list[Path]:
    return [p for p in _folders(root) if role_of(p.name)]


def _folders(folder: Path) -> list[Path]:
    """The folders in it; none of one that cannot be opened, which the index of the data set tells of."""
    try:
        return sorted(p for p in folder.iterdir() if _is_folder(p))
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; `Path.is_dir` raises an error in a folder that must not be searched."""
    return os.path.isdir(path)  # noqa: PTH112


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folder of pictures and that of their masks in it, where there is one of each."""
    inner = _folders(folder)
    pictures = [p for p in inner if p.name.lower() in _PICTURES]
    masks = [p for p in inner if _names_masks(p)]
    return (pictures[0], masks[0]) if len(pictures) == 1 and len(masks) == 1 else None


def _names_masks(folder: Path) -> bool:
    return folder.name.lower().endswith(("masks", "mask", "instances"))


def _picture_folders(folder: Path) -> Iterable[Path]:
    """The folders in it that are one picture each, with images/, which holds that alone, and masks/."""
    for path in _folders(folder):
        if _is_folder(path / "images") and _is_folder(path / "masks"):
            images = (p for p in (path / "images").glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if len(list(islice(images, 2))) == 1:
                yield path


def _masks_beside(pictures: Path) -> Path:
    """The folder of masks that belongs to a folder of pictures.

    Raises:
        DataError: there is none.
    """
    for above, below in ((pictures.parent, ""), (pictures.parent.parent, pictures.name)):
        for folder in (p for p in _folders(above) if p != pictures and _names_masks(p)):
            if _is_folder(folder / below):
                return folder / below
    raise DataError(f"expected a folder masks/ beside the pictures in {pictures}, found none")


def _of_folders(folder: Path) -> list[_Picture]:
    found = []
    for path in _picture_folders(folder):
        for picture in _files(path / "images", IMAGE_SUFFIXES)[:1]:
            objects = [(mask, "") for mask in _files(path / "masks", _SUFFIXES)]
            found.append(_Picture(picture, picture.relative_to(folder).as_posix(), objects=objects, labelled=True))
    return found


def _of_pair(pictures: Path, masks: Path, findings: Findings) -> list[_Picture]:
    """The pictures of a folder, with the masks of another one."""
    found = [_Picture(path, path.relative_to(pictures).as_posix()) for path in _files(pictures, IMAGE_SUFFIXES)]
    by_name: dict[str, _Picture | None] = {}
    for picture in found:
        stem = Path(picture.name).stem
        by_name[stem] = None if stem in by_name else picture  # of two of one name, neither is meant by it
    by_name |= {Path(picture.name).with_suffix("").as_posix(): picture for picture in found}
    files = _files(masks, _SUFFIXES)
    if not files:
        other = next(iter(_files(masks, IMAGE_SUFFIXES)), None)
        raise DataError(
            f"expected masks as PNG in {masks}, found "
            + (f"{other.name}, whose format changes values a little; save them again as PNG" if other else "none")
        )
    for folder in masks.rglob("*"):  # an empty folder of a picture says that there is nothing on it
        empty = by_name.get(folder.name) if folder.is_dir() else None
        if empty is not None:
            empty.labelled = True
    for file in files:
        parents = list(file.parent.relative_to(masks).parts)
        own = next((by_name[part] for part in reversed(parents) if by_name.get(part)), None)
        if own is not None:
            named = [part for part in parents if by_name.get(part) is None]
            own.objects.append((file, "/".join(named)))
            own.labelled = True
            continue
        own, label = _by_stem(file, parents, by_name)
        if own is None:
            findings.add("mask_without_picture", file)
            continue
        own.values.append((file, label))
        own.labelled = True
    return found


def _by_stem(file: Path, parents: list[str], by_name: dict[str, _Picture | None]) -> tuple[_Picture | None, str]:
    """The picture of a file with values, and the class of its folder."""
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


# --- what the masks say ----------------------------------------------------------------------------------------------


def _read_side(pictures: list[_Picture], findings: Findings) -> list[RawImage]:
    """Records with boxes and areas; categories are names for now, or nothing."""
    kept = []
    for picture in pictures:
        if picture.labelled:
            kept.append(picture)
        else:
            findings.add("image_unlabelled", picture.path)
    with ThreadPoolExecutor(8) as pool:  # decoding lets go of Python's lock
        found = list(pool.map(_read_picture, range(1, len(kept) + 1), kept))
    images = []
    for image, problems in found:
        for add in problems:
            add(findings)
        if image is not None:
            images.append(image)
    if not images:
        raise DataError(
            f"expected masks that can be used of the {len(pictures)} pictures such as {pictures[0].path}, found none"
            + findings.reasons()
        )
    return images


_Problem = Callable[[Findings], None]


def _problem(kind: str, file: object, record: str = "", detail: str = "", dropped: int = 0) -> _Problem:
    return lambda findings: findings.add(kind, file, record, detail, dropped)


def _read_picture(number: int, picture: _Picture) -> tuple[RawImage | None, list[_Problem]]:
    """The record of a picture, or None where its masks cannot be used, and what was noticed."""
    image = RawImage(number, picture.path, picture.name, None, None, [], file=str(picture.path))
    (facts,) = look_at([picture.path])
    if facts.problem:
        return image, []  # the check says why
    width, height = facts.upright
    image.width, image.height = width, height
    problems: list[_Problem] = []
    for path, label, single in [(*f, False) for f in picture.values] + [(*f, True) for f in picture.objects]:
        try:
            ids = read_ids(path)
            classes = {} if single else _classes(path)
        except DataError as error:
            return None, [_problem("mask_file_unreadable", path, detail=f"{str(error)[:160]}; image {picture.name}")]
        kind = size_problem((ids.shape[1], ids.shape[0]), (width, height))
        if kind:
            detail = f"{ids.shape[1]} x {ids.shape[0]}, {picture.name} has {width} x {height}"
            if kind == "mask_shape_differs":
                return None, [_problem(kind, path, detail=detail)]
            problems.append(_problem(kind, path, detail=detail))
        regions = _regions(ids, single)
        if single and not regions:
            problems.append(_problem("segment_without_pixels", path))
        if not single and _looks_smoothed(regions):
            problems.append(_problem("mask_smoothed", path, detail=f"{len(regions)} values, most pixels have {_WHITE}"))
        parts = _separate_parts(ids) if not single and len(regions) == 1 else 1
        if parts > 1:
            problems.append(_problem("mask_in_parts", path, detail=f"{parts} separate regions"))
        for value, region in regions.items():
            category = classes.get(value) if classes else label
            where = "" if single else f"value {value}"
            shape = (width / ids.shape[1], height / ids.shape[0])
            image.objects.append(_object(path, value, region, category, where, shape))
    return image, problems


def _looks_smoothed(regions: dict[int, Region]) -> bool:
    """Whether values are those between black and white that resizing leaves, rather than numbers of objects."""
    pixels = sum(region.area for region in regions.values())
    white = regions[_WHITE].area if _WHITE in regions else 0
    return 2 * white > pixels and _EDGE_VALUES <= len(regions) - 1 < _WHITE - 1


def _separate_parts(ids: Ids) -> int:
    """How many regions of a mask do not touch, corners included."""
    count, _ = cv2.connectedComponents((ids != 0).astype(np.uint8), connectivity=8)
    return int(count) - 1


def _regions(ids: Ids, single: bool) -> dict[int, Region]:
    regions = regions_of(ids != 0 if single else ids)
    return {0: regions[1]} if single and 1 in regions else {} if single else {v: r for v, r in regions.items() if v}


def _object(
    path: Path, value: int, region: Region, category: str | None, where: str, scale: tuple[float, float]
) -> RawObject:
    x1, y1, x2, y2 = region.box
    box = [x1 * scale[0], y1 * scale[1], (x2 - x1) * scale[0], (y2 - y1) * scale[1]]
    place = f"{path.name}, {where}" if where else path.name
    return RawObject(None, category, box, region.area * scale[0] * scale[1], False, FileMask(path, value), place)


def _classes(path: Path) -> dict[int, str]:
    """Value -> class, as the json file beside a mask says; empty where there is none.

    Raises:
        DataError: it is something else.
    """
    file = path.with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
        return {int(value): str(name) for value, name in content.items() if not isinstance(name, dict | list)}
    except (DataError, ValueError, AttributeError) as error:
        raise DataError(f'expected {{"1": "CLASS", ...}} in {file}, found something else: {error}') from None
