"""Whether the boxes and classes of a whole file can be meant as they are read, and if not, how they seem to be meant.

A box alone tells little. But where a fifth of all boxes leaves its image, and nearly all would lie in it as corners
instead of sizes, the file holds corners. Three things are evidence: where boxes lie, the areas that the file lists,
and the extent of its polygons.
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

_SLACK, _SLACK_PIXELS = 0.01, 1.0
"""What a box may leave its image by: a share of its side, and pixels."""
_LEAVING = 0.2
"""Share of boxes that leave their image, or are empty, from which on another reading is believed, if it fits ..."""
_FITTING = 0.95
"""... as many as this."""
_SUSPECT = 0.01
"""Share of leaving boxes from which on another reading is looked for."""
_CERTAIN = 0.995
"""Share of boxes that another reading has to fit where less than `_LEAVING` leave their image ..."""
_MANY = 20
"""... of as many boxes."""
_SURPRISE = 0.2
"""Share of boxes that another reading must not fit if the images are turned by a half: that it fits all large objects,
say, is no evidence, but that it fits whatever lies left and nothing that lies right is."""
_HOPELESS = 0.8
"""Share of leaving boxes from which on data are refused where no reading fits."""
_FEWEST = 5
"""Boxes from which on evidence counts that a few boxes could give by chance."""
_SAMPLE = 2000
"""Boxes whose area and polygons are looked at."""
_AREA_TOLERANCE, _EXTENT_TOLERANCE, _EXTENT_PIXELS = 0.01, 0.03, 2.0
_SPREAD = 0.5
"""Share of a side over which the centers of boxes lie in real images, but for an object that is always in one place."""
_CORNER = 0.4
"""Share of their image's sides that boxes in percent stay within, if they are taken for pixels of a large one."""


@dataclass(frozen=True)
class Doubt:
    """A mistake that a file seems to have."""

    kind: str
    """A key of `findings.ACTIONS`."""
    source: str
    """The annotation file or folder."""
    expected: str
    """What the format has."""
    found: str
    """What the file seems to have, with the evidence."""
    advice: str
    """What to do."""
    refuse: bool
    """Whether nearly everything shows it, so that nothing should be trained on it."""

    @property
    def sentence(self) -> str:
        """For an error."""
        return f"expected {self.expected} in {self.source}, found {self.found}; {self.advice}"

    @property
    def detail(self) -> str:
        """For a finding, which names the file itself."""
        return f"expected {self.expected}, found {self.found}; {self.advice}"


@dataclass
class _Boxes:
    """The boxes of a split that are four numbers."""

    values: Floats
    """[n, 4] as the file has them."""
    width: Floats
    """[n], of their images in pixels."""
    height: Floats
    objects: list[RawObject]
    images: int
    fits: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def fit(self, reading: BoxFormat) -> NDArray[np.bool_]:
        """Which boxes lie in their images and have a size, read so."""
        if reading.name not in self.fits:
            x1, y1, x2, y2 = reading.corners(self.values, self.width, self.height).T
            slack_x, slack_y = _SLACK + _SLACK_PIXELS / self.width, _SLACK + _SLACK_PIXELS / self.height
            inside = (x1 >= -slack_x) & (y1 >= -slack_y) & (x2 <= 1 + slack_x) & (y2 <= 1 + slack_y)
            wide, high = (x2 - x1) * self.width, (y2 - y1) * self.height
            self.fits[reading.name] = inside & (wide > 0) & (high > 0) & (np.maximum(wide, high) >= 1)
        return self.fits[reading.name]

    def share(self, reading: BoxFormat) -> float:
        """The share of those."""
        return float(self.fit(reading).mean())

    def reach(self, reading: BoxFormat) -> float:
        """How far right or down the boxes reach that fit, in shares of the image: the 99th of a hundred."""
        corners = reading.corners(self.values, self.width, self.height)[self.fit(reading)]
        return float(np.percentile(corners[:, 2:].max(axis=1), 99)) if len(corners) else 0.0

    def off_center(self, reading: BoxFormat) -> float:
        """How far the middle of all boxes lies from that of the images, in shares of a side: near 0 in real data."""
        corners = reading.corners(self.values, self.width, self.height)
        return float(np.abs((corners[:, :2] + corners[:, 2:]).mean(axis=0) / 2 - 0.5).max())

    def surprise(self, own: BoxFormat, reading: BoxFormat) -> float:
        """Share of boxes that `reading` fits, minus its share if the images were turned by 180 degrees.

        Args:
            own: the format that the turned boxes are computed with.
            reading: the format that is tried.
        """
        there = own.corners(self.values, self.width, self.height)
        turned = own.numbers(1 - there[:, [2, 3, 0, 1]], self.width, self.height)
        return self.share(reading) - _Boxes(turned, self.width, self.height, [], self.images).share(reading)

    def spread(self, reading: BoxFormat) -> float:
        """Over which share of the longer way the centers of the boxes lie, but for the outermost twentieths."""
        corners = reading.corners(self.values, self.width, self.height)
        low, high = np.percentile(corners[:, :2] + corners[:, 2:], (5, 95), axis=0) / 2
        return float((high - low).max())


def doubt_boxes(raw_split: RawSplit, images: Sequence[RawImage], infos: Sequence[ImageInfo]) -> Doubt | None:
    """Whether the boxes of a split seem to be written in another way than its format has it.

    Args:
        side: the split as read.
        images: of it, with their objects.
        facts: of the images' files; those with a problem do not count.
    """
    boxes = _gather(images, infos)
    if not len(boxes.values):
        return None
    own = FORMAT_OF_FORM[raw_split.box_form]
    areas = _areas(boxes) if raw_split.box_form == "xywh" else None
    extents = _extents(boxes) if raw_split.box_form == "xywh" else None
    leaving = len(boxes.values) - int(boxes.fit(own).sum())
    by_place = leaving >= max(2, _SUSPECT * len(boxes.values))
    if not (by_place or _disagree(areas, own) or _disagree(extents, own) or _in_a_corner(boxes, own)):
        return None
    best = _best(boxes, own, areas, extents)
    if best is None:
        return _doubt_place(boxes, own, raw_split, leaving)
    return _doubt_reading(boxes, own, best, raw_split, areas, extents)


def doubt_classes(raw_split: RawSplit, images: Sequence[RawImage]) -> Doubt | None:
    """Whether the class ids of a split seem to be counted from another number than its list of classes."""
    known = set(raw_split.categories.ids)
    counts: Counter[int] = Counter()
    for value, number in Counter(_plain(raw.category) for image in images for raw in image.objects).items():
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
            example = ", ".join(f"class {i} {n} times" for i, n in sorted(unknown.items())[:3])
            return Doubt(
                "classes_misnumbered",
                raw_split.source,
                f"class ids {first} to {last}",
                f"{used} ({example}), as if they were counted from {first + shift}",
                "renumber them, or list the classes under the ids that are used",
                refuse=True,
            )
    return None


def _plain(value: Any) -> Any:
    """Something to count by."""
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
    values = _numbers([raw.box for raw in objects], 4)
    width, height = np.repeat(np.array(sizes, dtype=np.float64).reshape(-1, 2), counts, axis=0).T
    good: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
    if not good.all():
        values, width, height = values[good], width[good], height[good]
        objects = [raw for raw, usable in zip(objects, good.tolist(), strict=True) if usable]
    return _Boxes(values, width, height, objects, len(counts))


def _largest_size(image: RawImage, info: ImageInfo) -> tuple[float, float]:
    """(width, height) in pixels that boxes of an image may be about: of the file, turned or not, or before a resize."""
    width, height = info.upright
    if info.orientation >= 5:
        width = height = max(width, height)
    listed = as_number(image.width) or 0.0, as_number(image.height) or 0.0
    if listed == (width, height) or not (1 <= listed[0] < 1e9 and 1 <= listed[1] < 1e9):
        return width, height
    same_shape = abs(listed[0] / listed[1] / (width / height) - 1) <= 0.01
    return (max(width, listed[0]), max(height, listed[1])) if same_shape else (width, height)


def _numbers(rows: list[Any], columns: int) -> Floats:
    """[n, columns]; NaN where a row is something else."""
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
    """A sample of the boxes and the areas [n] that the file lists for them; None where there are few."""
    boxes = _sample(boxes)
    areas = np.array([as_number(raw.area) or 0.0 for raw in boxes.objects], dtype=np.float64)
    return _those(boxes, areas, (areas > 0) & np.isfinite(areas))


def _extents(boxes: _Boxes) -> tuple[_Boxes, Floats] | None:
    """A sample of the boxes and the extents [n, 4] of their polygons, x1, y1, x2, y2; None where there are few."""
    boxes = _sample(boxes)
    polygon_boxes = [
        polygons_extent(raw.segmentation) if isinstance(raw.segmentation, list) else None for raw in boxes.objects
    ]
    extents = np.array([(np.nan,) * 4 if box is None else box for box in polygon_boxes], dtype=np.float64)
    return _those(boxes, extents, np.asarray(np.isfinite(extents).all(axis=1)))


def _sample(boxes: _Boxes) -> _Boxes:
    step = max(1, len(boxes.values) // _SAMPLE)
    return _Boxes(boxes.values[::step], boxes.width[::step], boxes.height[::step], boxes.objects[::step], boxes.images)


def _those(boxes: _Boxes, evidence: Floats, usable: NDArray[np.bool_]) -> tuple[_Boxes, Floats] | None:
    if usable.sum() < max(_FEWEST, 0.5 * len(usable)):
        return None
    return _Boxes(boxes.values[usable], boxes.width[usable], boxes.height[usable], [], boxes.images), evidence[usable]


def _agreeing(evidence: tuple[_Boxes, Floats], reading: BoxFormat) -> NDArray[np.bool_]:
    """Which boxes have the listed area, or the extent of their polygons, read so."""
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


def _disagree(evidence: tuple[_Boxes, Floats] | None, own: BoxFormat) -> bool:
    """Whether evidence speaks against the format's own reading, and for another one."""
    if evidence is None or _agreeing(evidence, own).mean() > 0.1:
        return False
    return any(_agreeing(evidence, reading).mean() >= 0.9 for reading in BOX_FORMATS.values())


def _in_a_corner(boxes: _Boxes, own: BoxFormat) -> bool:
    """Whether boxes in pixels stay in the upper left corner of large images, and are within 0 to 100."""
    if own.units != "pixels" or len(boxes.values) < 2 * _FEWEST or boxes.values.max() > 101:
        return False
    return boxes.reach(own) <= _CORNER and boxes.reach(BOX_FORMATS[f"{own.name}_percent"]) >= _HOPELESS


def _best(
    boxes: _Boxes, own: BoxFormat, areas: tuple[_Boxes, Floats] | None, extents: tuple[_Boxes, Floats] | None
) -> BoxFormat | None:
    """The other reading that explains the boxes best; None if none explains nearly all of them."""
    scores: dict[str, float] = {}
    given = [e for e in (areas, extents) if e is not None and _disagree(e, own)]
    only_percent = not given and boxes.share(own) > 1 - _SUSPECT
    for reading in sorted(BOX_FORMATS.values(), key=lambda f: _unlikely(f, own)):
        if reading.name == own.name or boxes.share(reading) < _FITTING or (only_percent and reading.units != "percent"):
            continue
        scores[reading.name] = boxes.share(reading) + sum(float(_agreeing(e, reading).mean()) for e in given)
    if not scores:
        return None
    good = [name for name, score in scores.items() if score >= max(scores.values()) - 0.004]
    return BOX_FORMATS[
        min(good, key=lambda name: round(boxes.off_center(BOX_FORMATS[name]), 1))
    ]  # the first of several


def _unlikely(reading: BoxFormat, own: BoxFormat) -> tuple[bool, ...]:
    """Sorts readings from the likely mistakes to the unlikely ones."""
    return reading.units != own.units, reading.units == "percent", reading.y_first, reading.shape != own.shape


def _doubt_place(boxes: _Boxes, own: BoxFormat, raw_split: RawSplit, leaving: int) -> Doubt | None:
    """Of boxes that leave their images whatever they mean."""
    total = len(boxes.values)
    if leaving < max(_FEWEST, _LEAVING * total):
        return None
    return Doubt(
        "boxes_implausible",
        raw_split.source,
        f"boxes as {own.words}",
        f"that {leaving} of {total} leave their image or have no size, and that no other way to read them fits",
        "look whether images were resized, cropped or exchanged after labelling, or go on with them as they are with "
        f"--box_format {own.name}",
        refuse=leaving >= _HOPELESS * total,
    )


def _doubt_reading(
    boxes: _Boxes,
    own: BoxFormat,
    best: BoxFormat,
    raw_split: RawSplit,
    areas: tuple[_Boxes, Floats] | None,
    extents: tuple[_Boxes, Floats] | None,
) -> Doubt | None:
    """Of boxes that another reading explains."""
    total = len(boxes.values)
    fit_own, fit_best = int(boxes.fit(own).sum()), int(boxes.fit(best).sum())
    reasons: list[str] = []
    gain = fit_best - fit_own
    few = 2 if fit_own == 0 and "relative" in (own.units, best.units) and best.units != own.units else 3
    refuse = boxes.surprise(own, best) >= _SURPRISE and (
        gain >= max(few, _LEAVING * total)
        or (gain >= max(few, _SUSPECT * total) and total >= _MANY and fit_best >= _CERTAIN * total)
    )
    if refuse or gain >= max(_FEWEST, _LEAVING * total):
        reasons.append(
            f"{total - fit_own} of {total} boxes leave their image or have no size as the first, {total - fit_best} as "
            "the second"
        )
    for evidence, name in ((areas, "area listed for them"), (extents, "extent of their polygons")):
        if evidence is not None and _disagree(evidence, own):
            as_own, as_best = int(_agreeing(evidence, own).sum()), int(_agreeing(evidence, best).sum())
            if as_best >= 0.9 * len(evidence[1]):
                reasons.append(
                    f"{as_own} of {len(evidence[1])} boxes have the {name} as the first, {as_best} as the second"
                )
                refuse = True
    if not reasons and best.units == "percent" and _in_a_corner(boxes, own):
        reasons.append(
            f"boxes stay within {boxes.reach(own):.0%} of their images' sides as the first, within "
            f"{boxes.reach(best):.0%} as the second"
        )
        refuse = total >= 4 * _FEWEST and boxes.spread(best) >= _SPREAD  # not, say, a logo in the corner
    if not reasons:
        return None
    return Doubt(
        "boxes_implausible",
        raw_split.source,
        f"boxes as {own.words}",
        f"what looks like {best.words} ({'; '.join(reasons)})",
        f"say which it is with --box_format {best.name} or --box_format {own.name}",
        refuse,
    )
