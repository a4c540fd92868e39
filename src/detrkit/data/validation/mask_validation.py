"""Validate masks: COCO panoptic PNGs against their json, and polygons and RLE against boxes.

Defects that must be repaired are repaired whenever a data set is opened. Findings that only inform need every mask to
be decoded, which `detrkit check` alone does.
"""

from __future__ import annotations

from detrkit.data.decode.mask_files import FileMask, MaskFiles, Region, regions_of
from detrkit.data.formats.raw import RawImage, RawObject
from detrkit.data.records import ImageRecord, ObjectRecord
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.data.validation.object_validation import AnnotationTransform, usable_box
from detrkit.errors import DataError
from detrkit.ops.text import first_names

BOX_IOU, BOX_SLACK = 0.7, 3.0
"""A mask disagrees with its box if the IoU of its extent and the box is lower, and a side is off by more pixels.
Polygons and boxes of COCO itself differ by a few pixels."""
_OVERHANG = 1.0
"""Pixels by which a polygon may leave its image, since tools differ in where pixel coordinates start."""
_ASPECT_TOLERANCE = 0.01
_NOT_RGB = {"image_gray": "one channel (gray)", "image_palette": "a palette", "image_16bit": "16 bits per channel"}

Box = tuple[float, float, float, float]


def check_panoptic(
    image: RawImage, transform: AnnotationTransform, info: ImageInfo, findings: Findings, *, decode_all: bool
) -> bool:
    """Whether the PNG of a panoptic image is usable; repairs its segments.

    Args:
        image: the raw image; segments without a usable box get that of their pixels, those without pixels are dropped.
        transform: maps annotations to the upright image.
        info: properties of the PNG.
        findings: takes defects.
        decode_all: decode the PNG in any case.
    """
    problem = _problem(transform, info)
    if problem is not None:
        kind, detail = problem
        findings.add(
            kind,
            image.panoptic,
            image.where,
            _of(image, detail),
            0 if kind == "mask_size_differs" else len(image.objects),
        )
        if kind != "mask_size_differs":
            return False
    if not decode_all and all(usable_box(segment.box) for segment in image.objects):
        return True
    assert image.panoptic is not None
    try:
        regions = regions_of(MaskFiles(transform.height, transform.width).ids(image.panoptic))
    except DataError as error:
        findings.add(
            "mask_file_unreadable", image.panoptic, image.where, _of(image, str(error)[:120]), len(image.objects)
        )
        return False
    _fix(image, regions, transform, findings, decode_all=decode_all)
    if decode_all:
        known = {s.segmentation.value for s in image.objects if isinstance(s.segmentation, FileMask)}
        unknown = [value for value in regions if value and value not in known]
        if unknown:
            findings.add("pixels_without_segment", image.panoptic, image.where, f"ids {first_names(unknown)}")
        if not image.objects:
            return bool(regions)
    return True


def check_outlines(
    objects: list[ObjectRecord], image: RawImage, transform: AnnotationTransform, findings: Findings
) -> None:
    """Report defects of the polygons and RLE of clean objects, without changing them.

    Works on run lengths, without pixels: 0.1 ms per mask.
    """
    from faster_coco_eval.core import mask as coco_mask

    for obj in objects:
        shape = obj.segmentation
        if isinstance(shape, list):
            reach = _overhang(shape, transform)
            if reach > _OVERHANG:
                findings.add("polygon_outside", image.file, obj.where, f"by {reach:.6g} pixels")
            rle = coco_mask.merge(coco_mask.frPyObjects(shape, transform.height, transform.width))
        elif isinstance(shape, dict):
            rle = coco_mask.frPyObjects(shape, *shape["size"]) if isinstance(shape["counts"], list) else shape
        else:
            if isinstance(shape, FileMask) and not image.panoptic and obj.area == 1:
                findings.add("mask_tiny", image.file, obj.where)
            continue
        area = int(coco_mask.area(rle))
        if not area:
            findings.add("mask_empty", image.file, obj.where)
            continue
        if area == 1:
            findings.add("mask_tiny", image.file, obj.where)
        x, y, w, h = (float(v) for v in coco_mask.toBbox(rle))
        if disagree((x, y, x + w, y + h), obj.box):
            detail = f"{show_box((x, y, x + w, y + h))} of the mask, {show_box(obj.box)} listed"
            findings.add("mask_box_differs", image.file, obj.where, detail)


def note_absent_masks(images: list[ImageRecord], files: list[str], findings: Findings) -> None:
    """Report objects without a mask, if others of their split have one; `files` has the annotation file per image."""
    if any(obj.segmentation is not None and not obj.crowd for image in images for obj in image.objects):
        for image, file in zip(images, files, strict=True):
            for obj in image.objects:
                if obj.segmentation is None and not obj.crowd:
                    findings.add("mask_absent", file, obj.where, image.file_name)


def size_problem(mask: tuple[int, int], whole: tuple[int, int]) -> str:
    """Kind of finding for a mask of another size than its image, both (width, height); empty if sizes are equal."""
    if mask == whole:
        return ""
    ratio = mask[0] / mask[1] / (whole[0] / whole[1])
    return "mask_size_differs" if abs(ratio - 1) <= _ASPECT_TOLERANCE else "mask_shape_differs"


def disagree(mask: Box, box: Box) -> bool:
    """Whether the extent of a mask is too far from the box of its object; both x1, y1, x2, y2."""
    if max(abs(a - b) for a, b in zip(mask, box, strict=True)) <= BOX_SLACK:
        return False
    both = max(0.0, min(mask[2], box[2]) - max(mask[0], box[0])) * max(0.0, min(mask[3], box[3]) - max(mask[1], box[1]))
    union = (mask[2] - mask[0]) * (mask[3] - mask[1]) + (box[2] - box[0]) * (box[3] - box[1]) - both
    return both < BOX_IOU * union


def show_box(box: Box) -> str:
    """Format a box for findings."""
    return "box " + " ".join(f"{value:.6g}" for value in box)


def _overhang(polygons: list[list[float]], transform: AnnotationTransform) -> float:
    """Largest distance in pixels by which polygons leave their image."""
    return max(max(-min(p), max(p[0::2]) - transform.width, max(p[1::2]) - transform.height) for p in polygons)


def _of(image: RawImage, detail: str) -> str:
    """Add the name of the image to the detail of a finding."""
    return f"{detail}; image {image.file_name}" if detail else f"image {image.file_name}"


def _problem(transform: AnnotationTransform, info: ImageInfo) -> tuple[str, str] | None:
    """Kind and detail of the finding that makes a mask file unusable; None if it is usable."""
    if info.problem == "image_missing":
        return "mask_file_missing", ""
    if info.problem and info.problem != "image_too_small":
        return "mask_file_unreadable", info.detail
    wrong = next((text for mark, text in _NOT_RGB.items() if mark in info.marks), None)
    if wrong is not None:
        return "panoptic_not_rgb", wrong
    detail = f"{info.width} x {info.height}, the image has {transform.width} x {transform.height}"
    if transform.is_turned:
        return "mask_shape_differs", "a map of the image as stored, which its EXIF data turns"
    kind = size_problem((info.width, info.height), (transform.width, transform.height))
    return (kind, detail) if kind else None


def _fix(
    image: RawImage, regions: dict[int, Region], transform: AnnotationTransform, findings: Findings, *, decode_all: bool
) -> None:
    kept: list[RawObject] = []
    for segment in image.objects:
        assert isinstance(segment.segmentation, FileMask)
        region = regions.get(segment.segmentation.value)
        if region is None:
            findings.add("segment_without_pixels", image.file, segment.where, f"id {segment.segmentation.value}")
            continue
        kept.append(segment)
        box = usable_box(segment.box)
        if box is None:
            findings.add("box_from_mask", image.file, segment.where, f"found {segment.box!r}"[:80])
            x1, y1, x2, y2 = transform.back(region.box)
            segment.box = [x1, y1, x2 - x1, y2 - y1]
        elif decode_all and disagree(region.box, transform.box(box)):
            detail = f"{show_box(region.box)} of the mask, {show_box(transform.box(box))} listed"
            findings.add("mask_box_differs", image.file, segment.where, detail)
        if decode_all and region.area == 1:
            findings.add("mask_tiny", image.file, segment.where)
    image.objects = kept
