"""Find the COCO files of a data set, instances or panoptic, and load one split from each, or from several together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats import coco_layout
from detrkit.data.formats.combine import merge_splits, split_by_image
from detrkit.data.formats.raw import RawSplit


@dataclass(frozen=True)
class CocoFile:
    """A COCO json file to read, and where its images may lie."""

    path: Path
    split: str
    """`train` or `val`: the split that the file is loaded as."""
    folders: Sequence[Path]
    """Folders of its images, best guess first; the one that holds most of them is taken."""
    outside: Sequence[Path] = ()
    """Further folders, outside of the data set (see `ImageFinder.find`)."""
    within: Path | None = None
    """The folder that the user named for the images of this split."""
    split_name: str = ""
    """The split in the name of the file or of its folder; empty if there is none."""


def detect_json(source: Source, *, panoptic: bool) -> str:
    """Name the COCO files of one kind, instances or panoptic, for messages; empty if there are none."""
    file = source.options.file
    if file is None:
        return coco_layout.describe(source.index, panoptic=panoptic)
    kind = coco_layout.json_kind(file)
    return file.name if kind and (kind == "panoptic") == panoptic else ""


def load_json(
    source: Source, read: Callable[[CocoFile, Source], RawSplit], *, panoptic: bool = False
) -> dict[str, RawSplit]:
    """Load the COCO files that the user named or that are found; several files of one split become one split.

    Args:
        source: the data set; takes findings and notes.
        read: reads one file.
        panoptic: whether to load the panoptic files instead of the instances, where both are found.

    Raises:
        DataError: there is no such file, one does not parse, or two contradict each other.
    """
    files = files_of_splits(source, panoptic=panoptic)
    splits = {}
    for split, paths in sorted(files.items()):
        parts = [_read_file(path, split, source, read, panoptic=panoptic) for path in paths]
        splits[split] = merge_splits(split, parts, source)
    coco_layout.leave_other_tasks(source, panoptic=panoptic)
    paths = [path for some in files.values() for path in some]
    is_named = bool(source.options.annotation_files) or any(source.image_dirs.values())
    if is_named or len(splits) > 1 or any(coco_layout.split_of_file(source.index, path) for path in paths):
        return splits
    return split_by_image(splits["train"], source)


def files_of_splits(source: Source, *, panoptic: bool) -> dict[str, list[Path]]:
    """Split -> its COCO files: those that the user named, else those found in the data set."""
    options, maps = source.options, source.options.panoptic_json
    if options.annotation_files or (maps is not None and maps.is_file()):
        named = options.annotation_files or ({_split_of_name(maps): maps} if maps is not None else {})
        files = {split: [path] for split, path in named.items()}
        if not options.files_only:
            _add_other_split(files, source, panoptic=panoptic)
        return files
    if options.file is not None:
        return {_split_of_name(options.file) if panoptic else "train": [options.file]}
    return coco_layout.split_files(source, FileIndex(maps) if maps else source.index, panoptic=panoptic)


def _split_of_name(path: Path) -> str:
    """The split that a file is loaded as by its name: a test split stands in for val, no split at all for train."""
    return split_of_name(path.stem).replace("test", "val") or "train"


def _add_other_split(files: dict[str, list[Path]], source: Source, *, panoptic: bool) -> None:
    """Add the other split's file to that which the user named, where the data set has exactly one."""
    known = {path.resolve() for paths in files.values() for path in paths}
    for split in {"train", "val"} - set(files):
        candidates = coco_layout.candidates(source.index, panoptic=panoptic)
        others = [c.path for c in candidates if c.split_name == split and c.path.resolve() not in known]
        if len(others) == 1:
            files[split] = others
            source.notes.append(f"{others[0].relative_to(source.root)} is used for {split}")


def _read_file(
    path: Path, split: str, source: Source, read: Callable[[CocoFile, Source], RawSplit], *, panoptic: bool
) -> RawSplit:
    """Read one file; images that lie outside of the data set are noted."""
    file = describe_file(path, split, source, panoptic=panoptic)
    loaded = read(file, source)
    if file.outside and (far := [i.path for i in loaded.images if not i.path.is_relative_to(source.root)]):
        source.notes.append(
            f"{len(far)} images of {path.name} lie outside of {source.root}, as {far[0]}; --train_images or "
            "--val_images names another folder"
        )
    return loaded


def describe_file(path: Path, split: str, source: Source, *, panoptic: bool = False) -> CocoFile:
    """Say where the images of a file may lie."""
    root, within, png_dir = source.root, source.image_dirs[split], source.options.panoptic_dir
    folders = coco_layout.image_folders(root, path, within)
    png_folders = coco_layout.png_folders(root, path, png_dir) if panoptic else []
    images = (p for p in source.index.images if not any(p.is_relative_to(folder) for folder in png_folders))
    outside = [] if within else coco_layout.folders_outside(root, path, images)
    if panoptic:  # images never lie where the PNGs do, which may have the same names
        folders, outside = (
            [folder for folder in some if folder.name != path.stem and folder != png_dir] for some in (folders, outside)
        )
    split_name = coco_layout.split_of_file(source.index, path)
    return CocoFile(path, split, folders, outside, within, split_name)
