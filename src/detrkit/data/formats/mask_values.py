"""Read mask files into objects: one per pixel value, with the box around its pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from detrkit.data.decode.mask_files import FileMask, Ids, Region, read_ids, regions_of
from detrkit.data.files.encodings import read_json
from detrkit.data.formats.raw import RawImage, RawObject
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.image_probe import probe_images
from detrkit.data.validation.mask_validation import size_problem
from detrkit.errors import DataError

_WHITE = 255
_EDGE_VALUES = 8
"""Number of values besides white from which on a mask looks antialiased."""


@dataclass
class MaskedImage:
    """An image and its mask files."""

    path: Path
    name: str
    values: list[tuple[Path, str]] = field(default_factory=list)
    """Files with one value per object, each with the class of its folder, or empty."""
    objects: list[tuple[Path, str]] = field(default_factory=list)
    """Files with one object each, likewise with a class."""
    labeled: bool = False


def read_split(items: list[MaskedImage], findings: Findings) -> list[RawImage]:
    """Read the masks of a split into raw images; categories are class names, or empty."""
    kept = []
    for item in items:
        if item.labeled:
            kept.append(item)
        else:
            findings.add("image_unlabeled", item.path)
    with ThreadPoolExecutor(8) as pool:  # decoding releases the GIL
        results = list(pool.map(_read_image, range(1, len(kept) + 1), kept))
    images = []
    for image, problems in results:
        for add in problems:
            add(findings)
        if image is not None:
            images.append(image)
    if not images:
        raise DataError(
            f"expected masks that can be used of the {len(items)} images such as {items[0].path}, found none"
            + findings.reasons()
        )
    return images


_Problem = Callable[[Findings], None]


def _problem(kind: str, file: object, record: str = "", detail: str = "", dropped: int = 0) -> _Problem:
    return lambda findings: findings.add(kind, file, record, detail, dropped)


def _read_image(number: int, item: MaskedImage) -> tuple[RawImage | None, list[_Problem]]:
    """Read the masks of one image; return its record, or None if they cannot be used, and the findings to add."""
    image = RawImage(number, item.path, item.name, None, None, [], file=str(item.path))
    (info,) = probe_images([item.path])
    if info.problem:
        return image, []  # the check reports the problem
    width, height = info.upright
    image.width, image.height = width, height
    problems: list[_Problem] = []
    for path, label, single in [(*f, False) for f in item.values] + [(*f, True) for f in item.objects]:
        try:
            ids = read_ids(path)
            classes = {} if single else class_names_of(path)
        except DataError as error:
            return None, [_problem("mask_file_unreadable", path, detail=f"{str(error)[:160]}; image {item.name}")]
        kind = size_problem((ids.shape[1], ids.shape[0]), (width, height))
        if kind:
            detail = f"{ids.shape[1]} x {ids.shape[0]}, {item.name} has {width} x {height}"
            if kind == "mask_shape_differs":
                return None, [_problem(kind, path, detail=detail)]
            problems.append(_problem(kind, path, detail=detail))
        regions = _regions(ids, single)
        if single and not regions:
            problems.append(_problem("segment_without_pixels", path))
        if not single and _looks_smoothed(regions):
            problems.append(_problem("mask_smoothed", path, detail=f"{len(regions)} values, most pixels have {_WHITE}"))
        parts = _separate_parts(ids) if not single and len(regions) == 1 else 1
        if parts > 1:
            problems.append(_problem("mask_in_parts", path, detail=f"{parts} separate regions"))
        for value, region in regions.items():
            category = classes.get(value) if classes else label
            where = "" if single else f"value {value}"
            shape = (width / ids.shape[1], height / ids.shape[0])
            image.objects.append(_make_object(path, value, region, category, where, shape))
    return image, problems


def _looks_smoothed(regions: dict[int, Region]) -> bool:
    """Whether the values look like gray edge pixels of one antialiased mask, rather than like object numbers."""
    pixels = sum(region.area for region in regions.values())
    white = regions[_WHITE].area if _WHITE in regions else 0
    return 2 * white > pixels and _EDGE_VALUES <= len(regions) - 1 < _WHITE - 1


def _separate_parts(ids: Ids) -> int:
    """Number of connected regions of a mask (8-connectivity)."""
    count, _ = cv2.connectedComponents((ids != 0).astype(np.uint8), connectivity=8)
    return int(count) - 1


def _regions(ids: Ids, single: bool) -> dict[int, Region]:
    regions = regions_of(ids != 0 if single else ids)
    return {0: regions[1]} if single and 1 in regions else {} if single else {v: r for v, r in regions.items() if v}


def _make_object(
    path: Path, value: int, region: Region, category: str | None, where: str, scale: tuple[float, float]
) -> RawObject:
    x1, y1, x2, y2 = region.box
    box = [x1 * scale[0], y1 * scale[1], (x2 - x1) * scale[0], (y2 - y1) * scale[1]]
    place = f"{path.name}, {where}" if where else path.name
    return RawObject(None, category, box, region.area * scale[0] * scale[1], False, FileMask(path, value), place)


def class_names_of(path: Path) -> dict[int, str]:
    """Read value -> class from the json file beside a mask; empty if there is no such file.

    Raises:
        DataError: the file has another content.
    """
    file = path.with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
        return {int(value): str(name) for value, name in content.items() if not isinstance(name, dict | list)}
    except (DataError, ValueError, AttributeError) as error:
        raise DataError(f'expected {{"1": "CLASS", ...}} in {file}, found something else: {error}') from None
