"""COCO panoptic annotations: a json file per split, a folder of PNGs that hold segment ids, and one of images.

Format: cocodataset.org/#format-data ("Panoptic Segmentation"). A pixel's id is R + 256 G + 65536 B; 0 is void. Which
categories are things is read from the file (`isthing`). A segment becomes an object whose mask is a `FileMask`; no PNG
is decoded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.data.decode.mask_files import FileMask, MaskFiles, regions_of
from detrkit.data.files.image_finder import tidy_name
from detrkit.data.files.source import Source
from detrkit.data.formats.coco import as_id, find_image, read_categories, read_content, read_images
from detrkit.data.formats.coco_layout import png_folders
from detrkit.data.formats.coco_splits import CocoFile, detect_json, load_json
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.records import ImageRecord
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.structures import Categories

_HIGHEST_ID = 256**3 - 1


def detect_panoptic(source: Source) -> str:
    """Name the COCO panoptic files that are there, for messages; empty if there are none."""
    return detect_json(source, panoptic=True)


def load_panoptic(source: Source) -> dict[str, RawSplit]:
    """Load the COCO panoptic files that the user named or that are found.

    Raises:
        DataError: a file is no COCO panoptic json, or its images or PNGs cannot be found.
    """
    return load_json(source, _read_file, panoptic=True)


def _read_file(file: CocoFile, source: Source) -> RawSplit:
    """Read one json file."""
    path, findings = file.path, source.findings
    content = read_content(path, findings)
    entries: list[Any] = content["annotations"]
    if not any(isinstance(entry, dict) and "segments_info" in entry for entry in entries):
        found = "objects with boxes (COCO instances)" if entries else "no annotations"
        raise DataError(f"expected COCO panoptic annotations, with segments_info, in {path}, found {found}")
    categories = _with_things(read_categories(content, path, findings), content["categories"], path)
    images, by_id = read_images(content["images"], file, source)
    folder = _png_folder(path, entries, png_folders(source.root, path, source.options.panoptic_dir))
    objects = 0
    for number, entry in enumerate(entries):
        where = f"annotations[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("segments_info"), list) or not _file_name(entry):
            findings.add("record_malformed", path, where, "expected an object with image_id, file_name, segments_info")
            continue
        owner = find_image(entry.get("image_id"), by_id)
        if owner is None:
            findings.add("image_of_object_missing", path, where, f"image_id {entry.get('image_id')!r}")
            continue
        if owner.panoptic is not None:
            findings.add("record_malformed", path, where, f"another entry for image_id {entry['image_id']!r}")
            continue
        owner.panoptic = folder / tidy_name(entry["file_name"])[0]
        objects = _read_segments(entry["segments_info"], owner, path, where, objects, findings)
    labeled = []
    for image in images:
        if image.panoptic is None:
            findings.add("image_unlabeled", image.path, detail=f"{image.where} of {path}")
        else:
            labeled.append(image)
    return RawSplit(file.split, labeled, categories, "xywh", str(path), has_ids_and_areas=True, masks_in_files=True)


def read_panoptic_gt(image: ImageRecord) -> tuple[Tensor, list[dict[str, Any]]]:
    """Decode the ground-truth segments of a panoptic image, as evaluation compares them.

    Args:
        image: a checked record with `panoptic`.

    Returns:
        The segment id of each pixel, int64 [H, W], with 0 for void; and one row per segment: `id`, `category_id` (of
        the data set), `area` in pixels, `iscrowd` (0 or 1) and `bbox` (x, y, w, h), both measured on the PNG. Ids of
        the PNG that no segment has are void; segments without pixels are left out.

    Raises:
        DataError: the PNG can no longer be read.
    """
    assert image.panoptic is not None, "not of panoptic data"
    ids = MaskFiles(image.height, image.width).ids(image.panoptic)
    regions = regions_of(ids)
    rows = []
    for segment in image.objects:
        assert isinstance(segment.segmentation, FileMask)
        region = regions.pop(segment.segmentation.value, None)
        if region is not None:
            x1, y1, x2, y2 = region.box
            rows.append(
                {
                    "id": segment.segmentation.value,
                    "category_id": segment.category_id,
                    "area": region.area,
                    "iscrowd": int(segment.crowd),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    gt_ids = torch.from_numpy(ids).to(torch.int64)
    unknown = [value for value in regions if value]
    if unknown:
        gt_ids[torch.isin(gt_ids, torch.tensor(unknown))] = 0
    return gt_ids, rows


def _read_segments(
    segments: list[Any], owner: RawImage, path: Path, where: str, objects: int, findings: Findings
) -> int:
    """Add the segments of an image as objects; takes and returns the number of objects so far, for their ids."""
    assert owner.panoptic is not None
    seen: set[int] = set()
    for number, row in enumerate(segments):
        place = f"{where}.segments_info[{number}]"
        segment_id = as_id(row.get("id")) if isinstance(row, dict) else None
        if segment_id is None or not 0 < segment_id <= _HIGHEST_ID or segment_id in seen:
            detail = f"id {segment_id} again" if segment_id in seen else f"expected an id of 1 to {_HIGHEST_ID}"
            findings.add("record_malformed", path, place, detail)
            owner.unread += segment_id not in seen
            continue
        seen.add(segment_id)
        objects += 1
        owner.objects.append(
            RawObject(
                objects,
                row.get("category_id"),
                row.get("bbox"),
                row.get("area"),
                as_id(row.get("iscrowd")) == 1,
                FileMask(owner.panoptic, segment_id),
                place,
            )
        )
    return objects


def _with_things(categories: Categories, rows: list[Any], path: Path) -> Categories:
    """Add the `isthing` flags to the categories.

    Raises:
        DataError: a category has no such flag.
    """
    things = {as_id(row.get("id")): row.get("isthing") for row in rows if isinstance(row, dict)}
    for category_id, name in zip(categories.ids, categories.names, strict=True):
        if things.get(category_id) not in (0, 1):
            raise DataError(
                f"expected isthing 1 (countable) or 0 (stuff) for the category {name!r} in {path}, found "
                f"{things.get(category_id)!r}; add it, since nothing else says which classes are things"
            )
    return Categories(categories.ids, categories.names, tuple(bool(things[i]) for i in categories.ids))


def _file_name(entry: dict[str, Any]) -> str:
    name = entry.get("file_name")
    return name.strip() if isinstance(name, str) else ""


def _png_folder(path: Path, entries: list[Any], folders: Sequence[Path]) -> Path:
    """Choose the folder that holds most of a sample of the PNGs.

    Raises:
        DataError: no folder holds any.
    """
    names = [tidy_name(entry["file_name"])[0] for entry in entries if isinstance(entry, dict) and _file_name(entry)]
    sample = names[:: max(1, len(names) // 32)]
    hits = {folder: sum((folder / name).is_file() for name in sample) for folder in folders}
    best = max(hits, key=lambda folder: hits[folder], default=None)
    if best is None or not hits[best]:
        searched = ", ".join(map(str, folders)) or "no existing folder"
        example = repr(sample[0]) if sample else "those it lists"
        raise DataError(
            f"expected the PNGs of {path} in a folder beside it, found none such as {example} in {searched}; "
            "name their folder with --panoptic_dir"
        )
    return best
