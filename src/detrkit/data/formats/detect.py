"""Detect the format of a data set and load it: `open_dataset` turns a path into a raw data set.

Layouts that are detected (`DATA` is the path that the user named):

    COCO   DATA/train.json, DATA/val.json and images beside them, in images/, or in a folder of the split's name
           DATA/annotations/instances_train2017.json with DATA/train2017/ (the layout of COCO)
           DATA/train/_annotations.coco.json with the images beside it, likewise valid/ (Roboflow)
           a single json file, or a folder with one: a validation split is held out
    VOC    DATA/ImageSets/Main/*.txt, Annotations/, JPEGImages/ (also one level down, as in VOCdevkit/VOC2007)
           a folder of xml files, with the images beside them or in a folder next to it
    YOLO   DATA/data.yaml, or images/ and labels/ without one
    labelme
           a json file beside each image, or json files in a separate folder
    VIA    via_region_data.json or .csv, or a project of versions 1 and 2
    CVAT   annotations.xml of CVAT for images, with or without images/
    Label Studio
           its JSON or JSON-MIN, with or without images/
    masks  DATA/images/ and DATA/masks/, inside train/ and val/ or with these inside; see `mask_png`
    COCO panoptic
           DATA/panoptic_train.json with the PNGs in DATA/panoptic_train/, and images as above; or all of it in
           annotations/ (the layout of COCO)
    packed DATA/pack.json with tar files, as `detrkit pack` writes them; DATA may be an address (https://..., s3://...)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detrkit.data.files.file_index import STUDIO_LABELS, FileIndex
from detrkit.data.files.source import ReadOptions, Source
from detrkit.data.files.unused import list_unused, unreadable_files
from detrkit.data.formats import coco_layout, registry
from detrkit.data.formats.combine import share_categories
from detrkit.data.formats.packed import detect_packed, expect_panoptic, open_splits
from detrkit.data.formats.raw import RawDataset
from detrkit.data.formats.registry import DatasetFormat
from detrkit.data.formats.unsupported import explain_unsupported
from detrkit.data.shards.packed_index import MANIFEST
from detrkit.data.shards.storage import is_address
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.pooling import pool_splits
from detrkit.errors import ConfigError, DataError, ShardError
from detrkit.ops.text import first_names


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
    pooled: bool = False,
    box_format: str = "auto",
    segmentations: bool = True,
    strict: bool = False,
) -> RawDataset:
    """Detect the format of a data set and load it, unchecked; `check_dataset` makes it usable.

    Args:
        data: folder or file; may be empty if `train_json` or `val_json` is given.
        data_format: `auto`, or the name of a row of `registry.FORMATS`.
        train_json: COCO file of the training images, instances or panoptic; relative to `data` or to the working
            directory.
        val_json: the same for validation.
        train_images: folder of the training images.
        val_images: folder of the validation images.
        panoptic_json: COCO panoptic file, whose name contains its split, or the folder of the files of both splits.
        panoptic_dir: folder of the panoptic PNGs, or the folder above those of both splits.
        val_fraction: share of the images, 0..1, that the check holds out for validation if there is no such split; 0
            holds out none.
        seed: seed of the held-out split, which depends on the seed and the file names alone.
        held_out: file names of the images to hold out instead: those that a training run held out.
        pooled: make train and val one split, `train`, as for folds.
        box_format: form of the boxes, where it is not that of the data format: `auto`, or a key of
            `box_formats.BOX_FORMATS`.
        segmentations: keep polygons and RLE masks.
        strict: let `check_dataset` raise an error if anything is left out.

    Raises:
        DataError: no data set is there, or files contradict each other; a file does not parse.
        ConfigError: settings contradict each other.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val_fraction must be at least 0 and below 1, found {val_fraction}")
    if not data and not (train_json or val_json):
        raise ConfigError("expected a data set, found none; name its folder or file, as in detrkit train DATA")
    names = [row.name for row in registry.FORMATS]
    if data_format not in ("auto", *names):
        raise ConfigError(f"--data_format must be auto, {', '.join(names)}, found {data_format!r}")
    root = Path(data) if data else Path(train_json or val_json).parent
    try:
        if is_address(str(data)):
            dataset = _open_address(str(data), data_format)
        else:
            _must_exist(root)
            options = make_options(
                root,
                {"train": train_json, "val": val_json},
                {"train": train_images, "val": val_images},
                panoptic_json,
                panoptic_dir,
                segmentations=segmentations,
                files_only=not data,
            )
            dataset = _load(root, _choose_format(data_format, options), options)
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror or error}; look at the path and its permissions"
        ) from None
    dataset.strict = strict
    dataset.val_fraction, dataset.seed, dataset.held_out, dataset.box_format = val_fraction, seed, held_out, box_format
    if pooled:
        pool_splits(dataset)
    return dataset


def make_options(
    root: Path,
    files: Mapping[str, str],
    folders: Mapping[str, str],
    panoptic_json: str = "",
    panoptic_dir: str = "",
    *,
    segmentations: bool = True,
    files_only: bool = False,
) -> ReadOptions:
    """Resolve the paths that the user named besides the data set; see `open_dataset`.

    Raises:
        DataError: there is nothing at one of them.
    """
    return ReadOptions(
        root if root.is_file() else None,
        {split: path for split, text in files.items() if (path := _resolve(root, text))},
        {split: _resolve(root, text) for split, text in folders.items()},
        _resolve(root, panoptic_json),
        _resolve(root, panoptic_dir),
        segmentations,
        files_only,
    )


def _open_address(address: str, data_format: str) -> RawDataset:
    """Open packed data at an address; data of no other format are read from one.

    Raises:
        ConfigError: another format is asked for.
        ShardError: there are no packed data.
    """
    if data_format not in ("auto", "packed", "coco_panoptic"):
        raise ConfigError(
            f"expected --data_format packed for the address {address}, found {data_format}; copy the data here, or "
            "pack them with detrkit pack"
        )
    address = address.removesuffix(f"/{MANIFEST}")
    dataset = RawDataset("packed", address, open_splits(address), Findings())
    if data_format == "coco_panoptic":
        expect_panoptic(dataset)
    return dataset


def _must_exist(root: Path) -> None:
    """Raise an error if the path does not exist or cannot be read."""
    if not root.exists():
        raise DataError(f"expected a data set at {root}, found no such file or folder; look at the path")
    _open(root)


def _open(path: Path) -> None:
    """Raise the OSError of a file or folder that cannot be read."""
    if path.is_dir():
        next(path.iterdir(), None)
    else:
        path.open("rb").close()


def _choose_format(data_format: str, options: ReadOptions) -> str:
    """The name of the format to load, or `auto`, by the flag and by the files that other flags name.

    Raises:
        ConfigError: the flags contradict each other.
    """
    files, panoptic = options.annotation_files, options.panoptic_json or options.panoptic_dir
    if data_format not in ("auto", "coco", "coco_panoptic") and (files or panoptic):
        flags = "--train_json and --val_json" if files else "--panoptic_json and --panoptic_dir"
        raise ConfigError(f"{flags} name COCO files, but --data_format is {data_format}")
    if data_format == "coco" and panoptic:
        raise ConfigError("--panoptic_json and --panoptic_dir need --data_format coco_panoptic, found coco")
    if data_format == "auto" and (panoptic or any(map(coco_layout.holds_segments, files.values()))):
        return "coco_panoptic"
    return "coco" if data_format == "auto" and files else data_format


def _load(root: Path, data_format: str, options: ReadOptions) -> RawDataset:
    """Load a data set in the format of this name, or (`auto`) in the first that is there and loads."""
    index = FileIndex(root if root.is_dir() else root.parent)
    source = Source(index, options)
    if data_format == "auto":
        evidence = _detect(source, registry.FORMATS)
        if not evidence and (root / STUDIO_LABELS).is_dir():
            return _load(root / STUDIO_LABELS, data_format, options)
        if not evidence:
            raise DataError(_explain_nothing(source, root) + _unread(index))
    else:
        chosen = registry.format_by_name(data_format)
        if data_format == "coco_panoptic" and not options.panoptic_json and detect_packed(source):
            chosen = registry.format_by_name("packed")
        is_named = options.annotation_files or options.panoptic_json
        evidence = {chosen.name: chosen.name} if is_named else _detect(source, (chosen,))
        if not evidence:
            raise DataError((chosen.explain(source) or _nothing_found(root, (chosen,))) + _unread(index))
    failures: dict[str, DataError] = {}
    for name in evidence:
        source = Source(index, options)
        try:
            splits = registry.format_by_name(name).load(source)
        except ShardError:
            raise
        except DataError as error:
            failures[name] = error
            continue
        _note_other_formats(source, name, evidence, failures)
        source.note_attributes()
        if (root / STUDIO_LABELS).is_dir():
            source.notes.append(f"the labels of detrkit studio are a data set of their own: {root / STUDIO_LABELS}")
        share_categories(list(splits.values()), source.findings)
        if root.is_dir() and not options.files_only and name != "packed":
            list_unused(source, splits.values(), f"no part of what was read as {name.upper()}")
        dataset = RawDataset(name, str(root), splits, source.findings, source.notes)
        if name == "packed" and data_format == "coco_panoptic":
            expect_panoptic(dataset)
        return dataset
    raise DataError(f"{next(iter(failures.values()))}{_unread(index)}")


def _note_other_formats(source: Source, name: str, evidence: dict[str, str], failures: dict[str, DataError]) -> None:
    """Note the formats that were tried before the one that loaded, and those that are there as well."""
    source.notes += [f"not read as {other.upper()}: {failure}" for other, failure in failures.items()]
    others = [f"{other.upper()} ({evidence[other]})" for other in evidence if other != name and other not in failures]
    if others:
        source.notes.insert(
            0,
            f"read as {name.upper()} ({evidence[name]}); there is also {' and '.join(others)}, which --data_format "
            "chooses",
        )


def holds_panoptic(root: Path) -> bool:
    """Whether a folder or file holds COCO panoptic annotations."""
    index = FileIndex(root if root.is_dir() else root.parent)
    options = ReadOptions(root if root.is_file() else None)
    return bool(_detect(Source(index, options), (registry.format_by_name("coco_panoptic"),)))


def _detect(source: Source, formats: Iterable[DatasetFormat]) -> dict[str, str]:
    """Return format name -> detected files, in words, in the order of preference."""
    file = source.options.file
    if file is not None:
        formats = [row for row in formats if file.suffix.lower() in row.file_suffixes]
    return {row.name: evidence for row in formats if (evidence := row.detect(source))}


def _explain_nothing(source: Source, root: Path) -> str:
    """Write the error sentence for a folder or file in which no format is detected."""
    titles = [row.title for row in registry.FORMATS]
    explained = (row.explain(source) for row in registry.FORMATS)
    return (
        explain_unsupported(source.index, source.options.file, expected=f"{', '.join(titles[:-1])} or {titles[-1]}")
        or next(filter(None, explained), "")
        or _name_the_folder(source)
        or _nothing_found(root, registry.FORMATS)
    )


def _name_the_folder(source: Source) -> str:
    """Write the error sentence for a file whose folder should be named instead; empty for any other file."""
    file = source.options.file
    if file is None:
        return ""
    formats = [row for row in registry.FORMATS if file.name.lower().endswith(row.folder_suffixes or "\0")]
    evidence = _detect(Source(source.index, replace(source.options, file=None)), formats)
    if not evidence:
        return ""
    return (
        f"expected the folder of a data set, or a COCO json or data.yaml, found the file {file}; name its folder "
        f"{file.parent}, which holds {' and '.join(f'{name.upper()} ({files})' for name, files in evidence.items())}"
    )


def _resolve(root: Path, path: str) -> Path | None:
    """Resolve a path of the user: relative to the working directory, or else to the data set."""
    if not path:
        return None
    folder = root if root.is_dir() else root.parent
    for candidate in (Path(path), folder / path):
        if candidate.exists():
            _open(candidate)
            return candidate
    raise DataError(f"expected a file or folder at {path}, found none there nor under {folder}; look at the path")


def _unread(index: FileIndex) -> str:
    """Name the files that cannot be read, as the end of an error sentence; empty if there are none."""
    unread = unreadable_files(index)
    first = next(iter(unread), "")
    more = f", nor {len(unread) - 1} more" if len(unread) > 1 else ""
    return f"; cannot read {first}: {unread[first]}{more}" if first else ""


def _nothing_found(root: Path, formats: Sequence[DatasetFormat]) -> str:
    """Write the error sentence for a folder or file that holds none of the formats."""
    expected = ", ".join(row.description for row in formats)
    if root.is_file():
        return f"expected {expected}, found the file {root}; name the folder of the data set or its json or yaml file"
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    shown = first_names(inside, 8)
    flag = "--panoptic_json" if [row.name for row in formats] == ["coco_panoptic"] else "--train_json"
    return (
        f"expected {expected} in {root}, found {shown or 'an empty folder'}; fix --data, or name COCO files with {flag}"
    )
