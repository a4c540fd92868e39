"""The ways to write a box as four numbers, and the conversion of boxes from one of them to that of the data format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detrkit.data.formats.raw import BoxForm, RawImage, RawObject, RawSplit
from detrkit.data.validation.box_values import as_number
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.errors import ConfigError

Floats = NDArray[np.float64]
Shape = Literal["xywh", "xyxy", "cxcywh"]
Units = Literal["pixels", "relative", "percent"]

_WORDS = {
    "xywh": "x, y, width, height",
    "xyxy": "x1, y1, x2, y2",
    "cxcywh": "center x, center y, width, height",
    "yxhw": "y, x, height, width",
    "yxyx": "y1, x1, y2, x2",
}
_UNITS: dict[Units, str] = {
    "pixels": "in pixels",
    "relative": "relative to the image (0 to 1)",
    "percent": "in percent of the image (0 to 100)",
}
_AREA_SLACK = 1.02
"""Largest ratio of an area to the area of its box, with rounding errors."""


@dataclass(frozen=True)
class BoxFormat:
    """One way to write a box as four numbers."""

    name: str
    shape: Shape
    """Meaning of the four numbers, as if x came first."""
    y_first: bool
    units: Units

    @property
    def words(self) -> str:
        """Description for messages: `x1, y1, x2, y2 in pixels`."""
        order = {"xywh": "yxhw", "xyxy": "yxyx"}[self.shape] if self.y_first else self.shape
        return f"{_WORDS[order]} {_UNITS[self.units]}"

    def scale(self, width: Floats, height: Floats) -> tuple[Any, Any]:
        """Divisors that make x and y relative to an image of this size in pixels."""
        if self.units == "pixels":
            return width, height
        share = 1.0 if self.units == "relative" else 100.0
        return share, share

    def corners(self, boxes: Floats, width: Floats, height: Floats) -> Floats:
        """Convert boxes to corners relative to their image.

        Args:
            boxes: [n, 4] as written in the file.
            width: [n], width of the images in pixels.
            height: [n], height of the images in pixels.

        Returns:
            [n, 4], x1, y1, x2, y2; 0..1 inside the image.
        """
        a, b, c, d = boxes.T
        if self.y_first:
            a, b, c, d = b, a, d, c
        if self.shape == "xywh":
            c, d = a + c, b + d
        elif self.shape == "cxcywh":
            a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        across, down = self.scale(width, height)
        return np.stack([a / across, b / down, c / across, d / down], axis=1)

    def numbers(self, corners: Floats, width: Floats, height: Floats) -> Floats:
        """Convert relative corners [n, 4] to the numbers of this format [n, 4]: the inverse of `corners`."""
        across, down = self.scale(width, height)
        a, b, c, d = corners.T
        a, b, c, d = a * across, b * down, c * across, d * down
        if self.shape == "xywh":
            c, d = c - a, d - b
        elif self.shape == "cxcywh":
            a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
        return np.stack([b, a, d, c] if self.y_first else [a, b, c, d], axis=1)


def _formats() -> dict[str, BoxFormat]:
    ways: tuple[tuple[str, Shape, bool], ...] = (
        ("xywh", "xywh", False),
        ("xyxy", "xyxy", False),
        ("cxcywh", "cxcywh", False),
        ("yxhw", "xywh", True),
        ("yxyx", "xyxy", True),
    )
    formats: dict[str, BoxFormat] = {}
    for units in _UNITS:
        for way, shape, y_first in ways:
            name = way if units == "pixels" else f"{way}_{units}"
            formats[name] = BoxFormat(name, shape, y_first, units)
    return formats


BOX_FORMATS = _formats()
"""Name -> format; the choices of the setting `box_format` are these and `auto`."""
FORMAT_OF_FORM: dict[BoxForm, BoxFormat] = {
    "xywh": BOX_FORMATS["xywh"],
    "xyxy": BOX_FORMATS["xyxy"],
    "relative": BOX_FORMATS["cxcywh_relative"],
}
"""Form of the boxes of a data format -> how its definition writes them."""


def chosen_format(name: str, raw_split: RawSplit) -> BoxFormat | None:
    """The box format that the user named; None for `auto`.

    Raises:
        ConfigError: there is no such format, or the files contain no boxes.
    """
    if name == "auto":
        return None
    if name not in BOX_FORMATS:
        raise ConfigError(f"--box_format must be auto, {', '.join(BOX_FORMATS)}, found {name!r}")
    if raw_split.boxes_from_masks:
        raise ConfigError(
            f"--box_format states the form of boxes in files, but those of {raw_split.source} are computed from masks; "
            "leave it at auto"
        )
    return BOX_FORMATS[name]


def rewrite_boxes(
    raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo], reading: BoxFormat
) -> None:
    """Convert the boxes of a split, with polygons and areas, to the box format of its data format.

    Boxes that are not four numbers stay as they are. Polygons are rescaled if they have the units of the boxes, and
    areas that fit neither unit are replaced by those of the boxes.

    Args:
        raw_split: the split; boxes get its `box_form`.
        images: images of the split, whose objects are changed.
        infos: properties of the image files.
        reading: box format to read them by.
    """
    declared = FORMAT_OF_FORM[raw_split.box_form]
    for image, info in zip(images, infos, strict=True):
        width, height = image_size(image, info)
        if not width or not height:
            continue
        size = np.array([width]), np.array([height])
        factors = tuple(
            float(np.max(b)) / float(np.max(a))
            for a, b in zip(reading.scale(*size), declared.scale(*size), strict=True)
        )
        for raw in image.objects:
            _rewrite(
                raw,
                reading,
                declared,
                size,
                factors,
                outline=raw_split.box_form == "relative" and bool(raw.segmentation),
            )


def image_size(image: RawImage, info: ImageInfo) -> tuple[float, float]:
    """(width, height) in pixels that boxes of an image refer to: as listed, else of the file, else (0, 0)."""
    width, height = as_number(image.width) or 0.0, as_number(image.height) or 0.0
    if 1 <= width < np.inf and 1 <= height < np.inf:
        return width, height
    return float(info.upright[0]), float(info.upright[1])


def _rewrite(
    raw: RawObject,
    reading: BoxFormat,
    declared: BoxFormat,
    size: tuple[Floats, Floats],
    factors: tuple[float, ...],
    *,
    outline: bool,
) -> None:
    """Convert one object. With `outline` its box was computed from its polygon, so only the units can differ."""
    if not isinstance(raw.box, list | tuple) or len(raw.box) != 4:
        return
    numbers = [as_number(value) for value in raw.box]
    if any(number is None or not np.isfinite(number) for number in numbers):
        return
    fx, fy = factors
    if outline:
        raw.box = [value * factor for value, factor in zip(numbers, (fx, fy, fx, fy), strict=True)]  # type: ignore[operator]
        raw.segmentation = [_times(polygon, fx, fy) for polygon in raw.segmentation]
        return
    corners = reading.corners(np.array([numbers], dtype=np.float64), *size)
    raw.box = declared.numbers(corners, *size)[0].tolist()
    across, down = (float(np.max(scale)) for scale in declared.scale(*size))
    x1, y1, x2, y2 = (corners[0] * (across, down, across, down)).tolist()
    if isinstance(raw.segmentation, list) and (fx, fy) != (1, 1):
        raw.segmentation = _nearer(raw.segmentation, [_times(p, fx, fy) for p in raw.segmentation], (x1, y1, x2, y2))
    area = as_number(raw.area)
    if area is not None:
        of_box = (x2 - x1) * (y2 - y1)
        fits: Callable[[float], bool] = lambda value: of_box / 100 <= value <= of_box * _AREA_SLACK  # noqa: E731
        raw.area = next((value for value in (area, area * fx * fy) if fits(value)), of_box)


def _times(polygon: Any, fx: float, fy: float) -> Any:
    """Scale the x and y of a polygon; anything else is returned as it is."""
    if not isinstance(polygon, list) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in polygon
    ):
        return polygon
    return [value * (fy if place % 2 else fx) for place, value in enumerate(polygon)]


def _nearer(before: list[Any], after: list[Any], box: tuple[float, float, float, float]) -> list[Any]:
    """Return the polygons, before or after scaling, whose extent is closer to the box."""

    def distance(polygons: list[Any]) -> float:
        extent = polygons_extent(polygons)
        return float("inf") if extent is None else sum(abs(a - b) for a, b in zip(extent, box, strict=True))

    return after if distance(after) < distance(before) else before


def polygons_extent(polygons: list[Any]) -> tuple[float, float, float, float] | None:
    """The box x1, y1, x2, y2 around polygons [x, y, x, y, ...]; None if one of them is no polygon."""
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6:
            return None
        if not set(map(type, polygon)) <= {int, float}:  # a set is faster than a loop
            return None
        xs += polygon[0::2]
        ys += polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None
