"""Read YOLO labels: one text file per image, into RawSplits.

Read are the folders of Ultralytics (`data.yaml`), Darknet (`obj.data`, `obj.names`, lists of images), the exports of
CVAT, LabelImg, Label Studio and Roboflow, and any folder of images with such text files. An image without a text file
has no objects, as the format's tools hold it. Lines: see `yolo_lines`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from detrkit.data.files.encodings import read_text
from detrkit.data.files.pairing import Pairs, pair
from detrkit.data.files.source import Source
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.yolo_layout import Layout, describe_layout, describe_unmet, find_layout, label_pairs
from detrkit.data.formats.yolo_lines import as_ids, parse_line
from detrkit.data.formats.yolo_points import WideRow, settle_points
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.structures import Categories


def detect_yolo(source: Source) -> str:
    """Describe the YOLO data set that is there (`data.yaml`, text files of labels); empty if there is none."""
    return source.options.file.name if source.options.file else describe_layout(source.index)


def explain_yolo(source: Source) -> str:
    """Say why files that look like YOLO labels cannot be loaded; empty if there are none."""
    return describe_unmet(source.index)


def load_yolo(source: Source) -> dict[str, RawSplit]:
    """Load a data set with a `data.yaml`, with Darknet's files, or of images and labels alone.

    Args:
        source: its files; takes findings and notes.

    Raises:
        DataError: a yaml file cannot be read as one, or no image is where it says.
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
                source.use(path)  # an image of which a label was lost would teach that nothing is there
                continue
            name = str(path)[len(base) :].replace(os.sep, "/")
            splits[split_name].append(RawImage(number, path, name, None, None, list(objects), str(label or path)))
    if layout.key_points is None:
        settle_points(wide, layout.source, source.findings)
    names = layout.names or _numbered(splits.values(), source.notes)
    categories = Categories(tuple(names), tuple(names.values()))
    return {
        split_name: RawSplit(split_name, split_images, categories, "relative", str(layout.source))
        for split_name, split_images in splits.items()
    }


def _labels(source: Source, layout: Layout) -> dict[Path, Path]:
    """Image -> label file; what does not meet is noted."""
    images = list(dict.fromkeys(path for some in layout.images.values() for path in some))
    inside = [path for path in images if source.index.holds_below(path)]
    # all images of the data set, so that the labels of images that are not used are not taken for lost ones
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
        source.leave([file], f"{preferred} is used for the same image")
    for file in pairs.alone:
        source.findings.add("label_without_image", file)
    unsure = _leave_ambiguous(source, pairs)
    for some in layout.images.values():
        some[:] = [path for path in some if path not in unsure]
    # a listed image that is not there is told of as such
    without = [p for p in images if p not in labels and p not in unsure and source.index.holds(str(p))]
    if without and 2 * len(without) < len(images):
        for path in without:
            source.findings.add("image_without_label", path)
    elif without:
        looked = f"; labels are looked for in folders labels/ and beside images, as {_expected(without[0])}"
        source.notes.append(
            f"{len(without)} of {len(images)} images have no label file and count as images without objects{looked}"
        )
    return labels


def _leave_ambiguous(source: Source, pairs: Pairs) -> set[Path]:
    """Images that may belong to a label file which may be another's: nobody knows what is on them."""
    for file, rivals in pairs.ambiguous.items():
        names = ", ".join("/".join(source.index.relative(path)) for path in rivals[:5])
        more = f" and {len(rivals) - 5} more" if len(rivals) > 5 else ""
        source.findings.add("label_ambiguous", file, detail=f"{names}{more}")
    unsure = {path for rivals in pairs.ambiguous.values() for path in rivals}
    source.use(*unsure)
    return unsure


def _label_outside(image: Path) -> Path | None:
    """The label file of an image outside of the data set's folder: under labels/ instead of images/, else beside it."""
    places = (_expected(image), image.with_suffix(".txt"))
    # a link to what is not there is no sign that nothing is on the image
    return next((path for path in places if path.is_file() or path.is_symlink()), None)


def _expected(image: Path) -> Path:
    """Where the labels of an image usually lie: under `labels` instead of the last `images` of its path."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_labels(
    path: Path, image: Path, findings: Findings, key_points: int, ids: dict[str, int], wide: list[WideRow]
) -> tuple[list[RawObject], bool]:
    """The objects of the label file of an image, and whether a line of it could not be read; `wide` takes rows."""
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
    """Names for classes that have none: their numbers."""
    found = {o.category for split_images in splits for image in split_images for o in image.objects}
    count = min(max((c for c in found if isinstance(c, int)), default=-1) + 1, 10_000)
    called = f"they are called 0 to {count - 1}" if count else "there are no objects either"
    notes.append(f"the classes have no names (no data.yaml, no classes.txt); {called}")
    return {index: str(index) for index in range(count)}


def _common_folder(images: list[Path]) -> str:
    """The deepest folder above all of them, to cut off: file names are relative to it."""
    folders = {os.path.dirname(path) for path in map(str, images)}  # noqa: PTH120 - text, a hundred thousand times
    if len({os.path.isabs(folder) for folder in folders}) > 1:  # noqa: PTH117
        return ""
    shared = os.path.commonpath(folders)
    return shared.rstrip(os.sep) + os.sep if shared else ""
