"""CVAT for images 1.1, the own export of CVAT: `annotations.xml` with all images, and the images where they were saved.

Format: docs.cvat.ai/docs/manual/advanced/xml_format. Boxes, polygons, ellipses and masks are objects; points, lines,
cuboids, skeletons and tags are none. Attributes and groups are not used. Projects state the split of an image (subset).
"""

from __future__ import annotations

import re
from math import radians
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from detrkit.data.files.sampling import head_of, sample_of
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name
from detrkit.data.files.xml_files import read_xml
from detrkit.data.formats.listed_images import ListedImage, make_splits
from detrkit.data.formats.raw import RawObject, RawSplit
from detrkit.data.formats.shapes import (
    Points,
    UnreadableError,
    bounding_box,
    ellipse_polygon,
    flatten,
    number,
    printable,
)
from detrkit.errors import DataError
from detrkit.ops.masks import encode_patch

_ROOT = re.compile(rb"<annotations[\s>]")
_CONTENT = re.compile(rb"<(image|track|meta|version)[\s>]")


def detect_cvat(source: Source) -> str:
    """Name a file of CVAT for images, for messages; empty if there is none."""
    example = next((path for path in sample_of(source.index.with_suffix(".xml")) if _is_cvat(path)), None)
    return "" if example is None else "/".join(source.index.relative(example))


def load_cvat(source: Source) -> dict[str, RawSplit]:
    """Load all files of CVAT for images, with classes in the order of the project's labels.

    Raises:
        DataError: a file cannot be read, is of CVAT for video, or no image can be used.
    """
    listed: list[ListedImage] = []
    order: dict[str, None] = {}
    for path in source.index.unique_files(p for p in source.index.with_suffix(".xml") if _is_cvat(p)):
        try:
            tree = read_xml(path, source.findings)
        except (ET.ParseError, ValueError, LookupError) as error:
            raise DataError(f"expected XML of CVAT in {path}, found a mistake: {error}; export it again") from None
        if tree.find("track") is not None:
            raise DataError(
                f"expected CVAT for images 1.1 in {path}, found tracks of CVAT for video; export the task as "
                '"CVAT for images 1.1" or "COCO 1.0", with "Save images" ticked'
            )
        order |= dict.fromkeys(_labels(tree))
        listed += [_read_image(element, path, source) for element in tree.iter("image")]
        source.use(path)
    return make_splits(listed, source, "CVAT for images", "xml_malformed", list(order))


def _is_cvat(path: Path) -> bool:
    head = head_of(path)
    return bool(_ROOT.search(head) and _CONTENT.search(head))


def _labels(tree: ET.Element) -> list[str]:
    """The labels of the project or task, in their order; those of the points of skeletons are left out."""
    labels = (label for label in tree.iterfind("meta//labels/label") if not (label.findtext("parent") or "").strip())
    return [name for label in labels if (name := printable(label.findtext("name") or ""))]


def _read_image(element: ET.Element, path: Path, source: Source) -> ListedImage:
    name = element.get("name") or ""
    image = ListedImage(
        path,
        f"image {element.get('id', '?')}",
        printable(name) if "\0" not in name else "",
        number(element.get("width")),
        number(element.get("height")),
        split_of_name(element.get("subset") or ""),
        regions=len(element),
    )
    for k, shape in enumerate(element, start=1):
        where = f"{image.where}, {shape.tag} {k}"
        try:
            place = _place(shape, image)
        except UnreadableError as error:
            image.fault = f"{shape.tag} {k}: {error}"
            break
        if place is None:
            source.findings.add("shape_no_object", path, where, f"shape {shape.tag!r}")
            continue
        box, outline = place
        rotation = (number(shape.get("rotation")) or 0.0) if shape.tag == "box" else 0.0
        label = printable(shape.get("label") or "") or None
        flags = {"occluded": shape.get("occluded"), "group": shape.get("group_id")}
        source.add_attributes(flags | {row.get("name"): row.text for row in shape.iter("attribute")})
        image.objects.append(RawObject(None, label, box, None, False, outline, where, rotation))
    return image


def _place(shape: ET.Element, image: ListedImage) -> tuple[list[float], Any] | None:
    """Box (x1, y1, x2, y2) and segmentation of a shape; None if it is no object, such as a point.

    Raises:
        UnreadableError: numbers are missing, so that the image may hold objects that are not known.
    """
    if shape.tag == "box":
        return _numbers(shape, "xtl", "ytl", "xbr", "ybr"), None
    if shape.tag == "polygon":
        points = _points(shape.get("points") or "")
        return bounding_box(points), [flatten(points)]
    if shape.tag == "ellipse":
        cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
        box, ring = ellipse_polygon(cx, cy, rx, ry, radians(number(shape.get("rotation")) or 0.0))
        return box, [flatten(ring)]
    if shape.tag == "mask":
        return _mask(shape, image)
    return None


def _mask(shape: ET.Element, image: ListedImage) -> tuple[list[float], Any]:
    """The run lengths of a mask, row by row inside its box, beginning with the pixels outside of it."""
    left, top, width, height = (int(value) for value in _numbers(shape, "left", "top", "width", "height"))
    runs = [int(run) for run in re.findall(r"\d+", shape.get("rle") or "")]
    if not image.width or not image.height:
        raise UnreadableError("expected the width and the height of the image of a mask")
    if min(left, top) < 0 or left + width > image.width or top + height > image.height or min(width, height) < 1:
        raise UnreadableError(f"expected a mask inside the image, found {width} x {height} pixels at {left}, {top}")
    if sum(runs) != width * height:
        raise UnreadableError(f"expected the run lengths of {width} x {height} pixels, found {sum(runs)}")
    patch = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    outline = encode_patch(patch, top, left, int(image.height), int(image.width))
    return [float(left), float(top), float(left + width), float(top + height)], outline


def _points(text: str) -> Points:
    points: Points = []
    for pair in filter(None, text.split(";")):
        x, _, y = pair.partition(",")
        px, py = number(x), number(y)
        if px is None or py is None:
            raise UnreadableError(f"expected points x,y;x,y;..., found {pair!r}"[:120])
        points.append((px, py))
    if not points:
        raise UnreadableError("expected points, found none")
    return points


def _numbers(shape: ET.Element, *keys: str) -> list[float]:
    finite = [value for key in keys if (value := number(shape.get(key))) is not None]
    if len(finite) < len(keys):
        raise UnreadableError(f"expected numbers for {', '.join(keys)}")
    return finite
