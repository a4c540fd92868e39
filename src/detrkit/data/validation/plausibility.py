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
from detrkit.data.validation.box_formats import FORMATS, OWN, BoxFormat, Floats, extent_of
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
    """A key of `findings.TREATMENTS`."""
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

    def fit(self, read: BoxFormat) -> NDArray[np.bool_]:
        """Which boxes lie in their images and have a size, read so."""
        if read.name not in self.fits:
            x1, y1, x2, y2 = read.corners(self.values, self.width, self.height).T
            slack_x, slack_y = _SLACK + _SLACK_PIXELS / self.width, _SLACK + _SLACK_PIXELS / self.height
            inside = (x1 >= -slack_x) & (y1 >= -slack_y) & (x2 <= 1 + slack_x) & (y2 <= 1 + slack_y)
            wide, high = (x2 - x1) * self.width, (y2 - y1) * self.height
            self.fits[read.name] = inside & (wide > 0) & (high > 0) & (np.maximum(wide, high) >= 1)
        return self.fits[read.name]

    def share(self, read: BoxFormat) -> float:
        """The share of those."""
        return float(self.fit(read).mean())

    def reach(self, read: BoxFormat) -> float:
        """How far right or down the boxes reach that fit, in shares of the image: the 99th of a hundred."""
        corners = read.corners(self.values, self.width, self.height)[self.fit(read)]
        return float(np.percentile(corners[:, 2:].max(axis=1), 99)) if len(corners) else 0.0

    def off_center(self, read: BoxFormat) -> float:
        """How far the middle of all boxes lies from that of the images, in shares of a side: near 0 in real data."""
        corners = read.corners(self.values, self.width, self.height)
        return float(np.abs((corners[:, :2] + corners[:, 2:]).mean(axis=0) / 2 - 0.5).max())

    def surprise(self, own: BoxFormat, read: BoxFormat) -> float:
        """The share of boxes that `read` fits, less that in images turned by a half, if boxes are what `own` says."""
        there = own.corners(self.values, self.width, self.height)
        turned = own.numbers(1 - there[:, [2, 3, 0, 1]], self.width, self.height)
        return self.share(read) - _Boxes(turned, self.width, self.height, [], self.images).share(read)

    def spread(self, read: BoxFormat) -> float:
        """Over which share of the longer way the centers of the boxes lie, but for the outermost twentieths."""
        corners = read.corners(self.values, self.width, self.height)
        low, high = np.percentile(corners[:, :2] + corners[:, 2:], (5, 95), axis=0) / 2
        return float((high - low).max())


def doubt_boxes(side: RawSplit, images: Sequence[RawImage], facts: Sequence[ImageInfo]) -> Doubt | None:
    """Whether the boxes of a split seem to be written in another way than its format has it.

    Args:
        side: the split as read.
        images: of it, with their objects.
        facts: of the images' files; those with a problem do not count.
    """
    boxes = _gather(images, facts)
    if not len(boxes.values):
        return None
    own = OWN[side.box_form]
    areas = _areas(boxes) if side.box_form == "xywh" else None
    extents = _extents(boxes) if side.box_form == "xywh" else None
    leaving = len(boxes.values) - int(boxes.fit(own).sum())
    by_place = leaving >= max(2, _SUSPECT * len(boxes.values))
    if not (by_place or _disagree(areas, own) or _disagree(extents, own) or _in_a_corner(boxes, own)):
        return None
    best = _best(boxes, own, areas, extents)
    if best is None:
        return _doubt_place(boxes, own, side, leaving)
    return _doubt_reading(boxes, own, best, side, areas, extents)


def doubt_classes(side: RawSplit, images: Sequence[RawImage]) -> Doubt | None:
    """Whether the class ids of a split seem to be counted from another number than its list of classes."""
    known = set(side.categories.ids)
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
                side.source,
                f"class ids {first} to {last}",
                f"{used} ({example}), as if they were counted from {first + shift}",
                "renumber them, or list the classes under the ids that are used",
                refuse=True,
            )
    return None


def _plain(value: Any) -> Any:
    """Something to count by."""
    return value if isinstance(value, int | float | str) else None


def _gather(images: Sequence[RawImage], facts: Sequence[ImageInfo]) -> _Boxes:
    objects: list[RawObject] = []
    counts: list[int] = []
    sizes: list[tuple[float, float]] = []
    for image, fact in zip(images, facts, strict=True):
        if not fact.problem and image.objects:
            objects += image.objects
            counts.append(len(image.objects))
            sizes.append(_largest_size(image, fact))
    values = _numbers([raw.box for raw in objects], 4)
    width, height = np.repeat(np.array(sizes, dtype=np.float64).reshape(-1, 2), counts, axis=0).T
    good: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
    if not good.all():
        values, width, height = values[good], width[good], height[good]
        objects = [raw for raw, usable in zip(objects, good.tolist(), strict=True) if usable]
    return _Boxes(values, width, height, objects, len(counts))


def _largest_size(image: RawImage, fact: ImageInfo) -> tuple[float, float]:
    """(width, height) in pixels that boxes of an image may be about: of the file, turned or not, or before a resize."""
    width, height = fact.upright
    if fact.orientation >= 5:
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
    some = _sample(boxes)
    areas = np.array([as_number(raw.area) or 0.0 for raw in some.objects], dtype=np.float64)
    return _those(some, areas, (areas > 0) & np.isfinite(areas))


def _extents(boxes: _Boxes) -> tuple[_Boxes, Floats] | None:
    """A sample of the boxes and the extents [n, 4] of their polygons, x1, y1, x2, y2; None where there are few."""
    some = _sample(boxes)
    found = [extent_of(raw.segmentation) if isinstance(raw.segmentation, list) else None for raw in some.objects]
    extents = np.array([(np.nan,) * 4 if box is None else box for box in found], dtype=np.float64)
    return _those(some, extents, np.asarray(np.isfinite(extents).all(axis=1)))


def _sample(boxes: _Boxes) -> _Boxes:
    step = max(1, len(boxes.values) // _SAMPLE)
    return _Boxes(boxes.values[::step], boxes.width[::step], boxes.height[::step], boxes.objects[::step], boxes.images)


def _those(some: _Boxes, evidence: Floats, usable: NDArray[np.bool_]) -> tuple[_Boxes, Floats] | None:
    if usable.sum() < max(_FEWEST, 0.5 * len(usable)):
        return None
    return _Boxes(some.values[usable], some.width[usable], some.height[usable], [], some.images), evidence[usable]


def _agreeing(evidence: tuple[_Boxes, Floats], read: BoxFormat) -> NDArray[np.bool_]:
    """Which boxes have the listed area, or the extent of their polygons, read so."""
    some, wanted = evidence
    corners = read.corners(some.values, some.width, some.height)
    x1, y1, x2, y2 = (corners * np.stack([some.width, some.height] * 2, axis=1)).T
    wide, high = x2 - x1, y2 - y1
    if wanted.ndim == 1:
        agree: NDArray[np.bool_] = (wide > 0) & (high > 0) & (np.abs(wide * high - wanted) <= _AREA_TOLERANCE * wanted)
        return agree
    slack = np.stack([wide, high, wide, high], axis=1).clip(0) * _EXTENT_TOLERANCE + _EXTENT_PIXELS
    return np.asarray((np.abs(np.stack([x1, y1, x2, y2], axis=1) - wanted) <= slack).all(axis=1))


def _disagree(evidence: tuple[_Boxes, Floats] | None, own: BoxFormat) -> bool:
    """Whether evidence speaks against the format's own reading, and for another one."""
    if evidence is None or _agreeing(evidence, own).mean() > 0.1:
        return False
    return any(_agreeing(evidence, read).mean() >= 0.9 for read in FORMATS.values())


def _in_a_corner(boxes: _Boxes, own: BoxFormat) -> bool:
    """Whether boxes in pixels stay in the upper left corner of large images, and are within 0 to 100."""
    if own.units != "pixels" or len(boxes.values) < 2 * _FEWEST or boxes.values.max() > 101:
        return False
    return boxes.reach(own) <= _CORNER and boxes.reach(FORMATS[f"{own.name}_percent"]) >= _HOPELESS


def _best(
    boxes: _Boxes, own: BoxFormat, areas: tuple[_Boxes, Floats] | None, extents: tuple[_Boxes, Floats] | None
) -> BoxFormat | None:
    """The other reading that explains the boxes best; None if none explains nearly all of them."""
    scores: dict[str, float] = {}
    given = [e for e in (areas, extents) if e is not None and _disagree(e, own)]
    only_percent = not given and boxes.share(own) > 1 - _SUSPECT
    for read in sorted(FORMATS.values(), key=lambda f: _unlikely(f, own)):
        if read.name == own.name or boxes.share(read) < _FITTING or (only_percent and read.units != "percent"):
            continue
        scores[read.name] = boxes.share(read) + sum(float(_agreeing(e, read).mean()) for e in given)
    if not scores:
        return None
    good = [name for name, score in scores.items() if score >= max(scores.values()) - 0.004]
    return FORMATS[min(good, key=lambda name: round(boxes.off_center(FORMATS[name]), 1))]  # the first of several


def _unlikely(read: BoxFormat, own: BoxFormat) -> tuple[bool, ...]:
    """Sorts readings from the likely mistakes to the unlikely ones."""
    return read.units != own.units, read.units == "percent", read.y_first, read.shape != own.shape


def _doubt_place(boxes: _Boxes, own: BoxFormat, side: RawSplit, leaving: int) -> Doubt | None:
    """Of boxes that leave their images whatever they mean."""
    total = len(boxes.values)
    if leaving < max(_FEWEST, _LEAVING * total):
        return None
    return Doubt(
        "boxes_implausible",
        side.source,
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
    side: RawSplit,
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
        side.source,
        f"boxes as {own.words}",
        f"what looks like {best.words} ({'; '.join(reasons)})",
        f"say which it is with --box_format {best.name} or --box_format {own.name}",
        refuse,
    )
