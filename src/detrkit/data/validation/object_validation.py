"""Validate the objects of one image: map boxes and masks to the upright image, clip, and report defects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import Any

from detrkit.data.decode.mask_files import FileMask
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.raw import BoxForm, RawImage, RawObject, RawSplit
from detrkit.data.formats.rotated import enclosing_box
from detrkit.data.records import ObjectRecord
from detrkit.data.validation.box_values import Box, as_number, parse_box
from detrkit.data.validation.exif import UNDECIDED, ExifChoice
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.ops.masks import is_polygon, run_lengths, segmentation_fault

OVERHANG = 0.5
"""Pixels by which a box may leave its image without being clipped: the rounding errors of tools."""
_NOT_UNDERSTOOD = {"category_unknown", "box_malformed", "box_not_finite"}
"""Findings of objects whose place or class is unknown, though they are somewhere on the image."""
_ASPECT_TOLERANCE = 0.01
_FAR = 10
"""Image sides by which a polygon may reach beyond its image: the time to rasterize one grows with its size."""


@dataclass(frozen=True, slots=True)
class AnnotationTransform:
    """Maps points of the annotation file to the upright image: swaps the axes or not, then scales and shifts."""

    width: int
    """Width of the upright image, in pixels."""
    height: int
    swap: bool = False
    scale_x: float = 1.0
    shift_x: float = 0.0
    scale_y: float = 1.0
    shift_y: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether annotations refer to the upright image in pixels already."""
        return (self.swap, self.scale_x, self.shift_x, self.scale_y, self.shift_y) == (False, 1, 0, 1, 0)

    @property
    def is_turned(self) -> bool:
        """Whether annotations refer to the image as stored, which is rotated or mirrored."""
        return self.swap or self.scale_x < 0 or self.scale_y < 0

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Map a point to pixels of the upright image."""
        if self.swap:
            x, y = y, x
        return self.scale_x * x + self.shift_x, self.scale_y * y + self.shift_y

    def box(self, box: Box) -> Box:
        """Map a box x1, y1, x2, y2 to the upright image, with its corners in order."""
        (xa, ya), (xb, yb) = self.point(*box[:2]), self.point(*box[2:])
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def back(self, box: Box) -> Box:
        """Map a box of the upright image back to the units of the file, if that is not rotated."""
        x1, y1, x2, y2 = box
        return x1 / self.scale_x, y1 / self.scale_y, x2 / self.scale_x, y2 / self.scale_y


def find_transform(
    image: RawImage, info: ImageInfo, form: BoxForm, findings: Findings, exif: ExifChoice = UNDECIDED
) -> AnnotationTransform:
    """Decide which image the annotations refer to: upright, as stored, or before it was resized.

    If the listed size equals the upright size, annotations refer to the upright image. If it equals only the stored
    size, boxes were drawn without regard to the EXIF orientation, and are rotated. If the size does not tell, or the
    boxes contradict it, `exif` decides. A listed size of the same aspect ratio, with all boxes inside it, means that
    the image was resized after labeling, and boxes are scaled. Otherwise boxes stay as they are.

    Args:
        image: the raw image.
        info: properties of the image file.
        form: form of the boxes.
        findings: list that takes defects of the image size.
        exif: the decision for all images of its annotation file.
    """
    width, height = info.upright
    if form == "relative":
        return (
            stored_image_transform(info, (1.0, 1.0))
            if exif.stored_for(info)
            else AnnotationTransform(width, height, scale_x=width, scale_y=height)
        )
    listed_width, listed_height = (_listed_side(image, side, findings) for side in ("width", "height"))
    stored = exif.stored_for(info, (listed_width, listed_height))
    if not listed_width or not listed_height:
        findings.add("image_size_absent", image.file, image.where, image.file_name)
        return stored_image_transform(info) if stored else AnnotationTransform(width, height)
    if (listed_width, listed_height) in ((width, height), (info.width, info.height)):
        return stored_image_transform(info) if stored else AnnotationTransform(width, height)
    own_width, own_height = (info.width, info.height) if stored else (width, height)
    stretch_x, stretch_y = own_width / listed_width, own_height / listed_height
    resized = abs(stretch_x / stretch_y - 1) <= _ASPECT_TOLERANCE and _fit(image, listed_width, listed_height, form)
    exchanged = " (width and height exchanged)" if (listed_width, listed_height) == (height, width) else ""
    findings.add(
        "image_size_differs",
        image.file,
        image.where,
        f"{listed_width:g} x {listed_height:g} listed, {image.file_name} has {own_width} x {own_height}{exchanged}: "
        f"boxes {'scaled' if resized else 'kept'}",
    )
    if stored:
        return stored_image_transform(info, (listed_width, listed_height) if resized else None)
    return (
        AnnotationTransform(width, height, scale_x=stretch_x, scale_y=stretch_y)
        if resized
        else AnnotationTransform(width, height)
    )


def stored_image_transform(info: ImageInfo, file_size: tuple[float, float] | None = None) -> AnnotationTransform:
    """The transform of boxes that were drawn on the image as stored (EXIF 2.32, tag 0x0112).

    Args:
        info: properties of the image file.
        file_size: (width, height) of the stored image in the units of the boxes: (1, 1) if they are relative; None:
            pixels.
    """
    width, height = info.upright
    file_width, file_height = file_size or (info.width, info.height)
    swap = info.orientation >= 5
    mirror_x = info.orientation in (2, 3, 6, 7)
    mirror_y = info.orientation in (3, 4, 7, 8)
    scale_x, scale_y = info.width / file_width, info.height / file_height
    if swap:
        scale_x, scale_y = scale_y, scale_x
    return AnnotationTransform(
        width,
        height,
        swap,
        -scale_x if mirror_x else scale_x,
        float(width) if mirror_x else 0.0,
        -scale_y if mirror_y else scale_y,
        float(height) if mirror_y else 0.0,
    )


def clean_objects(
    image: RawImage, transform: AnnotationTransform, split: RawSplit, known: frozenset[int], findings: Findings
) -> tuple[list[ObjectRecord], list[str]]:
    """Return the usable objects of one image, and the kinds of findings of those that were left out.

    Duplicates do not count as left out, since their object is kept. Absent ids become 0; the caller numbers them.
    """
    form = split.box_form
    clean: list[ObjectRecord] = []
    lost: list[str] = []
    seen: dict[tuple[int, Box, bool], Any] = {}
    for raw in image.objects:
        category = as_id(raw.category)
        if category is None or category not in known:
            findings.add("category_unknown", image.file, raw.where, f"category {raw.category!r}")
            lost.append("category_unknown")
            continue
        box, problem = _corners(raw, image, form, findings)
        if box is None:
            lost.append(problem)
            continue
        if raw.rotation and form != "relative":
            findings.add("box_rotated", image.file, raw.where, f"by {raw.rotation:.4g} degrees")
            box = enclosing_box(box, raw.rotation)
        if not transform.is_identity:
            box = transform.box(box)
        x1, y1, x2, y2 = box
        if x2 <= 0 or y2 <= 0 or x1 >= transform.width or y1 >= transform.height:
            detail = f"{_show(box)} in {transform.width} x {transform.height} pixels"
            findings.add("box_off_image", image.file, raw.where, detail)
            lost.append("box_off_image")
            continue
        # smaller overhangs are rounding errors, which official evaluation keeps as well
        clipped = max(-x1, -y1, x2 - transform.width, y2 - transform.height) >= OVERHANG
        if clipped:
            detail = f"{_show(box)} in {transform.width} x {transform.height} pixels"
            findings.add("box_outside", image.file, raw.where, detail)
            box = max(0.0, x1), max(0.0, y1), min(float(transform.width), x2), min(float(transform.height), y2)
        segmentation = _segmentation(raw, image, transform, findings)
        key = (category, box, raw.crowd)  # duplicates: the same class, box and mask
        if key in seen and seen[key] == segmentation:
            findings.add("annotation_twice", image.file, raw.where, f"category {category}, {_show(box)}")
            continue
        seen[key] = segmentation
        if raw.crowd:
            findings.add("difficult" if form == "xyxy" else "crowd", image.file, raw.where)
        area = _area(raw, image, transform, box, segmentation, split, clipped, findings)
        clean.append(ObjectRecord(as_id(raw.id) or 0, category, box, area, raw.crowd, segmentation, raw.where))
    return clean, lost


def must_leave_out(
    image: RawImage, listed: int, clean: list[ObjectRecord], lost: list[str], findings: Findings
) -> bool:
    """Whether an image must be left out, because a lost object would be trained as background; reports it then.

    That is so if an object could not be read or understood, so that its place or class is unknown, or if all objects
    were left out. An empty box or a box outside of the image is harmless beside usable objects.

    Args:
        image: the raw image.
        listed: number of objects in its file.
        clean: the usable objects.
        lost: the findings of the others; see `clean_objects`.
        findings: takes the image that is left out.
    """
    understood = not image.unread and _NOT_UNDERSTOOD.isdisjoint(lost)
    if understood and (clean or not listed):
        return False
    kinds = Counter(lost) + Counter(record_malformed=image.unread)
    reasons = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or f"{listed} without pixels"
    findings.add("image_object_lost", image.path, image.where, reasons, len(clean))
    return True


def usable_box(box: Any) -> Box | None:
    """Convert x, y, w, h to x1, y1, x2, y2; None if they are no box."""
    return parse_box(box, "xywh")[0]


def _listed_side(image: RawImage, side: str, findings: Findings) -> float:
    """The listed width or height in pixels; 0 if there is no usable value."""
    value = getattr(image, side)
    if isinstance(value, str) and as_number(value) is not None:
        findings.add("number_as_text", image.file, image.where, f"{side} {value!r}")
    number = as_number(value) or 0.0
    return number if isfinite(number) and number >= 1 else 0.0


def _corners(raw: RawObject, image: RawImage, form: BoxForm, findings: Findings) -> tuple[Box | None, str]:
    """Parse a box to x1, y1, x2, y2 in the units of the file, or None; and the kind of its finding, if any."""
    box, problem = parse_box(raw.box, form)
    if problem:
        findings.add(problem, image.file, raw.where, f"found {raw.box!r}"[:80])
    return box, problem


def _fit(image: RawImage, width: float, height: float, form: BoxForm) -> bool:
    """Whether all boxes lie in an image of this size, up to a pixel."""
    boxes = [box for raw in image.objects if (box := parse_box(raw.box, form)[0]) is not None]
    return all(x2 <= width + 1 and y2 <= height + 1 for _, _, x2, y2 in boxes)


def _segmentation(raw: RawObject, image: RawImage, transform: AnnotationTransform, findings: Findings) -> Any | None:
    """Polygons in pixels of the upright image, or an RLE of its size; None if there is nothing usable."""
    segmentation = raw.segmentation
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, FileMask):
        return segmentation
    if isinstance(segmentation, dict):
        fault = segmentation_fault(segmentation, transform.height, transform.width)
        if transform.is_identity and not fault:
            return segmentation
        findings.add("segmentation_malformed", image.file, raw.where, fault or "an RLE of the image as stored")
        return None
    if not isinstance(segmentation, list):
        findings.add("segmentation_malformed", image.file, raw.where, f"found {segmentation!r}"[:80])
        return None
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
    if not transform.is_identity:
        polygons = [
            [value for x, y in zip(polygon[0::2], polygon[1::2], strict=True) for value in transform.point(x, y)]
            for polygon in polygons
        ]
    far = _FAR * max(transform.width, transform.height)
    polygons = [polygon for polygon in polygons if -far < min(polygon) and max(polygon) < far]
    if len(polygons) < len(segmentation):
        findings.add("segmentation_malformed", image.file, raw.where, f"{len(segmentation) - len(polygons)} polygons")
    return polygons or None


def _area(
    raw: RawObject,
    image: RawImage,
    transform: AnnotationTransform,
    box: Box,
    segmentation: Any | None,
    split: RawSplit,
    clipped: bool,
    findings: Findings,
) -> float:
    """Area in pixels: that of the file if it is usable and the box was not clipped, else of the polygons or the box."""
    of_box = (box[2] - box[0]) * (box[3] - box[1])
    if raw.area is None and not split.has_ids_and_areas:
        return _outline_area(segmentation) or of_box if segmentation else of_box
    area = as_number(raw.area)
    if area is None or not isfinite(area) or area <= 0:
        findings.add("area_absent", image.file, raw.where, "" if raw.area is None else f"found {raw.area!r}"[:80])
        return of_box
    if clipped and segmentation is None:
        return of_box
    return area if transform.is_identity else area * abs(transform.scale_x * transform.scale_y)


def _outline_area(outline: Any) -> float:
    """Area in square pixels of an RLE, or the sum of those of polygons by the shoelace formula; 0 for a mask file."""
    if not isinstance(outline, list):
        counts = outline["counts"] if isinstance(outline, dict) else []
        return float(sum((counts if isinstance(counts, list) else run_lengths(counts) or [])[1::2]))
    total = 0.0
    for polygon in outline:
        xs, ys = polygon[0::2], polygon[1::2]
        total += abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    return total


def _show(box: Box) -> str:
    return "box " + " ".join(f"{value:.6g}" for value in box)
