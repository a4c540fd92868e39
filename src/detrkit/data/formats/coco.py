"""COCO instance annotations: a json file per split, and the folder of its images.

Format: cocodataset.org/#format-data ("Object Detection"). `bbox` is x, y, w, h in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from detrkit.data.files.encodings import read_json
from detrkit.data.files.image_finder import Match, tidy_name
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name
from detrkit.data.formats.coco_shapes import box_of_segmentation, plain_segmentation
from detrkit.data.formats.coco_splits import CocoFile, detect_json, load_json
from detrkit.data.formats.raw import RawImage, RawObject, RawSplit
from detrkit.data.formats.rotated import coco_rotation
from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError
from detrkit.ops.text import first_names
from detrkit.structures import Categories

LARGEST_ID = 2**63 - 1
"""The largest 64-bit integer: ids must fit into an int64 tensor."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
"""Integers as text, without the underscores that Python's `int` accepts."""


def detect_coco(source: Source) -> str:
    """Name the COCO instance files that are there, for messages; empty if there are none."""
    return detect_json(source, panoptic=False)


def load_coco(source: Source) -> dict[str, RawSplit]:
    """Load the COCO instance files that the user named or that are found.

    Raises:
        DataError: a file is no COCO json, categories contradict each other, or no image can be found.
    """
    return load_json(source, _read_file)


def _read_file(file: CocoFile, source: Source) -> RawSplit:
    """Read one json file."""
    content = read_content(file.path, source.findings)
    return read_records(content, file, source)


def read_records(
    content: dict[str, Any],
    file: CocoFile,
    source: Source,
    *,
    categories: Categories | None = None,
    numbers: tuple[Sequence[int], Sequence[int]] | None = None,
) -> RawSplit:
    """Read the images, categories and annotations of a COCO file, or of a part of one.

    Args:
        content: lists under `images`, `annotations` and `categories`; it is consumed.
        file: the file, and where its images may lie.
        source: takes findings.
        categories: the categories of a part; None: those of the content.
        numbers: of a part, the position of each image and of each annotation in the file; None: it is the whole file.

    Raises:
        DataError: categories contradict each other, or no image of a whole file can be found.
    """
    path, findings, segmentations = file.path, source.findings, source.options.segmentations
    images, by_id = read_images(content["images"], file, source, numbers and numbers[0])
    categories = categories or read_categories(content, path, findings)
    annotations = content["annotations"]
    content.clear()
    annotations.reverse()
    for number in range(len(annotations)):
        row = annotations.pop()  # free each row at once: a large file would otherwise be in memory twice
        where = f"annotations[{numbers[1][number] if numbers else number}]"
        if not isinstance(row, dict):
            findings.add("record_malformed", path, where, "expected an object with image_id, category_id and bbox")
            continue
        owner = find_image(row.get("image_id"), by_id)
        if owner is None:
            findings.add("image_of_object_missing", path, where, f"image_id {row.get('image_id')!r}")
            continue
        outline = plain_segmentation(row.get("segmentation"))
        box = row.get("bbox")
        if not _has_size(box) and (around := box_of_segmentation(outline)) is not None:
            findings.add("box_from_mask", path, where, f"found {box!r}"[:80])
            box = around
        attributes = row.get("attributes")
        if attributes and isinstance(attributes, dict):  # of CVAT: its rotation is read
            source.add_attributes({name: value for name, value in attributes.items() if name != "rotation"})
        number_of_object = as_id(row.get("id"))
        owner.objects.append(
            RawObject(
                None if number_of_object is None or abs(number_of_object) > LARGEST_ID else number_of_object,
                row.get("category_id"),
                box,
                row.get("area"),
                as_id(row.get("iscrowd")) == 1 or as_id(row.get("ignore")) == 1,
                outline if segmentations else None,
                where,
                coco_rotation(row) if "attributes" in row else 0.0,
            )
        )
    return RawSplit(file.split, images, categories, "xywh", str(path), has_ids_and_areas=True)


def _has_size(box: Any) -> bool:
    """Whether a box has a width or height; tools leave it out or write zeros where there is a mask."""
    return isinstance(box, list) and len(box) == 4 and any(box[2:])


def read_images(
    rows: list[Any], file: CocoFile, source: Source, numbers: Sequence[int] | None = None
) -> tuple[list[RawImage], dict[Hashable, RawImage]]:
    """Find the images of the records under `images`, in their order, and index them by id for `find_image`.

    Args:
        rows: the records.
        file: the file, and where its images may lie.
        source: takes findings.
        numbers: of a part of the file, the position of each record; None: these are all.

    Raises:
        DataError: no image of the whole file can be found.
    """
    path, findings = file.path, source.findings
    names = [image_name(row) for row in rows]
    files = source.finder.find(
        filter(None, names), file.folders, outside=file.outside, within=file.within, split_name=file.split_name
    )
    if numbers is None and files and all(match.how in ("absent", "ambiguous") for match in files.values()):
        raise DataError(_none_found(path, [*file.folders, *file.outside], files))
    alike = _alike_ids(rows)
    images: list[RawImage] = []
    by_id: dict[Hashable, RawImage] = {}
    for position, (row, name) in enumerate(zip(rows, names, strict=True)):
        where = f"images[{numbers[position] if numbers else position}]"
        if not name:
            findings.add("record_malformed", path, where, "an image needs a file_name")
            continue
        match = files[name]
        if match.how == "ambiguous":
            findings.add("image_ambiguous", path, where, _rivals(name, match))
        elif match.how == "other_ending":
            findings.add("image_other_ending", path, where, f"{name!r}, {match.path.name} is there")
        elif tidy_name(name)[1]:
            findings.add("image_name_leaves_folder", path, where, repr(name))
        elif match.how == "moved":
            findings.add("image_moved", path, where, f"{name!r}, found {match.path}")
        number, text = as_id(row.get("id")), row["id"].strip() if isinstance(row.get("id"), str) else ""
        own_spelling = number in alike and text not in ("", str(number))
        key = None if number is None or abs(number) > LARGEST_ID or own_spelling else number
        if key is None:
            findings.add("image_id_not_integer", path, where, repr(row.get("id")))
        image = RawImage(key, match.path, match.name, row.get("height"), row.get("width"), [], str(path), where)
        image.split_name = split_of_name(str(row.get("split") or ""))
        ref = text if number is None or own_spelling else number
        if ref != "":
            by_id.setdefault(ref, image)
            image.text_id = "" if key is not None else str(ref)
        if match.how != "ambiguous":
            images.append(image)
    return images, by_id


def image_name(row: Any) -> str:
    """The file name of an image record; LVIS has only a URL (`coco_url`). Empty if there is none."""
    if not isinstance(row, dict):
        return ""
    name = next((row[key] for key in ("file_name", "coco_url", "path") if isinstance(row.get(key), str)), "")
    return _printable(name).strip()


def _none_found(path: Path, folders: Sequence[Path], files: dict[str, Match]) -> str:
    """Write the error sentence for a json file of which no image is found."""
    name, match = next(iter(files.items()))
    if match.how == "ambiguous":
        return (
            f"expected one file for each of the {len(files)} images of {path}, found that {_rivals(name, match)}; "
            "write the folder into file_name as well"
        )
    searched = ", ".join(dict.fromkeys(str(folder) for folder in folders if folder.is_dir())) or "no existing folder"
    return (
        f"expected the {len(files)} images of {path} in one of its usual folders, found none such as {match.name!r} in "
        f"{searched}; name their folder with --train_images or --val_images"
    )


def _rivals(name: str, match: Match) -> str:
    return f"{name!r} occurs {len(match.rivals)} times: {first_names(match.rivals, 3)}"


def as_id(value: Any) -> int | None:
    """Convert 7, 7.0, "7", "007" or True to an integer id; None for anything else, such as "1_2"."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    return None


def read_content(path: Path, findings: Findings) -> dict[str, Any]:
    """Read a COCO json, with lists under `images` (not empty), `annotations` and `categories`.

    Args:
        path: the json file.
        findings: takes a finding if the file is not UTF-8.

    Raises:
        DataError: the file is no COCO json.
    """
    content = read_json(path, findings)
    if not isinstance(content, dict):
        raise DataError(
            f"expected a COCO file with images, annotations and categories in {path}, found a {type(content).__name__}"
            + _list_advice(content)
        )
    if not content.get("annotations") and (nested := _nested(content.get("images"))):
        raise DataError(
            f"expected all objects in one list 'annotations' in the COCO file {path}, found them in {nested}; write "
            "them into that list, each with the image_id of its image"
        )
    for key, required in (("images", True), ("annotations", False), ("categories", False)):
        if key not in content and not required:
            content[key] = []
        if not isinstance(content.get(key), list):
            found = first_names(sorted(content), 8) if key not in content else type(content[key]).__name__
            raise DataError(f"expected a list under {key!r} in the COCO file {path}, found {found or 'nothing'}")
    if not content["images"]:
        raise DataError(f"expected images under 'images' in the COCO file {path}, found an empty list")
    return content


def _list_advice(content: Any) -> str:
    """Guess what a json file that is a list may be, and what to do about it, as the end of an error sentence."""
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    if "images" in first:
        return f" of {len(content)}, the first with images; write each into a file of its own, without the list"
    if "score" in first or "image_id" in first:
        return "; a list of detections is a COCO results file, not a data set"
    return ""


def _nested(images: Any) -> str:
    """The place of the first list of objects inside an image record, as `images[0].objects`, or empty."""
    for position, row in enumerate(images if isinstance(images, list) else []):
        for key in ("annotations", "objects"):
            if isinstance(row, dict) and isinstance(row.get(key), list):
                return f"images[{position}].{key}"
    return ""


def find_image(value: Any, by_id: dict[Hashable, RawImage]) -> RawImage | None:
    """Find the image of an `image_id`: by its text, else by its number."""
    if isinstance(value, str) and (image := by_id.get(value.strip())) is not None:
        return image
    number = as_id(value)
    return None if number is None else by_id.get(number)


def _alike_ids(rows: list[Any]) -> set[int]:
    """Numbers of which ids have several spellings, such as "1" and "01": these are different images."""
    if not any(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        return set()
    spelt: dict[int, set[str]] = {}
    for row in rows:
        value = row.get("id") if isinstance(row, dict) else None
        number = as_id(value)
        if number is not None:
            spelt.setdefault(number, set()).add(value.strip() if isinstance(value, str) else str(number))
    return {number for number, texts in spelt.items() if len(texts) > 1}


def _printable(text: str) -> str:
    """The text with lone surrogates, which JSON allows and UTF-8 does not, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_categories(content: dict[str, Any], path: Path, findings: Findings) -> Categories:
    """Read the categories of a COCO json, or make them from the ids that occur; ids are integers, names unique.

    Raises:
        DataError: an entry has no integer id, or an id has two names.
    """
    names: dict[int, str] = {}
    for number, row in enumerate(content["categories"]):
        where = f"categories[{number}]"
        category_id = as_id(row.get("id")) if isinstance(row, dict) else None
        if category_id is None:
            raise DataError(f"expected an integer id and a name in {where} of {path}, found {row!r}")
        name = row.get("name")
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            findings.add("category_name_absent", path, where, f"id {category_id}")
            name = str(category_id)
        name = _printable(name).strip()
        if category_id in names:
            if names[category_id] != name:
                raise DataError(
                    f"expected one name for category id {category_id} in {path}, found {names[category_id]!r} and "
                    f"{name!r}; give each category its own id"
                )
            findings.add("category_listed_twice", path, where, f"id {category_id}")
            continue
        if name in names.values():
            findings.add("category_name_twice", path, where, name)
            name = f"{name} ({category_id})"
        names[category_id] = name
    if not names:
        ids = {as_id(row.get("category_id")) for row in content["annotations"] if isinstance(row, dict)}
        names = {category_id: str(category_id) for category_id in sorted(i for i in ids if i is not None)}
        if content["annotations"]:
            findings.add("categories_absent", path, "categories", f"{len(names)} ids occur")
    return Categories(tuple(names), tuple(names.values()))
