"""Read YOLO labels: one text file a picture, into RawSplits.

A line is `class cx cy w h`, relative to the picture, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon (segmentation data),
whose box is its extent. A picture without a text file has no objects, as the format's tools hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from detrkit.data.coco import as_id
from detrkit.data.encodings import read_lines
from detrkit.data.findings import Findings
from detrkit.data.raw import IMAGE_SUFFIXES, RawImage, RawObject, RawSplit
from detrkit.errors import DataError
from detrkit.structures import Categories

_SIDES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}


def find_yolo(root: Path) -> str:
    """What of a YOLO data set is at `root`, in words; empty if nothing."""
    config = _config_file(root)
    if config is not None:
        return config.name
    return "images/ and labels/" if root.is_dir() and _folders_without_config(root) else ""


def read_yolo(root: Path, images: dict[str, Path | None], findings: Findings, notes: list[str]) -> dict[str, RawSplit]:
    """Read a data set with a `data.yaml`, or with images/ and labels/ folders alone.

    Args:
        root: its folder, or its yaml file.
        images: split -> folder of its pictures, where the user named one.
        findings: takes what is wrong with single files and lines.
        notes: takes a sentence for each choice.

    Raises:
        DataError: the yaml file cannot be read as one, or no picture is where it says.
    """
    config_file = _config_file(root)
    if config_file is not None:
        config = _load_yaml(config_file)
        names = _names(config, config_file)
        sides = {
            side: _listed_pictures(config, side, config_file)
            for side in _SIDES
            if config.get(side) or (side == "val" and config.get("valid"))
        }
        source = config_file
    else:
        sides = {side: _pictures_in(folders) for side, folders in _folders_without_config(root).items()}
        names = _classes_txt(root)
        source = root
    for role, given in images.items():
        if given is not None:
            sides[role] = _pictures_in([given])
    if "test" in sides:
        test = sides.pop("test")
        if test and not sides.get("val"):
            sides["val"] = test
            notes.append("there is no validation split; test is used for it")
    if not any(sides.values()):
        raise DataError(f"expected pictures of a YOLO data set for train or val in {source}, found none; mend --data")
    splits: dict[str, list[RawImage]] = {}
    for role in ("train", "val"):
        if sides.get(role):
            base = _common_folder(sides[role])
            splits[role] = [
                _read_labels(number, path, base, findings) for number, path in enumerate(sides[role], start=1)
            ]
    if names is None:
        found = {o.category for side in splits.values() for image in side for o in image.objects}
        count = max((c for c in found if isinstance(c, int)), default=-1) + 1
        names = {index: str(index) for index in range(count)}
        called = f"they are called 0 to {count - 1}" if count else "there are no objects either"
        notes.append(f"the classes have no names (no data.yaml, no classes.txt); {called}")
    categories = Categories(tuple(names), tuple(names.values()))
    return {role: RawSplit(role, side, categories, "relative", str(source)) for role, side in splits.items()}


def label_file(picture: Path) -> Path:
    """Where the labels of a picture lie: under `labels` instead of the last `images` of its path, else beside it."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
    return picture.with_suffix(".txt")


def _config_file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    files = sorted({*root.glob("*.yaml"), *root.glob("*.yml")}, key=lambda p: (p.stem not in ("data", "dataset"), p))
    for path in files:
        head = path.read_text(encoding="utf-8-sig", errors="replace")
        keys = {line.split(":")[0] for line in head.splitlines() if ":" in line}
        if keys & {"names", "nc"} and keys & {"train", "val"}:
            return path
    return None


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"expected YAML in {path}, found a mistake: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise DataError(f"expected train, val and names in {path}, found {type(config).__name__}")
    return config


def _names(config: dict[str, Any], path: Path) -> dict[int, str] | None:
    names = config.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None and isinstance(config.get("nc"), int):
        names = {index: str(index) for index in range(config["nc"])}
    if names is None:
        return None
    numbers = {as_id(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    known = {number: name for number, name in numbers.items() if number is not None and number >= 0}
    if not known or len(known) < len(names):
        raise DataError(f"expected names as a list, or as `0: name`, in {path}, found {names!r}"[:300])
    return _unique(dict(sorted(known.items())), path)


def _unique(names: dict[int, str], path: Path) -> dict[int, str]:
    texts = list(names.values())
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"expected each class name once in {path}, found {twice!r} again; name the classes apart")
    return names


def _listed_pictures(config: dict[str, Any], side: str, config_file: Path) -> list[Path]:
    """The pictures that `train:` (or val, test) of the yaml file names: folders, lists of paths, or several of them."""
    value = config.get(side) or config.get("valid")
    entries = value if isinstance(value, list) else [value]
    here = config_file.parent
    stated = Path(str(config.get("path") or "."))
    roots = [here / stated, here / stated.name, here, here.parent]
    found: list[Path] = []
    for entry in entries:
        tail = str(entry).replace("\\", "/")
        # exporters write ../train/images where they mean train/images
        tries = [root / tail for root in roots] + [here / tail.removeprefix("../")]
        target = next((path for path in tries if path.exists()), None)
        if target is None:
            if side == "test":
                continue
            looked = ", ".join(dict.fromkeys(str(path) for path in tries))
            raise DataError(f"expected the {side} pictures of {config_file} at {tail!r}, found none of {looked}")
        found += _pictures_in([target]) if target.is_dir() else _from_list(target, roots)
    return list(dict.fromkeys(found))


def _from_list(path: Path, roots: Iterable[Path]) -> list[Path]:
    """The pictures that a text file lists, one path a line."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path]
    roots = [path.parent, *roots]
    return [next((p for root in roots if (p := root / line).exists()), path.parent / line) for line in read_lines(path)]


def _pictures_in(folders: Iterable[Path]) -> list[Path]:
    return [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]


def _folders_without_config(root: Path) -> dict[str, list[Path]]:
    """Side -> picture folders: images/SIDE with labels/SIDE, SIDE/images with SIDE/labels, or images with labels."""
    found: dict[str, list[Path]] = {}
    for side, words in _SIDES.items():
        for word in words:
            for pictures, labels in (
                (root / "images" / word, root / "labels" / word),
                (root / word / "images", root / word / "labels"),
            ):
                if pictures.is_dir() and labels.is_dir():
                    found.setdefault(side, []).append(pictures)
    if not found and (root / "images").is_dir() and (root / "labels").is_dir():
        found["train"] = [root / "images"]
    return found


def _classes_txt(root: Path) -> dict[int, str] | None:
    for path in (root / "classes.txt", root / "labels" / "classes.txt", root / "obj.names"):
        if path.is_file():
            return _unique(dict(enumerate(read_lines(path))), path)
    return None


def _common_folder(pictures: list[Path]) -> Path:
    """The deepest folder above all of them; file names are relative to it."""
    shared = list(pictures[0].parent.parts)
    for path in pictures:
        parts = path.parent.parts
        same = next((i for i, (a, b) in enumerate(zip(shared, parts, strict=False)) if a != b), len(parts))
        del shared[same:]
    return Path(*shared)


def _read_labels(number: int, picture: Path, base: Path, findings: Findings) -> RawImage:
    path = label_file(picture)
    name = picture.relative_to(base).as_posix()
    image = RawImage(number, picture, name, None, None, [], file=str(path))
    if not path.is_file():
        return image
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        findings.add("txt_malformed", path, detail="not text")
        return image
    for row, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            category, *numbers = (float(word) for word in words)
        except ValueError:
            findings.add("txt_malformed", path, f"line {row}", line.strip()[:60])
            continue
        if not category.is_integer() or not (len(numbers) == 4 or (len(numbers) >= 6 and len(numbers) % 2 == 0)):
            detail = f"expected class cx cy w h or a polygon, found {len(words)} columns: {line.strip()[:60]}"
            findings.add("txt_malformed", path, f"line {row}", detail)
            continue
        box, polygon = numbers, None
        if len(numbers) > 4:
            xs, ys = numbers[0::2], numbers[1::2]
            box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
            polygon = [numbers]
        image.objects.append(RawObject(None, int(category), box, None, False, polygon, f"line {row}"))
    return image
