"""How the four numbers of a box may be written, and boxes rewritten from one way into that of their data format."""

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
"""What an area may be above that of its box: rounding."""


@dataclass(frozen=True)
class BoxFormat:
    """One way to write a box as four numbers."""

    name: str
    shape: Shape
    """Of the four numbers, with x first."""
    y_first: bool
    units: Units

    @property
    def words(self) -> str:
        """For messages: `x1, y1, x2, y2 in pixels`."""
        order = {"xywh": "yxhw", "xyxy": "yxyx"}[self.shape] if self.y_first else self.shape
        return f"{_WORDS[order]} {_UNITS[self.units]}"

    def scale(self, width: Floats, height: Floats) -> tuple[Any, Any]:
        """What x and y are divided by to be shares of the image, of this size in pixels."""
        if self.units == "pixels":
            return width, height
        share = 1.0 if self.units == "relative" else 100.0
        return share, share

    def corners(self, boxes: Floats, width: Floats, height: Floats) -> Floats:
        """Corners of boxes as shares of their image.

        Args:
            boxes: [n, 4] as the file has them.
            width: [n], of the images in pixels.
            height: [n], likewise.

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
        """The numbers [n, 4] of boxes whose corners are shares of their image: the inverse of `corners`."""
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
"""Name -> format; the setting `box_format` lists the same names, and `auto`."""
FORMAT_OF_FORM: dict[BoxForm, BoxFormat] = {
    "xywh": BOX_FORMATS["xywh"],
    "xyxy": BOX_FORMATS["xyxy"],
    "relative": BOX_FORMATS["cxcywh_relative"],
}
"""How boxes of a data format are written by its definition."""


def chosen_format(name: str, raw_split: RawSplit) -> BoxFormat | None:
    """The format that the user named; None if it is left to the data format.

    Raises:
        ConfigError: there is no such format, or no box in the files.
    """
    if name == "auto":
        return None
    if name not in BOX_FORMATS:
        raise ConfigError(f"--box_format must be auto, {', '.join(BOX_FORMATS)}, found {name!r}")
    if raw_split.boxes_from_masks:
        raise ConfigError(
            f"--box_format says how files write boxes, but those of {raw_split.source} are made of its masks; "
            "leave it at auto"
        )
    return BOX_FORMATS[name]


def rewrite_boxes(
    raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo], reading: BoxFormat
) -> None:
    """Write the boxes of a split, and what goes with them, as its data format has them.

    Boxes that are not four numbers stay as they are. Polygons are rescaled where they are in the units of the boxes,
    and areas that fit neither way become those of the boxes.

    Args:
        side: its `box_form` is what boxes become.
        images: of it, whose objects are changed.
        facts: of the images.
        read: how boxes are written.
    """
    own = FORMAT_OF_FORM[raw_split.box_form]
    for image, info in zip(images, infos, strict=True):
        width, height = image_size(image, info)
        if not width or not height:
            continue
        size = np.array([width]), np.array([height])
        factors = tuple(
            float(np.max(b)) / float(np.max(a)) for a, b in zip(reading.scale(*size), own.scale(*size), strict=True)
        )
        for raw in image.objects:
            _rewrite(
                raw, reading, own, size, factors, outline=raw_split.box_form == "relative" and bool(raw.segmentation)
            )


def image_size(image: RawImage, info: ImageInfo) -> tuple[float, float]:
    """(width, height) in pixels that boxes of an image are about: as listed, else those of the file; (0, 0) if none."""
    width, height = as_number(image.width) or 0.0, as_number(image.height) or 0.0
    if 1 <= width < np.inf and 1 <= height < np.inf:
        return width, height
    return float(info.upright[0]), float(info.upright[1])


def _rewrite(
    raw: RawObject,
    reading: BoxFormat,
    own: BoxFormat,
    size: tuple[Floats, Floats],
    factors: tuple[float, ...],
    *,
    outline: bool,
) -> None:
    """Rewrite one object. With `outline` its box is that of its polygon, of which only the units can be others."""
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
    raw.box = own.numbers(corners, *size)[0].tolist()
    across, down = (float(np.max(scale)) for scale in own.scale(*size))
    x1, y1, x2, y2 = (corners[0] * (across, down, across, down)).tolist()
    if isinstance(raw.segmentation, list) and (fx, fy) != (1, 1):
        raw.segmentation = _nearer(raw.segmentation, [_times(p, fx, fy) for p in raw.segmentation], (x1, y1, x2, y2))
    area = as_number(raw.area)
    if area is not None:
        of_box = (x2 - x1) * (y2 - y1)
        fits: Callable[[float], bool] = lambda value: of_box / 100 <= value <= of_box * _AREA_SLACK  # noqa: E731
        raw.area = next((value for value in (area, area * fx * fy) if fits(value)), of_box)


def _times(polygon: Any, fx: float, fy: float) -> Any:
    """A polygon with x and y multiplied; anything else as it is."""
    if not isinstance(polygon, list) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in polygon
    ):
        return polygon
    return [value * (fy if place % 2 else fx) for place, value in enumerate(polygon)]


def _nearer(before: list[Any], after: list[Any], box: tuple[float, float, float, float]) -> list[Any]:
    """Whichever polygons have the extent that is nearer to the box."""

    def distance(polygons: list[Any]) -> float:
        extent = polygons_extent(polygons)
        return float("inf") if extent is None else sum(abs(a - b) for a, b in zip(extent, box, strict=True))

    return after if distance(after) < distance(before) else before


def polygons_extent(polygons: list[Any]) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 around polygons, each a list of x, y, x, y, ...; None where one is none."""
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6:
            return None
        if not all(isinstance(value, int | float) for value in polygon):
            return None
        xs += polygon[0::2]
        ys += polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None
