"""Decide whether boxes refer to the image as stored or to the upright image, if EXIF data rotate it.

Tools differ, but one tool wrote the whole annotation file, so its images vote: those whose listed size is that of only
one of the two, or whose boxes fit only one (if no sizes are listed, or boxes contradict them). Images that are square,
mirrored or rotated by 180 degrees have the same size both ways and do not vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detrkit.data.formats.raw import RawDataset, RawImage, RawSplit
from detrkit.data.validation.box_values import Box, as_number, parse_box
from detrkit.data.validation.file_groups import group_by_file
from detrkit.data.validation.image_probe import ImageInfo

_SHAPE_TOLERANCE = 0.01
_MARGIN = 0.05
"""Share of a side by which a box must leave an image to show that it was not drawn on it."""
_WHOLE = 0.02
"""Tolerance in pixels for whole numbers: the error of six decimals on 13,000 pixels."""
_FEW = 0.1
"""Share of the votes up to which a minority is ignored."""
_AS = {True: "the image as stored", False: "the upright image"}


@dataclass(frozen=True)
class ExifChoice:
    """The decision for all images of an annotation file."""

    stored: bool | None
    """Whether boxes refer to the image as stored; None: undecided."""
    by_boxes: bool
    """Whether boxes decided, which count more than listed sizes."""
    why: str
    """The evidence, for the finding."""

    def stored_for(self, facts: ImageInfo, listed: tuple[float, float] = (0.0, 0.0)) -> bool:
        """Whether the boxes of one image refer to it as stored; `listed` is its listed (width, height), or zeros."""
        if facts.orientation == 1:
            return False
        own = None if self.by_boxes else _listed_as(facts, listed)
        return bool(self.stored) if own is None else own


UNDECIDED = ExifChoice(None, False, "it is unclear whether they were drawn on the image as stored")


@dataclass(frozen=True)
class Votes:
    """Votes of the images of an annotation file."""

    boxes_stored: int = 0
    boxes_upright: int = 0
    listed_stored: int = 0
    listed_upright: int = 0
    contradicted: int = 0
    """Number of images whose boxes fit one of the two, but which list the size of the other."""
    relative: bool = False
    """Whether boxes are relative, so that they vote by being whole pixels of one of the two."""

    def __bool__(self) -> bool:
        return any((self.boxes_stored, self.boxes_upright, self.listed_stored, self.listed_upright))

    def __add__(self, other: Votes) -> Votes:
        return Votes(
            self.boxes_stored + other.boxes_stored,
            self.boxes_upright + other.boxes_upright,
            self.listed_stored + other.listed_stored,
            self.listed_upright + other.listed_upright,
            self.contradicted + other.contradicted,
            self.relative or other.relative,
        )

    def choice(self) -> ExifChoice:
        """Decide by majority; undecided if the votes contradict each other."""
        listed = self.listed_stored + self.listed_upright
        by_boxes = self.contradicted > _FEW * listed if listed else bool(self.boxes_stored or self.boxes_upright)
        if not by_boxes and not listed:
            return UNDECIDED
        stored, upright = self.listed_stored, self.listed_upright
        evidence = "{n} rotated images list the size of {what}"
        if by_boxes:
            stored, upright = self.boxes_stored, self.boxes_upright
            fit = "are in whole pixels of" if self.relative else "fit"
            evidence = f"the boxes of {{n}} rotated images {fit} {{what}} alone"
        if min(stored, upright) > _FEW * max(stored, upright):
            vote = f"{stored} rotated images show that boxes refer to the image as stored, {upright} to the upright"
            return ExifChoice(None, False, f"{vote} one, so the listed size of each decides")
        decided = stored > upright
        return ExifChoice(decided, by_boxes, evidence.format(n=max(stored, upright), what=_AS[decided]))


def count_votes(raw_split: RawSplit, images: Sequence[RawImage], facts: Sequence[ImageInfo]) -> Votes:
    """Count the votes of the rotated images.

    Args:
        raw_split: their split, for its `box_form`.
        images: the raw images.
        facts: properties of their files.
    """
    boxes, listed, contradicted = {True: 0, False: 0}, {True: 0, False: 0}, 0
    relative = raw_split.box_form == "relative"
    for image, info in zip(images, facts, strict=True):
        if info.orientation < 5 or info.width == info.height or info.problem:
            continue
        corners = [box for raw in image.objects if (box := parse_box(raw.box, raw_split.box_form)[0]) is not None]
        size = as_number(image.width) or 0.0, as_number(image.height) or 0.0
        own = None if relative else _listed_as(info, size)
        if own is not None:
            listed[own] += 1
        if relative:
            vote = _whole_as(info, corners)
        else:
            exact = not all(size) or size in ((info.width, info.height), info.upright)
            vote = _fits_as(info, corners) if exact else None
        if vote is not None:
            boxes[vote] += 1
            contradicted += own is not None and own != vote
    return Votes(boxes[True], boxes[False], listed[True], listed[False], contradicted, relative)


def exif_choices(
    raw: RawDataset, probed: Mapping[str, tuple[Sequence[RawImage], Sequence[ImageInfo]]]
) -> dict[str, dict[str, ExifChoice]]:
    """Decide for each annotation file whether its boxes refer to the image as stored or to the upright image.

    A file whose images do not tell follows the other files of its split, else those of the data set.

    Args:
        raw: the data set.
        probed: split -> its images, and the properties of their files.
    """
    if any(split.masks_in_files for split in raw.splits.values()):  # the size of mask files shows the orientation
        return {name: dict.fromkeys(group_by_file(raw.splits[name], *pair), UNDECIDED) for name, pair in probed.items()}
    votes = {
        name: {
            file: count_votes(raw.splits[name], *part) for file, part in group_by_file(raw.splits[name], *pair).items()
        }
        for name, pair in probed.items()
    }
    of_split = {name: sum(of_file.values(), Votes()) for name, of_file in votes.items()}
    together = sum(of_split.values(), Votes())
    return {
        name: {file: (vote or of_split[name] or together).choice() for file, vote in of_file.items()}
        for name, of_file in votes.items()
    }


def _listed_as(facts: ImageInfo, listed: tuple[float, float]) -> bool | None:
    """Whether a listed size has the aspect ratio of the stored image (True) or upright one (False); None if unclear."""
    width, height = listed
    if not (1 <= width < 1e9 and 1 <= height < 1e9):
        return None
    if (listed == (facts.width, facts.height)) != (listed == facts.upright):
        return listed == (facts.width, facts.height)
    shape, stored, upright = width / height, facts.width / facts.height, facts.upright[0] / facts.upright[1]
    is_stored, is_upright = (abs(shape / other - 1) <= _SHAPE_TOLERANCE for other in (stored, upright))
    return is_stored if is_stored != is_upright else None


def _fits_as(facts: ImageInfo, boxes: Sequence[Box]) -> bool | None:
    """Whether boxes in pixels fit only the stored image (True) or only the upright one (False); None if unclear."""
    if not boxes:
        return None
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    sizes = (facts.width, facts.height), facts.upright
    leaves = [right > w * (1 + _MARGIN) + 1 or bottom > h * (1 + _MARGIN) + 1 for w, h in sizes]
    return leaves[1] if leaves[0] != leaves[1] else None


def _whole_as(facts: ImageInfo, boxes: Sequence[Box]) -> bool | None:
    """Whether relative boxes are whole pixels only of the stored image (True) or upright image (False), else None."""
    if not boxes:
        return None
    sizes = (facts.width, facts.height), facts.upright
    whole = [
        all(
            abs(2 * value * size - round(2 * value * size)) <= _WHOLE
            for box in boxes
            for value, size in zip(box, (w, h, w, h), strict=True)
        )
        for w, h in sizes
    ]
    return whole[0] if whole[0] != whole[1] else None
