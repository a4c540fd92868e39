"""Find out what a data set is and read it: `open_dataset` is the one way from a path to a raw data set.

Layouts that are found by themselves, `DATA` being what the user named:

    COCO   DATA/train.json, DATA/val.json and pictures beside them, in images/, or in a folder of the split's name
           DATA/annotations/instances_train2017.json with DATA/train2017/ (the original's layout)
           DATA/train/_annotations.coco.json with the pictures beside it, likewise valid/ (Roboflow)
           a single json file, or a folder with one: a validation split is made
    VOC    DATA/ImageSets/Main/*.txt, Annotations/, JPEGImages/ (also one level down, as in VOCdevkit/VOC2007)
           a folder of xml files, with the pictures beside them or in a folder next to it
    YOLO   DATA/data.yaml, or images/ and labels/ without one
    masks  DATA/images/ and DATA/masks/, also in train/ and val/, or with these in them; see `mask_folders`
    COCO panoptic
           DATA/panoptic_train.json with the PNGs in DATA/panoptic_train/, and pictures as above; or all of it in
           annotations/ (the original's layout)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from detrkit.data import find_json
from detrkit.data.coco import read_coco
from detrkit.data.find_json import picture_folders, png_folders, role_of
from detrkit.data.findings import Findings
from detrkit.data.mask_folders import find_masks, read_masks
from detrkit.data.panoptic import looks_like_panoptic, read_panoptic
from detrkit.data.raw import RawDataset, RawImage, RawSplit
from detrkit.data.voc import find_voc, read_voc
from detrkit.data.yolo import find_yolo, read_yolo
from detrkit.errors import ConfigError, DataError
from detrkit.files import write_atomic
from detrkit.structures import Categories

FORMATS = {
    "coco": "COCO json (train.json and val.json, annotations/instances_*.json, train/_annotations.coco.json)",
    "voc": "Pascal VOC (ImageSets/Main, or xml files)",
    "yolo": "YOLO (data.yaml, or images/ and labels/)",
    "masks": "masks as PNG (images/ and masks/, or a folder a picture with both)",
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
    segmentations: bool = True,
) -> RawDataset:
    """Find the format of a data set and read it; `check_dataset` makes it usable.

    Args:
        data: folder or file; may be empty where `train_json` or `val_json` says it all.
        data_format: `auto`, or a key of `FORMATS`.
        train_json: COCO file of the training pictures, instances or panoptic; relative to `data` or to the working
            directory.
        val_json: the same for validation.
        train_images: folder of the training pictures.
        val_images: folder of the validation pictures.
        panoptic_json: COCO panoptic file, whose name tells its side, or the folder of those of both sides.
        panoptic_dir: folder of their PNGs, or the folder above those of both sides.
        val_fraction: share of the pictures that a validation split gets where there is none, 0..1; 0 makes none.
        seed: of that choice, which depends only on it and on the file names.
        segmentations: keep polygons and RLE masks.

    Raises:
        DataError: nothing, or nothing unambiguous, was found; a file does not parse; train and val contradict.
        ConfigError: settings that do not go together.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val_fraction must be at least 0 and below 1, found {val_fraction}")
    if not data and not (train_json or val_json):
        raise ConfigError("expected a data set, found none; name its folder or file with --data")
    root = Path(data) if data else Path(train_json or val_json).parent
    if not root.exists():
        raise DataError(f"expected a data set at {root}, found no such file or folder; look at the path")
    if data_format not in ("auto", *FORMATS):
        raise ConfigError(f"--data_format must be auto, {', '.join(FORMATS)}, found {data_format!r}")
    given = {"train": _resolve(root, train_json), "val": _resolve(root, val_json)}
    by_hand = {role: path for role, path in given.items() if path}
    if data_format in ("voc", "yolo", "masks") and (by_hand or panoptic_json or panoptic_dir):
        flags = "--train_json and --val_json" if by_hand else "--panoptic_json and --panoptic_dir"
        raise ConfigError(f"{flags} name COCO files, but --data_format is {data_format}")
    if data_format == "coco" and (panoptic_json or panoptic_dir):
        raise ConfigError("--panoptic_json and --panoptic_dir want --data_format coco_panoptic, found coco")
    maps = _resolve(root, panoptic_json)
    if data_format == "auto" and (panoptic_json or panoptic_dir or any(map(looks_like_panoptic, by_hand.values()))):
        data_format = "coco_panoptic"
    images = {"train": _resolve(root, train_images), "val": _resolve(root, val_images)}
    try:
        dataset = _read(
            root,
            data_format,
            by_hand,
            images,
            maps,
            _resolve(root, panoptic_dir),
            segmentations=segmentations,
            complete=bool(data),
        )
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}; look at the path and its permissions"
        ) from None
    _share_categories(dataset)
    if "val" not in dataset.splits and val_fraction > 0:
        _make_val_split(dataset, val_fraction, seed)
    return dataset


def write_split(path: str | Path, dataset: RawDataset) -> None:
    """Write down which pictures a made validation split took: seed, fraction and the file names of both sides.

    Does nothing where the data set brought its own split.
    """
    if dataset.made_split is not None:
        write_atomic(path, json.dumps(dataset.made_split, indent=1) + "\n")


def _read(
    root: Path,
    data_format: str,
    by_hand: dict[str, Path],
    images: dict[str, Path | None],
    maps: Path | None,
    pngs: Path | None,
    *,
    segmentations: bool,
    complete: bool,
) -> RawDataset:
    findings = Findings()
    notes: list[str] = []
    if data_format == "auto":
        chosen = "coco" if by_hand else _choose_format(root, "auto", notes)
    else:
        chosen = data_format if by_hand or maps else _choose_format(root, data_format, notes)
    if chosen in ("coco", "coco_panoptic"):
        panoptic = chosen == "coco_panoptic"
        place = maps if maps and maps.is_dir() else root
        if maps and maps.is_file() and not by_hand:
            by_hand = {role_of(maps.stem).replace("test", "val") or "train": maps}
            place = maps.parent
        files = by_hand or find_json.sides(place, notes, panoptic=panoptic)
        if by_hand and complete:
            files = _other_side(place, by_hand, notes, panoptic=panoptic)
        splits = {}
        for role, path in sorted(files.items()):
            folders = picture_folders(root, path, images[role])
            within = images[role] or (root if root.is_dir() else root.parent)
            if panoptic:
                # pictures never lie where the PNGs do, which may have the same names
                inside = png_folders(root, path, pngs)
                pictures = [f for f in folders if f.name != path.stem and f != pngs]
                splits[role] = read_panoptic(path, pictures, within, inside, role, findings)
            else:
                splits[role] = read_coco(path, folders, within, role, findings, segmentations=segmentations)
    elif chosen == "voc":
        splits = read_voc(root, images, findings, notes)
    elif chosen == "masks":
        splits = read_masks(root, images, findings, notes)
    else:
        splits = read_yolo(root, images, findings, notes)
    return RawDataset(chosen, str(root), splits, findings, notes)


def _other_side(root: Path, by_hand: dict[str, Path], notes: list[str], *, panoptic: bool) -> dict[str, Path]:
    """The files that the user named, and the one of the other side where the data set has just one."""
    files = dict(by_hand)
    for role in {"train", "val"} - set(by_hand):
        known = {path.resolve() for path in by_hand.values()}
        listed = find_json.candidates(root, panoptic=panoptic)
        found = [c.path for c in listed if c.role == role and c.path.resolve() not in known]
        if root.is_dir() and len(found) == 1:
            files[role] = found[0]
            notes.append(f"{found[0].relative_to(root)} is used for {role}")
    return files


def _resolve(root: Path, path: str) -> Path | None:
    """A path that the user gave: as it stands, or under the data set."""
    if not path:
        return None
    folder = root if root.is_dir() else root.parent
    for candidate in (Path(path), folder / path):
        if candidate.exists():
            return candidate
    raise DataError(f"expected a file or folder at {path}, found none there nor under {folder}; look at the path")


def _choose_format(root: Path, data_format: str, notes: list[str]) -> str:
    finders: dict[str, Callable[[Path], str]] = {
        "coco": find_json.describe,
        "yolo": find_yolo,
        "voc": find_voc,
        "masks": find_masks,
        "coco_panoptic": partial(find_json.describe, panoptic=True),
    }
    if data_format != "auto":
        finders = {data_format: finders[data_format]}
    evidence = {name: found for name, finder in finders.items() if (found := finder(root))}
    if not evidence:
        raise DataError(_nothing_found(root, data_format))
    chosen, *others = evidence
    if others:
        found = " and ".join(f"{other.upper()} ({evidence[other]})" for other in others)
        notes.append(
            f"read as {chosen.upper()} ({evidence[chosen]}); there is also {found}, which --data_format chooses"
        )
    return chosen


def _nothing_found(root: Path, data_format: str) -> str:
    looked = FORMATS.get(data_format) or ", ".join(FORMATS.values())
    if root.is_file():
        return f"expected {looked}, found the file {root}; name the folder of the data set or its json or yaml file"
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    shown = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    found = shown or "an empty folder"
    flag = "--panoptic_json" if data_format == "coco_panoptic" else "--train_json"
    return f"expected {looked} in {root}, found {found}; mend --data, or name COCO files with {flag}"


def _share_categories(dataset: RawDataset) -> None:
    """Give all splits the union of their categories, in the order of their first mention.

    Raises:
        DataError: an id with two names, or a name with two ids.
    """
    splits = list(dataset.splits.values())
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
                    f"expected the same isthing in all splits, found that {names[category_id]!r} is "
                    f"{'a thing' if thing else 'stuff'} in {split.source} alone; say the same in both"
                )
    shared = Categories(tuple(names), tuple(names.values()), tuple(things[i] for i in names) if things else ())
    for split in splits:
        missing = sorted(set(names.values()) - set(split.categories.names))
        if missing:
            dataset.findings.add("categories_differ", split.source, "categories", f"without {', '.join(missing[:5])}")
        split.categories = shared


def _make_val_split(dataset: RawDataset, fraction: float, seed: int) -> None:
    """Hold out the pictures whose seeded hash of the file name is smallest: no order of listing changes the choice."""
    train = dataset.splits.get("train")
    names = sorted({image.file_name for image in train.images}) if train else []
    if train is None or len(names) < 2:
        return
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    held_out = set(ranked[: min(len(names) - 1, max(1, round(fraction * len(names))))])
    sides: dict[str, list[RawImage]] = {"train": [], "val": []}
    for image in train.images:
        sides["val" if image.file_name in held_out else "train"].append(image)
    for role, images in sides.items():
        dataset.splits[role] = RawSplit(role, images, train.categories, train.box_form, train.source)
    dataset.made_split = {
        "seed": seed,
        "val_fraction": fraction,
        **{role: _names(images) for role, images in sides.items()},
    }
    dataset.notes.append(
        f"there is no validation split; {len(held_out)} of {len(names)} pictures were held out (seed {seed})"
    )


def _names(images: Iterable[RawImage]) -> list[str]:
    return sorted({image.file_name for image in images})
