"""Find the images, splits and class names of a YOLO data set.

Sources, in this order: a yaml file (`train`, `val`, `names`); Darknet's `obj.data` (the same as `key = value`); lists
of images (`train.txt`, `valid.txt`); else all images that have a label file, whose folders tell the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detrkit.config.fields import expand_home
from detrkit.data.files.class_names import (
    is_list,
    merge_names,
    name_files,
    names_beside,
    read_names,
    top_keys,
    yaml_names,
)
from detrkit.data.files.encodings import read_lines, read_text
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.pairing import Pairs, in_labels_folder, pair
from detrkit.data.files.sampling import head_of, sample_of
from detrkit.data.files.source import Source
from detrkit.data.files.split_lists import split_lists
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.data.formats.yolo_lines import Line, as_ids, parse_line
from detrkit.errors import DataError
from detrkit.ops.text import first_names

_SPLITS = ("train", "val", "test")
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SNIFFED, _PAIRED = 8, 1024
"""Number of label files that are opened, and that are paired with images, to detect the format."""
_SNIFFED_BYTES = 1 << 16
_CLASSES = 100_000
"""More classes than any data set has: a larger first number is no class."""
_USUAL_CLASSES = 100
"""More classes than most data sets have."""


@dataclass
class Layout:
    """Images, label files and class names of a data set."""

    images: dict[str, list[Path]]
    """`train` and `val` -> their images."""
    labels: list[Path]
    """Text files that may be label files."""
    names: dict[int, str] | None
    """Class id -> name; None if no file has names."""
    source: Path
    """The file or folder of this layout, for messages."""
    key_points: int | None = None
    """Number of values of key points after each box; None if no file states it."""


@dataclass
class _Config:
    """Content of a yaml file or of Darknet's data file."""

    path: Path
    images: dict[str, list[Path]] = field(default_factory=dict)
    names: dict[int, str] | None = None
    key_points: int | None = None


def describe_layout(index: FileIndex) -> str:
    """Name the YOLO files that are there, for messages; empty if there are none."""
    configs = _config_files(index)
    if configs:
        return first_names(("/".join(index.relative(path)) for path in configs), 3)
    if not _labeled(index, _label_files(index)):
        return ""
    names = name_files(index)
    return "text files of labels" + (f" and {names[0].name}" if names else "")


def describe_unpaired(index: FileIndex) -> str:
    """Write the error sentence for label files of which none can be paired with an image; empty if there are none."""
    labels = [path for path in _label_files(index) if _looks_like_label(path)]
    if not labels or not index.images or pair(index, labels, index.images).file_of:
        return ""
    first, image = ("/".join(index.relative(path)) for path in (labels[0], index.images[0]))
    return (
        f"expected label files with the names of their images in {index.root}, found {len(labels)} label files and "
        f"{len(index.images)} images that cannot be paired (the first of each: {first} and {image}); "
        "give both the same folders and names, such as images/train/1.jpg and labels/train/1.txt"
    )


def find_layout(source: Source, named: Path | None = None) -> Layout:
    """Find the layout of a data set: by the file that the user named, by config files and lists, else by folders.

    Args:
        source: the data set.
        named: the yaml file or Darknet's data file that the user named, if any.

    Raises:
        DataError: a file cannot be read, names contradict each other, or the training images are missing.
    """
    files = [named] if named and (_is_yaml_config(named) or _is_darknet(named)) else _config_files(source.index)
    _leave_configs(files, source)
    configs = [_read_config(path, source) for path in files]
    if configs:
        images = {
            split_name: _joined(config.images.get(split_name, []) for config in configs) for split_name in _SPLITS
        }
        names = merge_names([(config.path, config.names) for config in configs if config.names])
        layout = Layout(images, _label_files(source.index), names, files[0], _key_points(configs))
    else:
        labels = _label_files(source.index)
        layout = Layout(_images_by_lists(source, labels) or _images_by_folder(source), labels, None, source.root)
    if layout.names is None:
        layout.names = names_beside(source)
    for split_name, given in source.image_dirs.items():
        if given is not None:
            layout.images[split_name] = _images_in(source, given)
    layout.images = source.fold_splits(layout.images)
    source.use(*files)
    return layout


# --- yaml and Darknet's data files -----------------------------------------------------------------------------------


def _config_files(index: FileIndex) -> list[Path]:
    """The yaml files of a data set, else Darknet's data files, at the smallest depth that has any."""
    for suffixes, fits in (((".yaml", ".yml"), _is_yaml_config), ((".data",), _is_darknet)):
        configs = [path for path in index.with_suffix(*suffixes) if fits(path)]
        if configs:
            depth = min(len(path.parts) for path in configs)
            nearest = [path for path in configs if len(path.parts) == depth]
            by_folder: dict[Path, Path] = {}
            for path in sorted(nearest, key=lambda p: (p.stem not in ("data", "dataset"), p)):
                by_folder.setdefault(path.parent, path)  # one per folder; several folders are several sites
            return list(by_folder.values())
    return []


def _leave_configs(files: list[Path], source: Source) -> None:
    """Leave out the other config files, with the reason."""
    others = [path for path in source.index.with_suffix(".yaml", ".yml") if _is_yaml_config(path)]
    others += [path for path in source.index.with_suffix(".data") if _is_darknet(path)]
    used = first_names(("/".join(source.index.relative(path)) for path in files), 3)
    source.leave_out((path for path in others if path not in files), f"{used} is read; name another one with --data")


def _is_yaml_config(path: Path) -> bool:
    try:
        head = read_text(path)
    except DataError:
        return False
    keys = top_keys(head)
    return bool(keys & {"names", "nc"} and keys & {"train", "val"})


def _is_darknet(path: Path) -> bool:
    try:
        return {"train", "names"} <= _darknet(path).keys()
    except DataError:
        return False


def _darknet(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in read_lines(path))
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def _read_config(path: Path, source: Source) -> _Config:
    """Read the images and class names of one config file."""
    darknet = path.suffix.lower() == ".data"
    content: dict[str, Any] = dict(_darknet(path)) if darknet else _load_yaml(path, source)
    config = _Config(path, names=None if darknet else _names(content, path))
    if darknet and (names := _resolve(content["names"], path, content, source)) is not None and names.is_file():
        source.use(names)
        config.names = read_names(names, source.findings)
    shape = content.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n >= 0 for n in shape):
        config.key_points = shape[0] * shape[1]
    for split_name in _SPLITS:
        value = next((content[key] for key in _KEYS[split_name] if content.get(key)), None)
        if value is not None:
            config.images[split_name] = _images_of_entry(value, split_name, path, content, source)
    return config


def _key_points(configs: list[_Config]) -> int | None:
    return max((config.key_points for config in configs if config.key_points is not None), default=None)


def _load_yaml(path: Path, source: Source) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_text(path, source.findings))
    except yaml.YAMLError as error:
        raise DataError(f"expected YAML in {path}, found a mistake: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise DataError(f"expected keys such as train, val and names in {path}, found a {type(config).__name__}")
    return config


def _names(config: dict[str, Any], path: Path) -> dict[int, str] | None:
    """Class id -> name; None if the yaml file has neither `names` nor `nc`."""
    if config.get("names") is None and isinstance(config.get("nc"), int):
        return {index: str(index) for index in range(config["nc"])}
    return yaml_names(path)


def _images_of_entry(value: Any, split_name: str, path: Path, content: dict[str, Any], source: Source) -> list[Path]:
    """The images of an entry `train:` (or val, test): a folder, a list of paths, or several of these."""
    images: list[Path] = []
    for entry in value if isinstance(value, list) else [value]:
        target = _resolve(str(entry), path, content, source)
        if target is None and split_name == "train":
            raise DataError(
                f"expected the train images of {path} at {str(entry)!r}, found no such file or folder there nor below "
                f"{source.root}; correct the path in {path.name}"
            )
        if target is None:
            consequence = (
                "a validation split is made of the training images" if split_name == "val" else "it is not used"
            )
            source.notes.append(
                f"the {split_name} images of {path.name} at {str(entry)!r} are not there; {consequence}"
            )
            continue
        if target.is_dir():
            images += _images_in(source, target)
        elif target.suffix.lower() in IMAGE_SUFFIXES:
            images.append(target)
        else:
            source.use(target)
            images += _images_of_list(target, source, content)
    return list(dict.fromkeys(images))


def _resolve(entry: str, path: Path, content: dict[str, Any], source: Source) -> Path | None:
    """The file or folder of an entry: at its path, or (paths of another machine) at the end of its path."""
    tail = expand_home(entry.strip()).replace("\\", "/")
    stated = expand_home(str(content.get("path") or ".")).replace("\\", "/")
    here = path.parent
    roots = [here / stated, here / Path(stated).name, here, here.parent]
    # exporters write ../train/images where they mean train/images
    tries = [root / tail for root in roots] + [here / tail.removeprefix("../")]
    parts = [part for part in re.split("/+", tail) if part and part not in (".", "..") and not part.endswith(":")]
    tries += [base / Path(*parts[k:]) for k in range(len(parts)) for base in dict.fromkeys((here, source.root))]
    return next((candidate for candidate in tries if candidate.exists()), None)


def _images_of_list(
    path: Path, source: Source, content: dict[str, Any] | None = None, lines: list[str] | None = None
) -> list[Path]:
    """The images that a text file lists, one path per line, or those of the given `lines`."""
    lines = read_lines(path, source.findings) if lines is None else lines
    stated = expand_home(str((content or {}).get("path") or ".")).replace("\\", "/")
    folders = [path.parent, path.parent / stated, source.root]
    matches = source.finder.find(lines, [folder for folder in dict.fromkeys(folders) if folder.is_dir()])
    for number, line in enumerate(lines, start=1):
        if matches[line].how == "ambiguous":
            rivals = first_names(matches[line].rivals, 3)
            source.findings.add("image_ambiguous", path, f"line {number}", f"{line!r} may be {rivals}")
    return [matches[line].path for line in dict.fromkeys(lines) if matches[line].how != "ambiguous"]


def _images_in(source: Source, folder: Path) -> list[Path]:
    inside = [path for path in source.index.images if path.is_relative_to(folder)]
    if not inside and not folder.is_relative_to(source.root):
        inside = FileIndex(folder).images
    return source.index.unique_files(inside)


# --- without such a file ---------------------------------------------------------------------------------------------


def _images_by_lists(source: Source, labels: list[Path]) -> dict[str, list[Path]]:
    """Return split -> images of lists such as train.txt; if there is no list of train, the rest is train."""
    by_split: dict[str, list[Path]] = {}
    for path, listed in split_lists(source.index):
        source.use(path)
        for split_name, names in listed.items():
            by_split.setdefault(split_name, []).extend(_images_of_list(path, source, lines=names))
    if by_split and "train" not in by_split:
        known = {path for images in by_split.values() for path in images}
        rest = _joined(_images_by_folder(source).values())
        by_split["train"] = [path for path in rest if path not in known]
    return {split_name: list(dict.fromkeys(images)) for split_name, images in by_split.items() if images}


def label_pairs(index: FileIndex) -> Pairs:
    """Pair the text files that may be labels with the images of the data set; computed once per index."""
    if "pairs" not in index.memo:
        index.memo["pairs"] = pair(index, _label_files(index), index.images)
    return index.memo["pairs"]


def _images_by_folder(source: Source) -> dict[str, list[Path]]:
    """Return split -> images with a label file, and the images beside them; folders name the splits."""
    pairs = label_pairs(source.index)
    folders = {path.parent for path in pairs.file_of}
    used = source.index.unique_files(path for path in source.index.images if path.parent in folders)
    splits = {path: split_of_parts(source.index.relative(path)[:-1]) for path in used}
    by_split: dict[str, list[Path]] = {}
    for path, split_name in splits.items():
        by_split.setdefault(split_name, []).append(path)
    return by_split


def _label_files(index: FileIndex) -> list[Path]:
    """Text files that may be labels: not lists of images or classes, and not a readme."""
    if "labels" in index.memo:
        return index.memo["labels"]
    others = {"readme.txt", "license.txt", "requirements.txt"}
    labels: list[Path] = []
    index.memo["labels"] = labels
    for path in index.with_suffix(".txt"):
        name = path.name.lower()
        of_image = path.stem in index.image_stems
        if not of_image and (name in others or name.startswith("readme") or is_list(index, path)):
            continue
        if of_image or in_labels_folder(index, path) or _looks_like_label(path):
            labels.append(path)
    return labels


def _labeled(index: FileIndex, labels: list[Path]) -> bool:
    """Whether text files can be paired with images, and most of a sample of them hold labels."""
    pairs = pair(index, sample_of(labels, _PAIRED), index.images)
    sample = list(dict.fromkeys(pairs.file_of.values()))[: 4 * _SNIFFED]
    ids = as_ids({row: name for path in name_files(index)[:1] for row, name in read_names(path).items()})
    fitting = [path for path in sample if _looks_like_label(path, ids)]
    return 2 * len(fitting) >= len([path for path in sample if head_of(path)]) and bool(fitting)


def _looks_like_label(path: Path, ids: dict[str, int] | None = None) -> bool:
    """Whether most of the first lines of a file are labels; False for an empty file."""
    try:
        with path.open("rb") as file:
            text = file.read(_SNIFFED_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return False
    lines = [parse_line(line, ids=ids) for line in text.splitlines()[: 2 * _SNIFFED]]
    read = [line for line in lines if line is not None]
    classes = len(ids or {}) or _USUAL_CLASSES
    return 2 * sum(not isinstance(line, str) and _plausible(line, classes) for line in read) > len(read)


def _plausible(line: Line, classes: int) -> bool:
    """Whether a line may be a label; in pixels it must be a polygon of a small class number, since other files hold
    numbers too."""
    if line.polygon is None or all(-0.5 <= number <= 1.5 for number in line.polygon):
        return 0 <= line.category < _CLASSES
    corners = len(line.polygon) >= 8 and not line.extra and min(line.polygon) >= 0
    return corners and 0 <= line.category < classes


def _joined(lists: Iterable[list[Path]]) -> list[Path]:
    return list(dict.fromkeys(path for some in lists for path in some))
