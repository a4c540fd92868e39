"""Find out what a data set is and read it: `open_dataset` is the one way from a path to a raw data set.

Layouts that are found by themselves, `DATA` being what the user named:

    COCO   DATA/train.json, DATA/val.json and images beside them, in images/, or in a folder of the split's name
           DATA/annotations/instances_train2017.json with DATA/train2017/ (the original's layout)
           DATA/train/_annotations.coco.json with the images beside it, likewise valid/ (Roboflow)
           a single json file, or a folder with one: a validation split is made
    VOC    DATA/ImageSets/Main/*.txt, Annotations/, JPEGImages/ (also one level down, as in VOCdevkit/VOC2007)
           a folder of xml files, with the images beside them or in a folder next to it
    YOLO   DATA/data.yaml, or images/ and labels/ without one
    labelme
           a json file beside each image, or json files in a folder apart
    VIA    via_region_data.json or .csv, or a project of versions 1 and 2
    masks  DATA/images/ and DATA/masks/, also in train/ and val/, or with these in them; see `mask_folders`
    COCO panoptic
           DATA/panoptic_train.json with the PNGs in DATA/panoptic_train/, and images as above; or all of it in
           annotations/ (the original's layout)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.image_finder import ImageFinder
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import role_of
from detrkit.data.files.unused import list_unused, unreadable_files
from detrkit.data.formats import coco_layout
from detrkit.data.formats.coco import read_coco
from detrkit.data.formats.coco_panoptic import read_panoptic
from detrkit.data.formats.combine import merge_splits, share_categories, split_by_image
from detrkit.data.formats.foreign import name_foreign
from detrkit.data.formats.labelme import find_labelme, read_labelme
from detrkit.data.formats.mask_png import find_masks, read_masks
from detrkit.data.formats.raw import RawDataset, RawSplit
from detrkit.data.formats.via import find_via, read_via
from detrkit.data.formats.voc import find_voc, read_voc
from detrkit.data.formats.yolo import explain_yolo, find_yolo, read_yolo
from detrkit.errors import ConfigError, DataError

FORMATS = {
    "coco": "COCO json (train.json and val.json, annotations/instances_*.json, train/_annotations.coco.json)",
    "voc": "Pascal VOC (ImageSets/Main, or xml files)",
    "yolo": "YOLO (data.yaml, or images/ and labels/)",
    "labelme": "labelme (a json file for each image)",
    "via": "VIA (via_region_data.json or .csv)",
    "masks": "masks as PNG (images/ and masks/, or a folder per image with both)",
    "coco_panoptic": "COCO panoptic json with PNGs (panoptic_train.json and panoptic_train/, also in annotations/)",
}
"""Format -> what of it is looked for."""


def open_dataset(
    data: str | Path,
    *,
    data_format: str = "auto",
    train_json: str = "",
    val_json: str = "",
    train_images: str = "",
    val_images: str = "",
    panoptic_json: str = "",
    panoptic_dir: str = "",
    val_fraction: float = 0.2,
    seed: int = 42,
    held_out: Collection[str] = (),
    box_format: str = "auto",
    segmentations: bool = True,
    strict: bool = False,
) -> RawDataset:
    """Find the format of a data set and read it; `check_dataset` makes it usable.

    Args:
        data: folder or file; may be empty where `train_json` or `val_json` says it all.
        data_format: `auto`, or a key of `FORMATS`.
        train_json: COCO file of the training images, instances or panoptic; relative to `data` or to the working
            directory.
        val_json: the same for validation.
        train_images: folder of the training images.
        val_images: folder of the validation images.
        panoptic_json: COCO panoptic file, whose name tells its split, or the folder of those of both splits.
        panoptic_dir: folder of their PNGs, or the folder above those of both splits.
        val_fraction: share of the images that the check holds out for validation where there is no such split, 0..1;
            0 makes none.
        seed: of that choice, which depends only on it and on the file names.
        held_out: file names of the images to take instead: those that a run held out.
        box_format: how boxes are written, where it is not as the format has it: `auto`, or a key of
            `box_formats.FORMATS`.
        segmentations: keep polygons and RLE masks.
        strict: let `check_dataset` refuse what leaves anything out.

    Raises:
        DataError: nothing, or nothing unambiguous, was found; a file does not parse; train and val contradict.
        ConfigError: settings that do not go together.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val_fraction must be at least 0 and below 1, found {val_fraction}")
    if not data and not (train_json or val_json):
        raise ConfigError("expected a data set, found none; name its folder or file with --data")
    if data_format not in ("auto", *FORMATS):
        raise ConfigError(f"--data_format must be auto, {', '.join(FORMATS)}, found {data_format!r}")
    root = Path(data) if data else Path(train_json or val_json).parent
    try:
        _must_exist(root)
        by_hand = {r: path for r, text in (("train", train_json), ("val", val_json)) if (path := _resolve(root, text))}
        given = _Given(
            by_hand,
            {"train": _resolve(root, train_images), "val": _resolve(root, val_images)},
            _resolve(root, panoptic_json),
            _resolve(root, panoptic_dir),
            segmentations,
            alone=not data,
        )
        dataset = _read(root, _format_of(data_format, given), given)
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror or error}; look at the path and its permissions"
        ) from None
    dataset.strict = strict
    dataset.val_fraction, dataset.seed, dataset.held_out, dataset.box_format = val_fraction, seed, held_out, box_format
    return dataset


def _must_exist(root: Path) -> None:
    """Raise an error where there is no such data set, or it cannot be read."""
    if not root.exists():
        raise DataError(f"expected a data set at {root}, found no such file or folder; look at the path")
    _open(root)


def _open(path: Path) -> None:
    """Raise the OSError of a file or folder that the user named and that cannot be read."""
    if path.is_dir():
        next(path.iterdir(), None)
    else:
        path.open("rb").close()


def _format_of(data_format: str, given: _Given) -> str:
    """The format to read, by the flag and by what other flags name.

    Raises:
        ConfigError: they contradict each other.
    """
    by_hand, panoptic = given.files, given.panoptic_json or given.panoptic_dir
    if data_format not in ("auto", "coco", "coco_panoptic") and (by_hand or panoptic):
        flags = "--train_json and --val_json" if by_hand else "--panoptic_json and --panoptic_dir"
        raise ConfigError(f"{flags} name COCO files, but --data_format is {data_format}")
    if data_format == "coco" and panoptic:
        raise ConfigError("--panoptic_json and --panoptic_dir want --data_format coco_panoptic, found coco")
    if data_format == "auto" and (panoptic or any(map(coco_layout.holds_segments, by_hand.values()))):
        return "coco_panoptic"
    return data_format


@dataclass(frozen=True)
class _Given:
    """What the user named beside the folder."""

    files: dict[str, Path]
    """Split -> COCO file."""
    image_dirs: dict[str, Path | None]
    """Split -> folder of images."""
    panoptic_json: Path | None
    panoptic_dir: Path | None
    segmentations: bool
    alone: bool
    """Whether no folder was named, so that the files are all of the data set."""


def _read(root: Path, data_format: str, given: _Given) -> RawDataset:
    """Read the format that was asked for, or the first of those that are there which can be read."""
    index = FileIndex(root if root.is_dir() else root.parent)
    finder = ImageFinder(index)
    if data_format == "auto" and not given.files:
        evidence = _evidence(root, index, FORMATS)
        if not evidence:
            named = name_foreign(index, None if root.is_dir() else root)
            told = named or explain_yolo(index) or _folder_of_file(root, index) or _nothing_found(root, "auto")
            raise DataError(told + _unread(index))
    else:
        chosen = "coco" if data_format == "auto" else data_format
        evidence = {chosen: chosen} if given.files or given.panoptic_json else _evidence(root, index, (chosen,))
        if not evidence:
            unmet = explain_yolo(index) if data_format == "yolo" else ""
            raise DataError((unmet or _nothing_found(root, data_format)) + _unread(index))
    failures: dict[str, DataError] = {}
    for chosen in evidence:
        source = Source(index, finder, given.image_dirs)
        try:
            splits = _READERS[chosen](source, root, given)
        except DataError as error:
            failures[chosen] = error
            continue
        others = [f"{name.upper()} ({evidence[name]})" for name in evidence if name != chosen and name not in failures]
        source.notes += [f"not read as {name.upper()}: {failure}" for name, failure in failures.items()]
        if others:
            source.notes.insert(
                0,
                f"read as {chosen.upper()} ({evidence[chosen]}); there is also {' and '.join(others)}, which "
                "--data_format chooses",
            )
        if chosen in ("coco", "coco_panoptic"):
            coco_layout.leave_other_tasks(source, panoptic=chosen == "coco_panoptic")
        share_categories(list(splits.values()), source.findings)
        if root.is_dir() and not given.alone:
            list_unused(source, splits.values(), f"no part of what was read as {chosen.upper()}")
        return RawDataset(chosen, str(root), splits, source.findings, source.notes)
    raise DataError(f"{next(iter(failures.values()))}{_unread(index)}")


def _read_coco(source: Source, root: Path, given: _Given, *, panoptic: bool = False) -> dict[str, RawSplit]:
    """Read the COCO files that were named or found; several of one split become one."""
    maps = given.panoptic_json
    if given.files or (maps is not None and maps.is_file()):
        named = given.files or {role_of(str(maps and maps.stem)).replace("test", "val") or "train": maps or root}
        files = {role: [path] for role, path in named.items()}
        if not given.alone:
            _add_other_split(files, source, panoptic=panoptic)
    elif root.is_file():
        files = {(role_of(root.stem).replace("test", "val") or "train") if panoptic else "train": [root]}
    else:
        files = coco_layout.split_files(source, FileIndex(maps) if maps else source.index, panoptic=panoptic)
    splits = {}
    for role, paths in sorted(files.items()):
        parts = [_read_coco_file(path, role, source, given, panoptic=panoptic) for path in paths]
        splits[role] = merge_splits(role, parts, source)
    paths = [path for some in files.values() for path in some]
    told = bool(given.files) or any(coco_layout.role_of_file(source.index, path) for path in paths)
    told = told or any(folder is not None for folder in given.image_dirs.values())
    return splits if told or len(splits) > 1 else split_by_image(splits["train"], source)


def _read_coco_file(path: Path, role: str, source: Source, given: _Given, *, panoptic: bool) -> RawSplit:
    """Read one file; images that lie outside of the data set are noted."""
    within = given.image_dirs[role]
    root, index = source.root, source.index
    folders = coco_layout.image_folders(root, path, within)
    inside = coco_layout.png_folders(root, path, given.panoptic_dir) if panoptic else []
    images = (image for image in index.images if not any(image.is_relative_to(folder) for folder in inside))
    outside = [] if within else coco_layout.folders_outside(root, path, images)
    told = coco_layout.role_of_file(index, path)
    if not panoptic:
        split = read_coco(
            path,
            folders,
            source.finder,
            role,
            source.findings,
            outside=outside,
            within=within,
            role=told,
            segmentations=given.segmentations,
        )
    else:
        # images never lie where the PNGs do, which may have the same names
        folders, outside = (
            [folder for folder in some if folder.name != path.stem and folder != given.panoptic_dir]
            for some in (folders, outside)
        )
        split = read_panoptic(
            path, folders, source.finder, inside, role, source.findings, outside=outside, within=within, role=told
        )
    if outside and (far := [image.path for image in split.images if not image.path.is_relative_to(root)]):
        source.notes.append(
            f"{len(far)} images of {path.name} lie outside of {root}, as {far[0]}; --train_images or --val_images "
            "names another folder"
        )
    return split


def _add_other_split(files: dict[str, list[Path]], source: Source, *, panoptic: bool) -> None:
    """To the files that the user named, add that of the other split where the data set has just one."""
    known = {path.resolve() for paths in files.values() for path in paths}
    for role in {"train", "val"} - set(files):
        listed = coco_layout.candidates(source.index, panoptic=panoptic)
        found = [c.path for c in listed if c.role == role and c.path.resolve() not in known]
        if len(found) == 1:
            files[role] = found
            source.notes.append(f"{found[0].relative_to(source.root)} is used for {role}")


_READERS: dict[str, Callable[[Source, Path, _Given], dict[str, RawSplit]]] = {
    "coco": _read_coco,
    "yolo": lambda source, root, given: read_yolo(source, root if root.is_file() else None),
    "voc": lambda source, root, given: read_voc(source),
    "labelme": lambda source, root, given: read_labelme(source),
    "via": lambda source, root, given: read_via(source),
    "masks": lambda source, root, given: read_masks(source),
    "coco_panoptic": partial(_read_coco, panoptic=True),
}

_FINDERS: dict[str, Callable[[FileIndex], str]] = {
    "coco": coco_layout.describe,
    "yolo": find_yolo,
    "voc": find_voc,
    "labelme": find_labelme,
    "via": find_via,
    "masks": find_masks,
    "coco_panoptic": partial(coco_layout.describe, panoptic=True),
}


def holds_panoptic(root: Path) -> bool:
    """Whether a folder or file holds COCO panoptic annotations."""
    return bool(_evidence(root, FileIndex(root if root.is_dir() else root.parent), ("coco_panoptic",)))


def _evidence(root: Path, index: FileIndex, formats: Iterable[str]) -> dict[str, str]:
    """Format -> what of it is there, in the order in which they are preferred."""
    if root.is_file():
        kind = coco_layout.json_kind(root) if root.suffix.lower() == ".json" else ""
        of_file = {"coco_panoptic": root.name} if kind == "panoptic" else {"coco": root.name} if kind else {}
        if root.suffix.lower() in (".yaml", ".yml", ".data"):
            of_file = {"yolo": root.name}
        return {name: found for name, found in of_file.items() if name in formats}
    return {name: found for name in formats if (found := _FINDERS[name](index))}


_FILES = {
    "voc": (".xml", ".txt"),
    "yolo": (".txt", ".names", ".labels"),
    "labelme": (".json",),
    "via": (".json", ".csv"),
}
"""Format -> endings of files, one of which may be named where the folder is meant."""


def _folder_of_file(root: Path, index: FileIndex) -> str:
    """The sentence for a file of a data set whose folder is to be named instead; empty for any other."""
    if not root.is_file():
        return ""
    evidence = _evidence(
        root.parent, index, (name for name, endings in _FILES.items() if root.name.lower().endswith(endings))
    )
    if not evidence:
        return ""
    return (
        f"expected the folder of a data set, or a COCO json or data.yaml, found the file {root}; name its folder "
        f"{root.parent}, which holds {' and '.join(f'{name.upper()} ({what})' for name, what in evidence.items())}"
    )


def _resolve(root: Path, path: str) -> Path | None:
    """A path that the user gave: as it stands, or under the data set."""
    if not path:
        return None
    folder = root if root.is_dir() else root.parent
    for candidate in (Path(path), folder / path):
        if candidate.exists():
            _open(candidate)
            return candidate
    raise DataError(f"expected a file or folder at {path}, found none there nor under {folder}; look at the path")


def _unread(index: FileIndex) -> str:
    """What cannot be read, after a sentence that says what is missing."""
    unread = unreadable_files(index)
    first = next(iter(unread), "")
    more = f", nor {len(unread) - 1} more" if len(unread) > 1 else ""
    return f"; cannot read {first}: {unread[first]}{more}" if first else ""


def _nothing_found(root: Path, data_format: str) -> str:
    looked = FORMATS.get(data_format) or ", ".join(FORMATS.values())
    if root.is_file():
        return f"expected {looked}, found the file {root}; name the folder of the data set or its json or yaml file"
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    shown = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    found = shown or "an empty folder"
    flag = "--panoptic_json" if data_format == "coco_panoptic" else "--train_json"
    return f"expected {looked} in {root}, found {found}; fix --data, or name COCO files with {flag}"
