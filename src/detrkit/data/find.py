"""Find out what a data set is and read it: `open_dataset` is the one way from a path to a raw data set.

Layouts that are found by themselves, `DATA` being what the user named:

    COCO   DATA/train.json, DATA/val.json and pictures beside them, in images/, or in a folder of the split's name
           DATA/annotations/instances_train2017.json with DATA/train2017/ (the original's layout)
           DATA/train/_annotations.coco.json with the pictures beside it, likewise valid/ (Roboflow)
           a single json file, or a folder with one: a validation split is made
    VOC    DATA/ImageSets/Main/*.txt, Annotations/, JPEGImages/ (also one level down, as in VOCdevkit/VOC2007)
           a folder of xml files, with the pictures beside them or in a folder next to it
    YOLO   DATA/data.yaml, or images/ and labels/ without one
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.coco import looks_like_coco, read_coco
from detrkit.data.findings import Findings
from detrkit.data.raw import RawDataset, RawImage, RawSplit
from detrkit.data.voc import find_voc, read_voc
from detrkit.data.yolo import find_yolo, read_yolo
from detrkit.errors import ConfigError, DataError
from detrkit.files import write_atomic
from detrkit.structures import Categories

_ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_ROLES["test"] = "test"
_OTHER_JSON = ("panoptic", "captions", "person_keypoints", "stuff_", "image_info")


def open_dataset(
    data: str | Path,
    *,
    data_format: str = "auto",
    train_json: str = "",
    val_json: str = "",
    train_images: str = "",
    val_images: str = "",
    val_fraction: float = 0.2,
    seed: int = 42,
    segmentations: bool = True,
) -> RawDataset:
    """Find the format of a data set and read it; `check_dataset` makes it usable.

    Args:
        data: folder or file; may be empty where `train_json` or `val_json` says it all.
        data_format: `auto`, `coco`, `voc` or `yolo`.
        train_json: COCO file of the training pictures; relative to `data` or to the working directory.
        val_json: the same for validation.
        train_images: folder of the training pictures.
        val_images: folder of the validation pictures.
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
    if data_format not in ("auto", "coco", "voc", "yolo"):
        raise ConfigError(f"--data_format must be auto, coco, voc or yolo, found {data_format!r}")
    if (train_json or val_json) and data_format in ("voc", "yolo"):
        raise ConfigError(f"--train_json and --val_json name COCO files, but --data_format is {data_format}")
    given = {"train": _resolve(root, train_json), "val": _resolve(root, val_json)}
    images = {"train": _resolve(root, train_images), "val": _resolve(root, val_images)}
    try:
        dataset = _read(root, data_format, given, images, segmentations=segmentations, complete=bool(data))
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
    given: dict[str, Path | None],
    images: dict[str, Path | None],
    *,
    segmentations: bool,
    complete: bool,
) -> RawDataset:
    findings = Findings()
    notes: list[str] = []
    by_hand = {role: path for role, path in given.items() if path}
    chosen = "coco" if by_hand else _choose_format(root, data_format, notes)
    if chosen == "coco":
        files = by_hand or _coco_files(root, notes)
        if by_hand and complete:
            files = _other_side(root, by_hand, notes)
        splits = {}
        for role, path in sorted(files.items()):
            folders = _picture_folders(root, path, images[role])
            within = images[role] or (root if root.is_dir() else root.parent)
            splits[role] = read_coco(path, folders, within, role, findings, segmentations=segmentations)
    elif chosen == "voc":
        splits = read_voc(root, images, findings, notes)
    else:
        splits = read_yolo(root, images, findings, notes)
    return RawDataset(chosen, str(root), splits, findings, notes)


def _other_side(root: Path, by_hand: dict[str, Path], notes: list[str]) -> dict[str, Path]:
    """The files that the user named, and the one of the other side where the data set has just one."""
    files = dict(by_hand)
    for role in {"train", "val"} - set(by_hand):
        known = {path.resolve() for path in by_hand.values()}
        found = [c.path for c in _coco_candidates(root) if c.role == role and c.path.resolve() not in known]
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
    finders = {"coco": _find_coco, "yolo": find_yolo, "voc": find_voc}
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
    wanted = {
        "coco": "COCO json (train.json and val.json, annotations/instances_*.json, train/_annotations.coco.json)",
        "voc": "Pascal VOC (ImageSets/Main, or xml files)",
        "yolo": "YOLO (data.yaml, or images/ and labels/)",
    }
    looked = wanted[data_format] if data_format in wanted else ", ".join(wanted.values())
    if root.is_file():
        return f"expected {looked}, found the file {root}; name the folder of the data set or its json or yaml file"
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    shown = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    found = shown or "an empty folder"
    return f"expected {looked} in {root}, found {found}; mend --data, or name COCO files with --train_json"


@dataclass(frozen=True)
class _Candidate:
    path: Path
    role: str
    """train, val, test or nothing."""


def _find_coco(root: Path) -> str:
    """The COCO files there, in words; empty if there are none."""
    candidates = _coco_candidates(root)
    return ", ".join(str(c.path.relative_to(root) if root.is_dir() else c.path.name) for c in candidates[:4])


def _coco_candidates(root: Path) -> list[_Candidate]:
    if root.is_file():
        return [_Candidate(root, "")] if root.suffix.lower() == ".json" else []
    folders = [root, root / "annotations", *(p for p in sorted(root.iterdir()) if p.is_dir() and role_of(p.name))]
    found: list[_Candidate] = []
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if path.name.startswith((".", *_OTHER_JSON)) or not looks_like_coco(path):
                continue
            role = role_of(path.stem) or (role_of(folder.name) if folder != root else "")
            found.append(_Candidate(path, role))
    return found


def role_of(name: str) -> str:
    """`train`, `val`, `test` or nothing, from the words in a file's or folder's name: `instances_val2017` is val."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
    roles = {_ROLES[word] for word in words if word in _ROLES}
    return roles.pop() if len(roles) == 1 else ""


def _coco_files(root: Path, notes: list[str]) -> dict[str, Path]:
    candidates = _coco_candidates(root)
    by_role: dict[str, list[Path]] = {}
    for candidate in candidates:
        by_role.setdefault(candidate.role, []).append(candidate.path)
    if set(by_role) == {""}:  # a folder with one json of any name
        by_role = {"train": by_role[""]}
    files: dict[str, Path] = {}
    for role in ("train", "val", "test"):
        paths = by_role.get(role, [])
        if len(paths) > 1:
            paths = [p for p in paths if p.name.startswith("instances_")] or paths
        if len(paths) > 1:
            listed = ", ".join(str(p.relative_to(root)) for p in paths)
            raise DataError(
                f"expected one json file of the {role} pictures in {root}, found {len(paths)}: {listed}; choose with "
                "--train_json and --val_json"
            )
        if paths:
            files[role] = paths[0]
    if "test" in files:
        test = files.pop("test")
        if "val" not in files and "train" in files:
            files["val"] = test
            notes.append(f"there is no validation split; {test.name} is used for it")
        elif not files:
            files["val"] = test
        else:
            notes.append(f"{test.relative_to(root)} is left alone: only train and val are used")
    if not files:
        listed = ", ".join(str(c.path.relative_to(root)) for c in candidates)
        raise DataError(
            f"expected json files named after train and val in {root}, found {listed}; choose with --train_json"
        )
    return files


def _picture_folders(root: Path, path: Path, given: Path | None) -> list[Path]:
    """Where the pictures of a json file may lie, best guess first."""
    if given is not None:
        return [given]
    base = root if root.is_dir() else root.parent
    role = role_of(path.stem) or role_of(path.parent.name)
    words = [
        word for word in re.split(r"[^a-zA-Z0-9]+", path.stem) if role_of(word)
    ]  # train2017 of instances_train2017
    names = [*words, role, *(word for word, of in _ROLES.items() if of == role), path.stem]
    folders: list[Path] = []
    for parent in dict.fromkeys((path.parent, base, path.parent.parent)):
        pictures = [parent / inner for inner in ("images", "JPEGImages", "imgs", "data")]
        folders += [*pictures, parent]
        for name in filter(None, names):
            folders += [parent / name, parent / name / "images", *(inner / name for inner in pictures)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


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
    shared = Categories(tuple(names), tuple(names.values()))
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
