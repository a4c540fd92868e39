"""labelme annotations, which AnyLabeling and X-AnyLabeling write as well: one json file per image.

The json file lies beside its image or in another folder. Its image is the one beside it of the same name, else the one
that `imagePath` names, else one of the same name elsewhere. Polygons with the same label and `group_id` are one object.
Points and lines enclose no area and are no objects. An image without a json file counts as unlabeled.
"""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detrkit.data.files.class_names import name_files, read_names
from detrkit.data.files.encodings import read_json
from detrkit.data.files.image_finder import Match, tidy_name
from detrkit.data.files.sampling import head_of, sample_of
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.shapes import (
    Points,
    UnreadableError,
    bounding_box,
    ellipse_polygon,
    flatten,
    number_classes,
    points_of,
    printable,
)
from detrkit.errors import DataError
from detrkit.ops.text import first_names

_OUTLINES = {"polygon", "rotation", "quadrilateral", "oriented_rectangle"}
_TURNED = {"rotation", "quadrilateral", "oriented_rectangle"}
_NO_CLASSES = {"__ignore__", "_background_"}


@dataclass
class _File:
    """The needed content of a json file."""

    path: Path
    image_path: str = ""
    height: Any = None
    width: Any = None
    embedded: bool = False
    """Whether the file contains the image itself (`imageData`)."""
    shapes: list[Any] = field(default_factory=list)
    fault: str = ""
    """Why the file cannot be read, or empty."""


def detect_labelme(source: Source) -> str:
    """Name a labelme json file, for messages; empty if there is none."""
    files = source.index.with_suffix(".json")
    example = next((path for path in sample_of(files) if _looks_like_labelme(path)), None)
    return "" if example is None else f"json files such as {'/'.join(source.index.relative(example))}"


def load_labelme(source: Source) -> dict[str, RawSplit]:
    """Load all labelme json files.

    Classes are numbered in the order of a labels.txt or classes.txt, if there is one, else alphabetically.

    Raises:
        DataError: no file can be read, or the images exist only inside the json files.
    """
    index = source.index
    paths = index.unique_files(index.with_suffix(".json"))
    files = [_load(p, source) for p in paths if p.stem in index.image_stems or _looks_like_labelme(p, shapes=False)]
    matches = _match_images(files, source)
    by_split: dict[str, list[tuple[_File, RawImage]]] = {}
    label_files: dict[Path, Path] = {}
    embedded = 0
    for file in files:
        image = _make_image(file, matches[file.path], label_files, source)
        if image is None:
            continue
        if file.embedded and matches[file.path].how == "absent":
            source.findings.add("image_embedded", file.path, dropped_objects=len(image.objects))
            embedded += 1
            continue
        by_split.setdefault(_split_of(file.path, image.path, source), []).append((file, image))
    if not by_split:
        _raise_nothing_usable(source, embedded)
    _note_the_unlabeled(set(label_files), source)
    kept = source.fold_splits(by_split, lambda pair: [pair[0].path, pair[1].path])
    images = {split_name: [image for _, image in pairs] for split_name, pairs in kept.items()}
    everything = [image for split_images in images.values() for image in split_images]
    categories = number_classes(everything, _class_order(everything, source))
    return {
        split_name: RawSplit(split_name, split_images, categories, "xyxy", str(source.root))
        for split_name, split_images in images.items()
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _looks_like_labelme(path: Path, *, shapes: bool = True) -> bool:
    """Whether a file has the keys of labelme; with `shapes`, the key of its shapes is required too."""
    some = head_of(path, tail=True)  # base64 image data may lie between the first and the last keys
    if shapes and not re.search(rb'"shapes"\s*:\s*\[|"shape_type"\s*:', some):
        return False
    return bool(re.search(rb'"(imagePath|imageData|imageHeight)"\s*:', some))


def _load(path: Path, source: Source) -> _File:
    try:
        content = read_json(path, source.findings)
    except DataError as error:
        return _File(path, fault=str(error).splitlines()[0][:120])
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return _File(path, fault="no list of shapes")
    named = content.get("imagePath")
    return _File(
        path,
        printable(named) if isinstance(named, str) and "\0" not in named else "",
        content.get("imageHeight"),
        content.get("imageWidth"),
        bool(content.get("imageData")),
        content["shapes"],
    )


def _match_images(files: list[_File], source: Source) -> dict[Path, Match]:
    """Match each json file to its image."""
    index = source.index
    given = source.named_folders("")
    beside: dict[tuple[Path, str], list[Path]] = {}
    for image in [] if given else index.images:
        beside.setdefault((image.parent, image.stem), []).append(image)
    matches: dict[Path, Match] = {}
    others: list[Path] = []
    lost: dict[Path, list[_File]] = {}
    for file in files:
        fits = beside.get((file.path.parent, file.path.stem), [])
        named = Path(tidy_name(file.image_path)[0])
        exact = [image for image in fits if image.name == named.name] or fits
        if len(exact) != 1:
            lost.setdefault(file.path.parent, []).append(file)
            continue
        matches[file.path] = Match(exact[0], "/".join(index.relative(exact[0])), "exact")
        if file.image_path and named.name != exact[0].name:
            if named.stem == exact[0].stem:
                source.findings.add(
                    "image_other_ending", file.path, "imagePath", f"{named.name}, found {exact[0].name}"
                )
            else:
                others.append(file.path)
    if others:
        source.notes.append(
            f"{len(others)} json files ({others[0].name} first) name another image in imagePath than the one of their "
            "own name beside them; the one beside them is taken"
        )
    for folder, some in lost.items():
        ancestors = [p for p in (folder, *folder.parents) if p.is_relative_to(source.root)]
        folders = [*source.named_folders(split_of_parts(index.relative(folder))), source.root, *ancestors]
        by_path = {file.path: _name(file, source, bool(given)) for file in some}
        written = {file.path: file.image_path for file in some}
        by_name = source.finder.find(by_path.values(), folders)
        own = {p: _own_name(p, by_path[p], source, bool(given)) for p in by_path if by_name[by_path[p]].how == "absent"}
        again = source.finder.find(own.values(), folders)
        for path, name in by_path.items():
            second = again[own[path]] if path in own else None
            matches[path] = second if second and second.how != "absent" else by_name[name]
            if matches[path].how == "other_ending":
                source.findings.add("image_other_ending", path, "imagePath", f"{name}, found {matches[path].path.name}")
            elif matches[path].how == "moved" and PurePosixPath(tidy_name(written[path])[0]).parent.parts:
                source.findings.add("image_moved", path, "imagePath", f"{written[path]}, found {matches[path].path}")
    return matches


def _name(file: _File, source: Source, bare: bool) -> str:
    """Convert `imagePath`, which is relative to the json file, to a name relative to the data set."""
    tidy, leaves = tidy_name(file.image_path)
    if not file.image_path or tidy == ".":
        return _own_name(file.path, "x.jpg", source, bare)
    written = file.image_path.replace("\\", "/")
    if bare or (leaves and not written.startswith("..")):
        return tidy
    whole = os.path.normpath("/".join([*source.index.relative(file.path.parent), written]))
    return tidy if whole.startswith(("..", "/")) else whole


def _own_name(path: Path, like: str, source: Source, bare: bool) -> str:
    """Name of the image that is called like the json file, with the ending of `like`."""
    name = path.stem + (Path(like).suffix or ".jpg")
    return name if bare else "/".join([*source.index.relative(path.parent), name])


def _make_image(file: _File, match: Match, label_files: dict[Path, Path], source: Source) -> RawImage | None:
    """Make the raw image with its objects; None, with a finding, if it cannot be used."""
    findings = source.findings
    if match.how == "ambiguous":
        rivals = first_names(("/".join(source.index.relative(path)) for path in match.rivals), 4)
        findings.add("image_ambiguous", file.path, "imagePath", f"{match.name}: {rivals}", len(file.shapes))
        return None
    if file.fault:
        findings.add("json_malformed", file.path, detail=f"{file.fault}; image {match.path.name}")
        if match.how != "absent":
            label_files.setdefault(match.path, file.path)
            source.use(match.path)
        return None
    if match.path in label_files:
        other = "/".join(source.index.relative(label_files[match.path]))
        source.leave_out([file.path], f"its image {match.name} has its labels from {other}")
        return None
    label_files[match.path] = file.path
    image = RawImage(None, match.path, match.name, file.height, file.width, [], file=str(file.path))
    try:
        image.objects = _make_objects(file, source)
    except UnreadableError as error:
        where, _, detail = str(error).partition(": ")
        findings.add("json_malformed", file.path, where, f"{detail}; image {match.path.name}")
        source.use(match.path)
        return None
    if file.shapes and not image.objects:
        findings.add("image_shapes_unusable", match.path, detail=f"{len(file.shapes)} shapes in {file.path.name}")
        source.use(file.path)
        return None
    return image


def _split_of(file: Path, image: Path, source: Source) -> str:
    for split_name, folder in source.image_dirs.items():
        if folder is not None and image.is_relative_to(folder):
            return split_name
    relative = source.index.relative
    return split_of_parts(relative(file)[:-1]) or split_of_parts(relative(image)[:-1])


def _raise_nothing_usable(source: Source, embedded: int) -> None:
    if embedded:
        raise DataError(
            f"expected the images of labelme json files in {source.root}, found the images of {embedded} only inside "
            "them (imageData); write them as files of the same names beside the json files (labelme_export_json does)"
        )
    raise DataError(
        f"expected labelme json files with images in {source.root}, found none that can be used"
        + source.findings.reasons()
    )


def _note_the_unlabeled(labeled: set[Path], source: Source) -> None:
    """Report images without a json file in folders where others have one: they may hold objects."""
    folders = {path.parent for path in labeled}
    known = source.index.with_linked_paths(map(str, labeled))
    for image in source.index.images:
        if image.parent in folders and str(image) not in known:
            source.findings.add("image_unlabeled", image, detail="no json file")


def _class_order(images: list[RawImage], source: Source) -> list[str]:
    """Class names in the order of a list beside the data, if such a list names any of the classes."""
    names = {raw.category for image in images for raw in image.objects if raw.category}
    for path in sorted(name_files(source.index), key=lambda p: len(p.parts)):
        try:
            order = [printable(line) for line in read_names(path).values() if line not in _NO_CLASSES]
        except DataError:
            continue
        if names & set(order):
            source.use(path)
            rest = sorted(names - set(order))
            where = "/".join(source.index.relative(path))
            added = f"; {first_names(rest)} are not in it and come last" if rest else ""
            source.notes.append(f"the classes have the order of {where}{added}")
            return order
    return []


# --- shapes ----------------------------------------------------------------------------------------------------------


def _make_objects(file: _File, source: Source) -> list[RawObject]:
    """Make the objects of a file.

    Raises:
        UnreadableError: a shape cannot be understood, so that the image may hold objects that are not known.
    """
    objects: list[RawObject] = []
    groups: dict[tuple[str, str], RawObject] = {}
    for k, shape in enumerate(file.shapes):
        where = f"shapes[{k}]"
        points = points_of(shape.get("points")) if isinstance(shape, dict) else None
        if points is None:
            raise UnreadableError(f"{where}: expected a label and points, found {shape!r}"[:120])
        if any(isinstance(value, str) for pair in shape["points"] for value in pair):
            source.findings.add("number_as_text", file.path, where, "points")
        kind = shape.get("shape_type") or "polygon"
        shape_outline = _box_and_polygon(kind, points, shape, file, where, source)
        if shape_outline is None:
            source.findings.add("shape_no_object", file.path, where, f"shape type {kind!r}")
            continue
        box, outline = shape_outline
        flags = shape.get("flags")
        source.add_attributes({"description": shape.get("description")} | (flags if isinstance(flags, dict) else {}))
        label = printable(shape.get("label"))
        group = shape.get("group_id")
        first = groups.get((label, repr(group))) if kind == "polygon" and group is not None else None
        if first is not None:
            first.box = bounding_box([(first.box[0], first.box[1]), (first.box[2], first.box[3]), *points])
            first.segmentation += outline
            continue
        made = RawObject(None, label or None, box, None, shape.get("difficult") in (1, "1", "true"), outline, where)
        objects.append(made)
        if kind == "polygon" and group is not None:
            groups[label, repr(group)] = made
    return objects


def _box_and_polygon(
    kind: Any, points: Points, shape: dict[str, Any], file: _File, where: str, source: Source
) -> tuple[list[float], Any] | None:
    """Box (x1, y1, x2, y2) and segmentation of a shape; None if it is no object, such as a point."""
    if kind == "rectangle":
        return bounding_box(points), None
    if kind == "circle" and len(points) >= 2:
        (cx, cy), (x, y) = points[:2]
        radius = hypot(x - cx, y - cy)
        box, ring = ellipse_polygon(cx, cy, radius, radius)
        return box, [flatten(ring)]
    if kind == "mask":
        box, outline, fault = _decode_mask(shape.get("mask"), bounding_box(points))
        if fault:
            source.findings.add("segmentation_malformed", file.path, where, fault)
        return box, outline
    if isinstance(kind, str) and kind in _OUTLINES:
        note = "rotated boxes are read as the upright boxes around them, with their corners as polygon"
        if kind in _TURNED and note not in source.notes:
            source.notes.append(note)
        return bounding_box(points), [flatten(points)]
    return None


def _decode_mask(text: Any, corners: list[float]) -> tuple[list[float], Any, str]:
    """Decode a base64 PNG mask that spans two corners; return its box, its polygons, and an error text or empty."""
    import torch
    from PIL import Image

    from detrkit.ops.masks import polygons_from_mask

    x1, y1, x2, y2 = corners
    box = [x1, y1, x2 + 1, y2 + 1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about large images: the size is compared at once
            with Image.open(io.BytesIO(base64.b64decode(text))) as image:
                if abs(image.width - (x2 - x1 + 1)) > 1 or abs(image.height - (y2 - y1 + 1)) > 1:
                    return box, None, f"a mask of {image.width} x {image.height} pixels between other corners"
                pixels = torch.from_numpy(np.array(image.convert("L")) > 0)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        return box, None, f"a mask that is no PNG ({error})"[:120]
    shift = np.array([round(x1), round(y1)], float)
    polygons = [(np.array(ring).reshape(-1, 2) + shift) for ring in polygons_from_mask(pixels, tolerance=0)]
    if not polygons:
        return box, None, "a mask without pixels"
    whole = np.concatenate(polygons)
    tight = [*whole.min(0).tolist(), *whole.max(0).tolist()]
    return tight, [ring.flatten().tolist() for ring in polygons], ""
