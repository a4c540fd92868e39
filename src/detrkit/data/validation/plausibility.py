"""Doubt boxes and classes of a whole file that cannot be right, and find the box format that explains them.

A single box is little evidence. But if a fifth of all boxes leaves its image, and nearly all fit if their last two
numbers are read as a corner instead of a size, then the file contains corners. There are three kinds of evidence: the
positions of boxes, the areas that the file lists, and the extents of its polygons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.formats.coco import as_id
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.validation.box_formats import BOX_FORMATS, FORMAT_OF_FORM, BoxFormat, Floats, polygons_extent
from detrkit.data.validation.box_values import as_number
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.ops.text import first_names

_SLACK, _SLACK_PIXELS = 0.01, 1.0
"""Distance by which a box may leave its image: a share of the side, and pixels."""
_LEAVING = 0.2
"""Least share of boxes that are empty or leave their image for another format to be believed, if it fits ..."""
_FITTING = 0.95
"""... this share of the boxes."""
_SUSPECT = 0.01
"""Least share of boxes that leave their image for another format to be searched for."""
_CERTAIN = 0.995
"""Share of boxes that another format must fit if fewer than `_LEAVING` leave their image ..."""
_MANY = 20
"""... of at least this number of boxes."""
_ASYMMETRY = 0.2
"""Least difference between the share of boxes that another format fits, and that share with the images rotated by 180
degrees. A format that fits all large objects is no evidence; one that fits only what lies at the left is."""
_HOPELESS = 0.8
"""Share of boxes that leave their image from which on data are rejected, if no format fits."""
_FEWEST = 5
"""Fewest boxes for evidence that could be chance."""
_SAMPLE = 2000
"""Number of boxes whose areas and polygons are examined."""
_AREA_TOLERANCE, _EXTENT_TOLERANCE, _EXTENT_PIXELS = 0.01, 0.03, 2.0
_SPREAD = 0.5
"""Share of a side over which the centers of boxes are spread in real data, unless an object never moves."""
_CORNER = 0.4
"""Share of the image sides within which boxes in percent lie if they are read as pixels of a large image."""


@dataclass(frozen=True)
class Doubt:
    """A systematic mistake that an annotation file seems to have."""

    kind: str
    """A key of `findings.ACTIONS`."""
    source: str
    """The annotation file or folder."""
    expected: str
    """How the format defines it."""
    found: str
    """How the file seems to have it, with the evidence."""
    advice: str
    """What the user can do."""
    refuse: bool
    """Whether the evidence is strong enough to reject the data."""

    @property
    def sentence(self) -> str:
        """The error sentence."""
        return f"expected {self.expected} in {self.source}, found {self.found}; {self.advice}"

    @property
    def detail(self) -> str:
        """The detail of a finding, which names the file by itself."""
        return f"expected {self.expected}, found {self.found}; {self.advice}"


@dataclass
class _Boxes:
    """The boxes of a split that are four numbers, as arrays."""

    values: Floats
    """[n, 4] as written in the file."""
    width: Floats
    """[n], width of their images in pixels."""
    height: Floats
    objects: list[RawObject]
    images: int
    fits: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def fit(self, reading: BoxFormat) -> NDArray[np.bool_]:
        """bool [n]: which boxes lie in their images and are not empty, if read in this format."""
        if reading.name not in self.fits:
            x1, y1, x2, y2 = reading.corners(self.values, self.width, self.height).T
            slack_x, slack_y = _SLACK + _SLACK_PIXELS / self.width, _SLACK + _SLACK_PIXELS / self.height
            inside = (x1 >= -slack_x) & (y1 >= -slack_y) & (x2 <= 1 + slack_x) & (y2 <= 1 + slack_y)
            wide, high = (x2 - x1) * self.width, (y2 - y1) * self.height
            self.fits[reading.name] = inside & (wide > 0) & (high > 0) & (np.maximum(wide, high) >= 1)
        return self.fits[reading.name]

    def share(self, reading: BoxFormat) -> float:
        """Share of the boxes that fit, 0..1."""
        return float(self.fit(reading).mean())

    def reach(self, reading: BoxFormat) -> float:
        """99th percentile of the right or bottom edge of the boxes that fit, relative to the image."""
        corners = reading.corners(self.values, self.width, self.height)[self.fit(reading)]
        return float(np.percentile(corners[:, 2:].max(axis=1), 99)) if len(corners) else 0.0

    def off_center(self, reading: BoxFormat) -> float:
        """Distance of the mean box center from the image center, relative to a side; near 0 in real data."""
        corners = reading.corners(self.values, self.width, self.height)
        return float(np.abs((corners[:, :2] + corners[:, 2:]).mean(axis=0) / 2 - 0.5).max())

    def asymmetry(self, declared: BoxFormat, reading: BoxFormat) -> float:
        """Share of boxes that `reading` fits, minus its share if the images were turned by 180 degrees.

        Args:
            declared: the format that the turned boxes are computed with.
            reading: the format that is tried.
        """
        there = declared.corners(self.values, self.width, self.height)
        turned = declared.numbers(1 - there[:, [2, 3, 0, 1]], self.width, self.height)
        return self.share(reading) - _Boxes(turned, self.width, self.height, [], self.images).share(reading)

    def spread(self, reading: BoxFormat) -> float:
        """Range of the box centers from the 5th to the 95th percentile, relative to a side; the larger of x and y."""
        corners = reading.corners(self.values, self.width, self.height)
        low, high = np.percentile(corners[:, :2] + corners[:, 2:], (5, 95), axis=0) / 2
        return float((high - low).max())


def doubt_boxes(raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo]) -> Doubt | None:
    """Doubt the boxes of a split, if they seem to be written in another format than that of the data format.

    Args:
        raw_split: the raw split.
        images: images of the split, with their objects.
        infos: properties of the image files; images with a problem do not count.
    """
    boxes = _gather(images, infos)
    if not len(boxes.values):
        return None
    declared = FORMAT_OF_FORM[raw_split.box_form]
    areas = _areas(boxes) if raw_split.box_form == "xywh" else None
    extents = _extents(boxes) if raw_split.box_form == "xywh" else None
    leaving = len(boxes.values) - int(boxes.fit(declared).sum())
    by_place = leaving >= max(2, _SUSPECT * len(boxes.values))
    if not (by_place or _disagree(areas, declared) or _disagree(extents, declared) or _in_a_corner(boxes, declared)):
        return None
    best = _best(boxes, declared, areas, extents)
    if best is None:
        return _doubt_place(boxes, declared, raw_split, leaving)
    return _doubt_reading(boxes, declared, best, raw_split, areas, extents)


def doubt_classes(raw_split: RawSplit, images: Sequence[RawImage]) -> Doubt | None:
    """Doubt the class ids of a split, if they seem to start at another number than its list of classes."""
    known = set(raw_split.categories.ids)
    counts: Counter[int] = Counter()
    for value, number in Counter(_countable(raw.category) for image in images for raw in image.objects).items():
        category = as_id(value)
        if category is not None:
            counts[category] += number
    unknown = {i: n for i, n in counts.items() if i not in known}
    if not unknown or sum(unknown.values()) < 0.01 * sum(counts.values()):
        return None
    for shift in (1, -1):
        if all(category - shift in known for category in counts):
            first, last = min(known), max(known)
            used = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)} alone"
            example = first_names((f"class {i} {n} times" for i, n in sorted(unknown.items())), 3)
            return Doubt(
                "classes_misnumbered",
                raw_split.source,
                f"class ids {first} to {last}",
                f"{used} ({example}), as if they started at {first + shift}",
                "renumber them, or list the classes under the ids that are used",
                refuse=True,
            )
    return None


def _countable(value: Any) -> Any:
    """The value if it can be counted, else None."""
    return value if isinstance(value, int | float | str) else None


def _gather(images: Sequence[RawImage], infos: Sequence[ImageInfo]) -> _Boxes:
    objects: list[RawObject] = []
    counts: list[int] = []
    sizes: list[tuple[float, float]] = []
    for image, info in zip(images, infos, strict=True):
        if not info.problem and image.objects:
            objects += image.objects
            counts.append(len(image.objects))
            sizes.append(_largest_size(image, info))
    values = _numbers([raw.box for raw in objects], 4)  # [n, 4]
    width, height = np.repeat(np.array(sizes, dtype=np.float64).reshape(-1, 2), counts, axis=0).T
    good: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))  # [n]
    if not good.all():
        values, width, height = values[good], width[good], height[good]
        objects = [raw for raw, usable in zip(objects, good.tolist(), strict=True) if usable]
    return _Boxes(values, width, height, objects, len(counts))


def _largest_size(image: RawImage, info: ImageInfo) -> tuple[float, float]:
    """Largest (width, height) in pixels that boxes may refer to: of the file, rotated or not, or as listed."""
    width, height = info.upright
    if info.orientation >= 5:
        width = height = max(width, height)
    listed = as_number(image.width) or 0.0, as_number(image.height) or 0.0
    if listed == (width, height) or not (1 <= listed[0] < 1e9 and 1 <= listed[1] < 1e9):
        return width, height
    same_shape = abs(listed[0] / listed[1] / (width / height) - 1) <= 0.01
    return (max(width, listed[0]), max(height, listed[1])) if same_shape else (width, height)


def _numbers(rows: list[Any], columns: int) -> Floats:
    """Convert rows to float64 [n, columns], with NaN for what is no number."""
    if not rows:
        return np.zeros((0, columns))
    try:
        values = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        values = np.zeros(0)
    if values.shape == (len(rows), columns):
        return values
    nothing = [np.nan] * columns
    slow = []
    for row in rows:
        numbers = [as_number(value) for value in row] if isinstance(row, list | tuple) and len(row) == columns else []
        slow.append([np.nan if n is None else n for n in numbers] or nothing)
    return np.array(slow, dtype=np.float64)


def _areas(boxes: _Boxes) -> tuple[_Boxes, Floats] | None:
    """Sample boxes with the areas [n] that the file lists for them; None if there are too few."""
    boxes = _sample(boxes)
    areas = np.array([as_number(raw.area) or 0.0 for raw in boxes.objects], dtype=np.float64)
    return _keep_usable(boxes, areas, (areas > 0) & np.isfinite(areas))


def _extents(boxes: _Boxes) -> tuple[_Boxes, Floats] | None:
    """Sample boxes with the extents [n, 4] of their polygons, x1, y1, x2, y2; None if there are too few."""
    boxes = _sample(boxes)
    polygon_boxes = [
        polygons_extent(raw.segmentation) if isinstance(raw.segmentation, list) else None for raw in boxes.objects
    ]
    extents = np.array([(np.nan,) * 4 if box is None else box for box in polygon_boxes], dtype=np.float64)
    return _keep_usable(boxes, extents, np.asarray(np.isfinite(extents).all(axis=1)))


def _sample(boxes: _Boxes) -> _Boxes:
    step = max(1, len(boxes.values) // _SAMPLE)
    return _Boxes(boxes.values[::step], boxes.width[::step], boxes.height[::step], boxes.objects[::step], boxes.images)


def _keep_usable(boxes: _Boxes, evidence: Floats, usable: NDArray[np.bool_]) -> tuple[_Boxes, Floats] | None:
    if usable.sum() < max(_FEWEST, 0.5 * len(usable)):
        return None
    return _Boxes(boxes.values[usable], boxes.width[usable], boxes.height[usable], [], boxes.images), evidence[usable]


def _agreeing(evidence: tuple[_Boxes, Floats], reading: BoxFormat) -> NDArray[np.bool_]:
    """bool [n]: which boxes have the listed area, or the extent of their polygons, if read in this format."""
    boxes, expected = evidence
    corners = reading.corners(boxes.values, boxes.width, boxes.height)
    x1, y1, x2, y2 = (corners * np.stack([boxes.width, boxes.height] * 2, axis=1)).T
    wide, high = x2 - x1, y2 - y1
    if expected.ndim == 1:
        agree: NDArray[np.bool_] = (
            (wide > 0) & (high > 0) & (np.abs(wide * high - expected) <= _AREA_TOLERANCE * expected)
        )
        return agree
    slack = np.stack([wide, high, wide, high], axis=1).clip(0) * _EXTENT_TOLERANCE + _EXTENT_PIXELS
    return np.asarray((np.abs(np.stack([x1, y1, x2, y2], axis=1) - expected) <= slack).all(axis=1))


def _disagree(evidence: tuple[_Boxes, Floats] | None, declared: BoxFormat) -> bool:
    """Whether areas or extents contradict the declared format, and agree with another one."""
    if evidence is None or _agreeing(evidence, declared).mean() > 0.1:
        return False
    return any(_agreeing(evidence, reading).mean() >= 0.9 for reading in BOX_FORMATS.values())


def _in_a_corner(boxes: _Boxes, declared: BoxFormat) -> bool:
    """Whether boxes in pixels lie within 0..100 and in the upper left corner of their images, as percentages would."""
    if declared.units != "pixels" or len(boxes.values) < 2 * _FEWEST or boxes.values.max() > 101:
        return False
    return boxes.reach(declared) <= _CORNER and boxes.reach(BOX_FORMATS[f"{declared.name}_percent"]) >= _HOPELESS


def _best(
    boxes: _Boxes, declared: BoxFormat, areas: tuple[_Boxes, Floats] | None, extents: tuple[_Boxes, Floats] | None
) -> BoxFormat | None:
    """The other format that explains the boxes best; None if none explains nearly all of them."""
    scores: dict[str, float] = {}
    given = [e for e in (areas, extents) if e is not None and _disagree(e, declared)]
    only_percent = not given and boxes.share(declared) > 1 - _SUSPECT
    for reading in sorted(BOX_FORMATS.values(), key=lambda f: _unlikely(f, declared)):
        if (
            reading.name == declared.name
            or boxes.share(reading) < _FITTING
            or (only_percent and reading.units != "percent")
        ):
            continue
        scores[reading.name] = boxes.share(reading) + sum(float(_agreeing(e, reading).mean()) for e in given)
    if not scores:
        return None
    good = [name for name, score in scores.items() if score >= max(scores.values()) - 0.004]
    # the first one, if several are equally good
    best = min(good, key=lambda name: round(boxes.off_center(BOX_FORMATS[name]), 1))
    return BOX_FORMATS[best]


def _unlikely(reading: BoxFormat, declared: BoxFormat) -> tuple[bool, ...]:
    """Sort key of formats, from likely to unlikely mistakes."""
    return reading.units != declared.units, reading.units == "percent", reading.y_first, reading.shape != declared.shape


def _doubt_place(boxes: _Boxes, declared: BoxFormat, raw_split: RawSplit, leaving: int) -> Doubt | None:
    """Doubt boxes that leave their images in every format."""
    total = len(boxes.values)
    if leaving < max(_FEWEST, _LEAVING * total):
        return None
    return Doubt(
        "boxes_implausible",
        raw_split.source,
        f"boxes as {declared.words}",
        f"that {leaving} of {total} leave their image or have no size, and that no other way to read them fits",
        "look whether images were resized, cropped or exchanged after labeling, or go on with them as they are with "
        f"--box_format {declared.name}",
        refuse=leaving >= _HOPELESS * total,
    )


def _doubt_reading(
    boxes: _Boxes,
    declared: BoxFormat,
    best: BoxFormat,
    raw_split: RawSplit,
    areas: tuple[_Boxes, Floats] | None,
    extents: tuple[_Boxes, Floats] | None,
) -> Doubt | None:
    """Doubt boxes that another format explains better."""
    total = len(boxes.values)
    fit_own, fit_best = int(boxes.fit(declared).sum()), int(boxes.fit(best).sum())
    reasons: list[str] = []
    gain = fit_best - fit_own
    few = 2 if fit_own == 0 and "relative" in (declared.units, best.units) and best.units != declared.units else 3
    refuse = boxes.asymmetry(declared, best) >= _ASYMMETRY and (
        gain >= max(few, _LEAVING * total)
        or (gain >= max(few, _SUSPECT * total) and total >= _MANY and fit_best >= _CERTAIN * total)
    )
    if refuse or gain >= max(_FEWEST, _LEAVING * total):
        reasons.append(
            f"{total - fit_own} of {total} boxes leave their image or have no size as the first, {total - fit_best} as "
            "the second"
        )
    for evidence, name in ((areas, "area listed for them"), (extents, "extent of their polygons")):
        if evidence is not None and _disagree(evidence, declared):
            as_own, as_best = int(_agreeing(evidence, declared).sum()), int(_agreeing(evidence, best).sum())
            if as_best >= 0.9 * len(evidence[1]):
                reasons.append(
                    f"{as_own} of {len(evidence[1])} boxes have the {name} as the first, {as_best} as the second"
                )
                refuse = True
    if not reasons and best.units == "percent" and _in_a_corner(boxes, declared):
        reasons.append(
            f"boxes stay within {boxes.reach(declared):.0%} of their images' sides as the first, within "
            f"{boxes.reach(best):.0%} as the second"
        )
        refuse = total >= 4 * _FEWEST and boxes.spread(best) >= _SPREAD  # not, say, a logo in the corner
    if not reasons:
        return None
    return Doubt(
        "boxes_implausible",
        raw_split.source,
        f"boxes as {declared.words}",
        f"what looks like {best.words} ({'; '.join(reasons)})",
        f"say which it is with --box_format {best.name} or --box_format {declared.name}",
        refuse,
    )
