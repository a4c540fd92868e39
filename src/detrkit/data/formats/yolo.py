"""YOLO labels: one text file per image.

Supported are the layouts of Ultralytics (`data.yaml`) and Darknet (`obj.data`, `obj.names`, lists of images), the
exports of CVAT, LabelImg, Label Studio and Roboflow, and any folder of images with such text files. An image without a
text file has no objects, as in the tools of the format. See `yolo_lines` for the lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from detrkit.data.files.encodings import read_text
from detrkit.data.files.pairing import Pairs, pair
from detrkit.data.files.source import Source
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.yolo_layout import Layout, describe_layout, describe_unpaired, find_layout, label_pairs
from detrkit.data.formats.yolo_lines import as_ids, parse_line
from detrkit.data.formats.yolo_points import WideRow, resolve_key_points
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.ops.text import first_names
from detrkit.structures import Categories


def detect_yolo(source: Source) -> str:
    """Name the YOLO files that are there, for messages; empty if there are none."""
    return source.options.file.name if source.options.file else describe_layout(source.index)


def explain_yolo(source: Source) -> str:
    """Say why files that look like YOLO labels cannot be loaded; empty if there are no such files."""
    return describe_unpaired(source.index)


def load_yolo(source: Source) -> dict[str, RawSplit]:
    """Load a data set with a `data.yaml`, with Darknet's files, or of images and labels alone.

    Args:
        source: files of the data set; takes findings and notes.

    Raises:
        DataError: a yaml file does not parse, or no image is at the path in the file.
    """
    layout = find_layout(source, source.options.file)
    if not any(layout.images.values()):
        raise DataError(f"expected images of a YOLO data set for train or val in {layout.source}, found none")
    labels = _labels(source, layout)
    ids = as_ids(layout.names or {})
    splits: dict[str, list[RawImage]] = {}
    read: dict[Path, tuple[list[RawObject], bool]] = {}
    wide: list[WideRow] = []
    for split_name in ("train", "val"):
        images = layout.images.get(split_name)
        if not images:
            continue
        base = _common_folder(images)
        splits[split_name] = []
        for number, path in enumerate(images, start=1):
            label = labels.get(path)
            if label is not None and label not in read:
                read[label] = _read_labels(label, path, source.findings, layout.key_points or 0, ids, wide)
            objects, broken = read[label] if label is not None else ([], False)
            if broken:
                source.use(path)  # with a label lost, the image would train the object as background
                continue
            name = str(path)[len(base) :].replace(os.sep, "/")
            splits[split_name].append(RawImage(number, path, name, None, None, list(objects), str(label or path)))
    if layout.key_points is None:
        resolve_key_points(wide, layout.source, source.findings)
    names = layout.names or _numbered(splits.values(), source.notes)
    categories = Categories(tuple(names), tuple(names.values()))
    return {
        split_name: RawSplit(split_name, split_images, categories, "relative", str(layout.source))
        for split_name, split_images in splits.items()
    }


def _labels(source: Source, layout: Layout) -> dict[Path, Path]:
    """Return image -> label file, and report labels and images that could not be paired."""
    images = list(dict.fromkeys(path for some in layout.images.values() for path in some))
    inside = [path for path in images if source.index.is_below_root(path)]
    # pair all images of the data set, so that labels of unused images are not reported as labels without image
    if source.index.image_set.issuperset(inside):
        pairs = label_pairs(source.index)
    else:
        pairs = pair(source.index, layout.labels, dict.fromkeys((*inside, *source.index.images)))
    labels = dict(pairs.file_of)
    for path in set(images) - set(inside):
        if (file := _label_outside(path)) is not None:
            labels[path] = file
    chosen = set(images)
    for file, shared in pairs.shared.items():
        if len(both := [path for path in shared if path in chosen]) > 1:
            names = ", ".join(path.name for path in both)
            source.findings.add("label_shared", file, detail=names)
    for file, preferred in pairs.doubled.items():
        source.leave_out([file], f"{preferred} is used for the same image")
    for file in pairs.alone:
        source.findings.add("label_without_image", file)
    unsure = _leave_ambiguous(source, pairs)
    for some in layout.images.values():
        some[:] = [path for path in some if path not in unsure]
    # a listed image that does not exist gets its own finding later
    without = [p for p in images if p not in labels and p not in unsure and source.index.holds(str(p))]
    if without and 2 * len(without) < len(images):
        for path in without:
            source.findings.add("image_without_label", path)
    elif without:
        source.notes.append(
            f"{len(without)} of {len(images)} images have no label file and are used as images without objects; labels "
            f"are searched in folders labels/ and beside images, as {_expected(without[0])}"
        )
    return labels


def _leave_ambiguous(source: Source, pairs: Pairs) -> set[Path]:
    """Report label files that may belong to several images, and return these images, whose objects are unknown."""
    for file, rivals in pairs.ambiguous.items():
        names = first_names("/".join(source.index.relative(path)) for path in rivals)
        source.findings.add("label_ambiguous", file, detail=names)
    unsure = {path for rivals in pairs.ambiguous.values() for path in rivals}
    source.use(*unsure)
    return unsure


def _label_outside(image: Path) -> Path | None:
    """Label file of an image outside of the data set: under labels/ instead of images/, else beside the image."""
    candidates = (_expected(image), image.with_suffix(".txt"))
    # a broken link does not mean that the image has no objects
    return next((path for path in candidates if path.is_file() or path.is_symlink()), None)


def _expected(image: Path) -> Path:
    """The usual label file of an image: with `labels` in place of the last `images` of its path."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_labels(
    path: Path, image: Path, findings: Findings, key_points: int, ids: dict[str, int], wide: list[WideRow]
) -> tuple[list[RawObject], bool]:
    """Read a label file; return its objects, and whether a line could not be read. `wide` takes ambiguous rows."""
    try:
        lines = read_text(path, findings).splitlines()
    except DataError as error:
        findings.add("txt_malformed", path, detail=f"{error}; image {image.name}")
        return [], True
    objects: list[RawObject] = []
    broken = False
    extras: set[str] = set()
    for row, text in enumerate(lines, start=1):
        line = parse_line(text, key_points=key_points, ids=ids)
        if line is None:
            continue
        if isinstance(line, str):
            findings.add("txt_malformed", path, f"line {row}", f"{line}; image {image.name}")
            broken = True
            continue
        if line.extra and line.extra not in extras:
            extras.add(line.extra)
            findings.add("label_extra_columns", path, f"line {row}", line.extra)
        polygon = [line.polygon] if line.polygon else None
        objects.append(RawObject(None, line.category, line.box, None, False, polygon, f"line {row}"))
        if line.wide is not None:
            wide.append(WideRow(objects[-1], line.wide, path))
    return objects, broken


def _numbered(splits: Iterable[list[RawImage]], notes: list[str]) -> dict[int, str]:
    """Name classes by their numbers, if no file names them."""
    classes = {o.category for split_images in splits for image in split_images for o in image.objects}
    count = min(max((c for c in classes if isinstance(c, int)), default=-1) + 1, 10_000)
    called = f"they are called 0 to {count - 1}" if count else "there are no objects either"
    notes.append(f"the classes have no names (no data.yaml, no classes.txt); {called}")
    return {index: str(index) for index in range(count)}


def _common_folder(images: list[Path]) -> str:
    """The deepest common folder of the images, with a separator at its end; file names are relative to it."""
    folders = {os.path.dirname(path) for path in map(str, images)}  # noqa: PTH120 - text is faster than Path
    if len({os.path.isabs(folder) for folder in folders}) > 1:  # noqa: PTH117
        return ""
    shared = os.path.commonpath(folders)
    return shared.rstrip(os.sep) + os.sep if shared else ""
