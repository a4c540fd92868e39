"""Make splits of the images that the files of a labeling tool list by name, with their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detrkit.data.files.image_finder import Match, tidy_name
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.shapes import number_classes
from detrkit.data.validation.image_probe import probe_images
from detrkit.errors import DataError
from detrkit.ops.text import first_names


@dataclass
class ListedImage:
    """An image of a file of annotations."""

    file: Path
    where: str
    """Place in the file, for messages."""
    name: str
    """Name, path or URL of the image."""
    width: float | None = None
    height: float | None = None
    split_name: str = ""
    """train, val or test, if the record says so."""
    objects: list[RawObject] = field(default_factory=list)
    """With class names as categories, and boxes x1, y1, x2, y2 in pixels."""
    regions: int = 0
    """Number of records of the image, those that are no objects included."""
    fault: str = ""
    """Why the record cannot be used, or empty."""


def make_splits(
    listed: Sequence[ListedImage], source: Source, title: str, fault_kind: str, order: Sequence[str] = ()
) -> dict[str, RawSplit]:
    """Find the files of images, and make the splits `train` and `val`.

    An image without objects is used as such. Records of one file are merged.

    Args:
        listed: the images of all files.
        source: files of the data set; takes findings and notes.
        title: name of the format.
        fault_kind: kind of finding of a record that cannot be used.
        order: class names in their order; others follow alphabetically.

    Raises:
        DataError: no image can be used.
    """
    by_image: dict[tuple[str, Path], RawImage] = {}
    for entry, match in zip(listed, _find(listed, source), strict=True):
        image = _make_image(entry, match, source, fault_kind)
        if image is None:
            continue
        split_name = entry.split_name or _split_of(entry.file, image.path, source)
        first = by_image.setdefault((split_name, image.path), image)
        if first is not image:
            first.objects += image.objects
            source.findings.add("image_listed_twice", entry.file, entry.where, image.file_name)
    by_split: dict[str, list[RawImage]] = {}
    for (split_name, _), image in by_image.items():
        by_split.setdefault(split_name, []).append(image)
    if not by_split:
        raise DataError(
            f"expected images with labels in the files of {title} in {source.root}, found none that can be used"
            + source.findings.reasons()
        )
    kept = source.fold_splits(by_split, lambda image: [image.path])
    everything = [image for images in kept.values() for image in images]
    _fill_in_sizes([image for image in everything if not image.width or not image.height])
    bare = sum(not image.objects for image in everything)
    if bare and bare < len(everything):
        source.notes.append(f"{bare} of {len(everything)} images have no object; they are used as such")
    categories = number_classes(everything, order)
    return {name: RawSplit(name, images, categories, "xyxy", str(source.root)) for name, images in kept.items()}


def _find(listed: Sequence[ListedImage], source: Source) -> list[Match | None]:
    """The file of each image; None for a record without a name."""
    groups: dict[tuple[Path, str], dict[str, None]] = {}
    for entry in listed:
        if entry.name:
            groups.setdefault((entry.file, entry.split_name), {})[entry.name] = None
    found: dict[tuple[Path, str], dict[str, Match]] = {}
    for (file, split_name), names in groups.items():
        folders = [*source.named_folders(split_name), file.parent, file.parent / "images", source.root]
        found[file, split_name] = source.finder.find(names, folders, split_name=split_name)
    return [found[e.file, e.split_name][e.name] if e.name else None for e in listed]


def _make_image(entry: ListedImage, match: Match | None, source: Source, fault_kind: str) -> RawImage | None:
    """Make the raw image; None, with a finding, if it cannot be used."""
    if match is not None and match.how == "ambiguous":
        rivals = first_names(("/".join(source.index.relative(path)) for path in match.rivals), 4)
        source.findings.add("image_ambiguous", entry.file, entry.where, rivals, len(entry.objects))
        return None
    path = source.root if match is None else match.path
    if entry.fault or match is None:
        source.findings.add(fault_kind, entry.file, entry.where, entry.fault or "no image is named")
        source.use(path)
        return None
    if entry.regions and not entry.objects:
        source.findings.add("image_shapes_unusable", path, detail=f"{entry.regions} regions")
        source.use(path)
        return None
    if match.how == "other_ending":
        source.findings.add("image_other_ending", entry.file, entry.where, f"found {path.name}")
    elif match.how == "moved" and tidy_name(entry.name)[1]:
        source.findings.add("image_moved", entry.file, entry.where, f"{entry.name!r}, found {path}")
    name = "/".join(source.index.relative(path)) if path.is_relative_to(source.root) else path.name
    return RawImage(None, path, name, entry.height, entry.width, entry.objects, str(entry.file), entry.where)


def _split_of(file: Path, image: Path, source: Source) -> str:
    for split_name, folder in source.image_dirs.items():
        if folder is not None and image.is_relative_to(folder):
            return split_name
    return split_of_parts(source.index.relative(file)[:-1]) or split_of_parts(source.index.relative(image)[:-1])


def _fill_in_sizes(images: Sequence[RawImage]) -> None:
    """Set sizes that the files do not state. Browsers show images upright, so coordinates refer to that."""
    for image, info in zip(images, probe_images([image.path for image in images]), strict=True):
        if not info.problem:
            image.width, image.height = info.upright
