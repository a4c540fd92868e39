"""Label Studio's own exports, JSON and JSON-MIN: one file with all tasks, and the images where they were saved.

Format: labelstud.io/guide/export. Rectangles, polygons, ellipses and brush masks are objects; key points and answers to
questions are none. Of several annotations of a task one is used: the ground truth if one is marked so, else the one
that was changed last. Predictions and canceled annotations are not used.
"""

from __future__ import annotations

import re
from math import cos, radians, sin
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.files.encodings import read_json
from detrkit.data.files.image_finder import tidy_name
from detrkit.data.files.sampling import head_of, sample_of
from detrkit.data.files.source import Source
from detrkit.data.formats.listed_images import ListedImage, make_splits
from detrkit.data.formats.raw import IMAGE_SUFFIXES, RawObject, RawSplit
from detrkit.data.formats.shapes import (
    Points,
    UnreadableError,
    bounding_box,
    ellipse_polygon,
    flatten,
    number,
    points_of,
    printable,
)
from detrkit.errors import DataError
from detrkit.ops.masks import encode_rle

_MIN = re.compile(rb'"(rectangle|polygon|ellipse|brush)labels"\s*:')
_FULL = (
    re.compile(rb'"result"\s*:\s*\['),
    re.compile(rb'"(completed_by|original_width|from_name|was_cancell?ed)"\s*:'),
)
_MOST_VALUES = 1 << 30
"""Most values of a packed mask, 4 per pixel."""


def detect_label_studio(source: Source) -> str:
    """Name an export of Label Studio, for messages; empty if there is none."""
    files = source.index.with_suffix(".json")
    example = next((path for path in sample_of(files) if _is_label_studio(path)), None)
    return "" if example is None else "/".join(source.index.relative(example))


def load_label_studio(source: Source) -> dict[str, RawSplit]:
    """Load all exports of Label Studio, with classes in alphabetical order.

    Raises:
        DataError: a file cannot be read, or no image can be used.
    """
    listed: list[ListedImage] = []
    several = unlabeled = 0
    seen: dict[tuple[Path, Any], None] = {}
    for path in source.index.unique_files(p for p in source.index.with_suffix(".json") if _is_label_studio(p)):
        content = read_json(path, source.findings)
        rows = content if isinstance(content, list) else [content]
        if not all(isinstance(row, dict) for row in rows):
            raise DataError(f"expected tasks of Label Studio in {path}, found {rows!r}"[:300])
        for k, row in enumerate(rows):
            image = ListedImage(path, f"task {row.get('id', k)}", _image_name(row))
            if "data" not in row:  # JSON-MIN: a row per annotation
                if (path, row.get("id", k)) in seen:
                    several += 1
                    continue
                seen[path, row.get("id", k)] = None
                regions = [region for value in row.values() if isinstance(value, list) for region in value]
                regions = [{"value": region, **region} for region in regions if isinstance(region, dict)]
            else:
                annotations = [a for a in _list(row.get("annotations")) if not a.get("was_cancelled")]
                several += max(0, len(annotations) - 1)
                if not annotations:
                    unlabeled += 1
                    source.leave_out(_file_of(image, source), "no annotation of its task was submitted")
                    continue
                regions = _list(_chosen(annotations).get("result"))
            _read_regions(image, regions, source)
            listed.append(image)
        source.use(path)
    if several:
        source.notes.append(
            f"{several} further annotations of tasks that have several are not used: only the ground truth is, or the "
            "one that was changed last"
        )
    if unlabeled:
        source.notes.append(f"{unlabeled} tasks without an annotation are left out; predictions are no labels")
    return make_splits(listed, source, "Label Studio", "json_malformed")


def _is_label_studio(path: Path) -> bool:
    head = head_of(path)
    return bool(_MIN.search(head)) or all(pattern.search(head) for pattern in _FULL)


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _chosen(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The annotation to use: the ground truth, else the one that was changed last, else the last."""

    def rank(k: int) -> tuple[bool, str, int]:
        changed = str(annotations[k].get("updated_at") or annotations[k].get("created_at") or "")
        return bool(annotations[k].get("ground_truth")), changed, k

    return annotations[max(range(len(annotations)), key=rank)]


def _image_name(row: dict[str, Any]) -> str:
    """The address of the image: a text in the data of the task that ends like an image, else the uploaded file."""
    data = row["data"] if isinstance(row.get("data"), dict) else row
    texts = [
        value for value in (*data.values(), row.get("file_upload")) if isinstance(value, str) and "\0" not in value
    ]
    images = [text for text in texts if PurePosixPath(tidy_name(text)[0]).suffix.lower() in IMAGE_SUFFIXES]
    return printable(next(iter(images), ""))


def _file_of(image: ListedImage, source: Source) -> list[Path]:
    """The file of an image that is left out, if it is there."""
    match = source.finder.find([image.name], [image.file.parent, image.file.parent / "images", source.root])[image.name]
    return [] if match.how in ("absent", "ambiguous") else [match.path]


def _read_regions(image: ListedImage, regions: list[dict[str, Any]], source: Source) -> None:
    """Add the objects of an image; of regions with the same id, which describe one object, the values are joined."""
    joined: dict[Any, dict[str, Any]] = {}
    for k, region in enumerate(regions):
        value = region.get("value")
        known = joined.setdefault(region.get("id", f"#{k}"), {"value": {}})
        known |= {key: each for key, each in region.items() if key != "value"}
        known["value"] |= value if isinstance(value, dict) else {}
    image.regions = len(joined)
    for k, region in enumerate(joined.values()):
        where = f"{image.where}, region {printable(region.get('id')) or k + 1}"
        try:
            if number(region.get("image_rotation")):
                raise UnreadableError("the image was turned in Label Studio; turn the file and export it again")
            place = _place(region, image)
        except UnreadableError as error:
            image.fault = f"{where.rpartition(', ')[2]}: {error}"
            return
        if place is None:
            kind = printable(region.get("type")) or "unknown"
            source.findings.add("shape_no_object", image.file, where, f"region of type {kind!r}")
            continue
        box, outline = place
        for name in _names(region["value"]) or [None]:
            image.objects.append(RawObject(None, name, box, None, False, outline, where))


def _names(value: dict[str, Any]) -> list[str | None]:
    """Class names of a region; several make several objects."""
    lists = (each for key, each in value.items() if key.endswith("labels") and isinstance(each, list))
    return [name for each in lists for text in each if (name := printable(text))]


def _place(region: dict[str, Any], image: ListedImage) -> tuple[list[float], Any] | None:
    """Box (x1, y1, x2, y2) and segmentation of a region in pixels; None if it is no object, such as a point.

    Coordinates of Label Studio are percent of the image.

    Raises:
        UnreadableError: numbers are missing, so that the image may hold objects that are not known.
    """
    value = region["value"]
    points, packed = value.get("points"), value.get("rle")
    if points is None and packed is None and not {"width", "height"} <= value.keys() and "radiusX" not in value:
        return None
    width, height = (number(region.get(f"original_{side}")) for side in ("width", "height"))
    if not width or not height or width < 1 or height < 1:
        raise UnreadableError("expected original_width and original_height, in pixels")
    image.width, image.height = width, height
    if packed is not None:
        mask = _unpack(packed, int(width), int(height))
        if not mask.any():
            raise UnreadableError("expected a mask, found none of its pixels")
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        import torch

        return box, encode_rle(torch.from_numpy(mask))
    if points is not None:
        pairs = points_of(points)
        if pairs is None:
            raise UnreadableError("expected a list of points [x, y]")
        ring = [(x * width / 100, y * height / 100) for x, y in pairs]
        return bounding_box(ring), [flatten(ring)]
    turn = radians(number(value.get("rotation")) or 0.0)
    if "radiusX" in value:
        x, y, rx, ry = _numbers(value, "x", "y", "radiusX", "radiusY")
        rx, ry = rx * width / 100, ry * height / 100
        box, ring = ellipse_polygon(x * width / 100, y * height / 100, rx, ry, turn)
        return box, [flatten(ring)]
    x, y, w, h = _numbers(value, "x", "y", "width", "height")
    x, y, w, h = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    if not turn:
        return [x, y, x + w, y + h], None
    ring = _turned(x, y, w, h, turn)
    return bounding_box(ring), [flatten(ring)]


def _turned(x: float, y: float, w: float, h: float, turn: float) -> Points:
    """Corners of a rectangle that is rotated clockwise about its upper left corner."""
    across, down = (cos(turn), sin(turn)), (-sin(turn), cos(turn))
    return [
        (x + i * w * across[0] + j * h * down[0], y + i * w * across[1] + j * h * down[1])
        for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
    ]


def _numbers(value: dict[str, Any], *keys: str) -> list[float]:
    finite = [parsed for key in keys if (parsed := number(value.get(key))) is not None]
    if len(finite) < len(keys):
        raise UnreadableError(f"expected numbers for {', '.join(keys)}")
    return finite


def _unpack(packed: Any, width: int, height: int) -> NDArray[np.bool_]:
    """Unpack a brush mask, bool [H, W]: bytes of a stream of bits that packs the RGBA values of all pixels (rle-pack).

    The stream is the number of values (32 bits), the bits per value less 1 (5), four lengths of counts less 1 (4 each),
    and then runs: whether the value repeats (1), which length its count has (2), the count less 1, the value or values.

    Raises:
        UnreadableError: it is no such stream.
    """
    try:
        stream = _Bits(packed)
        total = stream.read(32)
        if total != 4 * width * height or total > _MOST_VALUES:
            raise UnreadableError(f"expected a mask of {width} x {height} pixels, found one of {total // 4} pixels")
        size = stream.read(5) + 1
        lengths = [stream.read(4) + 1 for _ in range(4)]
        values = np.zeros(total, dtype=np.uint8)
        filled = 0
        while filled < total:
            repeats = stream.read(1)
            end = filled + 1 + stream.read(lengths[stream.read(2)])
            values[filled:end] = stream.read(size) if repeats else [stream.read(size) for _ in range(end - filled)]
            filled = end
    except UnreadableError:
        raise
    except (ValueError, TypeError, OverflowError):
        raise UnreadableError("expected a packed mask (rle), found something else") from None
    return np.asarray(values.reshape(height, width, 4)[:, :, 3] > 0)


class _Bits:
    """A stream of bits.

    Args:
        packed: a list of bytes.
    """

    def __init__(self, packed: Any) -> None:
        self._text = (np.unpackbits(np.array(packed, dtype=np.uint8)) + ord("0")).tobytes().decode()
        self._place = 0

    def read(self, count: int) -> int:
        """The next `count` bits as a number, the first the highest.

        Raises:
            ValueError: no bits are left.
        """
        self._place += count
        if self._place > len(self._text):
            raise ValueError("the stream ends too early")
        return int(self._text[self._place - count : self._place], 2)
