"""Read COCO instance annotations: one json file and the folder of its pictures, into a RawSplit.

Format: cocodataset.org/#format-data ("Object Detection"). `bbox` is x, y, w, h in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from detrkit.data.coco_files import find_files, tidy_name
from detrkit.data.findings import Findings
from detrkit.data.raw import RawImage, RawObject, RawSplit
from detrkit.errors import DataError
from detrkit.structures import Categories


def read_coco(
    path: Path, folders: Sequence[Path], within: Path, name: str, findings: Findings, *, segmentations: bool = True
) -> RawSplit:
    """Read one json file.

    Args:
        path: the json file.
        folders: where its pictures may lie, best guess first; the first one that holds some of them is taken.
        within: the folder that is searched for those which are not there.
        name: `train` or `val`.
        findings: takes what is wrong with single records.
        segmentations: keep the polygons and RLE masks; most of the memory of a large file.

    Raises:
        DataError: the file is no COCO json, its categories contradict each other, or no picture can be found.
    """
    content = load_coco(path)
    images, by_id = read_pictures(content["images"], path, folders, within, findings)
    categories = read_categories(content, path, findings)
    annotations = content["annotations"]
    content.clear()
    annotations.reverse()
    for number in range(len(annotations)):
        row = annotations.pop()  # freed one by one: a large file would otherwise be in memory twice
        where = f"annotations[{number}]"
        if not isinstance(row, dict):
            findings.add("record_malformed", path, where, "expected an object with image_id, category_id and bbox")
            continue
        ref = reference(row.get("image_id"))
        owner = by_id.get(ref) if ref is not None else None
        if owner is None:
            findings.add("image_of_object_missing", path, where, f"image_id {row.get('image_id')!r}")
            continue
        owner.objects.append(
            RawObject(
                row.get("id"),
                row.get("category_id"),
                row.get("bbox"),
                row.get("area"),
                as_id(row.get("iscrowd")) == 1,
                row.get("segmentation") if segmentations else None,
                where,
            )
        )
    return RawSplit(name, images, categories, "xywh", str(path))


def read_pictures(
    rows: list[Any], path: Path, folders: Sequence[Path], within: Path, findings: Findings
) -> tuple[list[RawImage], dict[Hashable, RawImage]]:
    """The pictures that `images` of the json file `path` lists, in its order, and the same by `reference(id)`.

    Raises:
        DataError: no picture can be found.
    """
    names = [row["file_name"] for row in rows if isinstance(row, dict) and isinstance(row.get("file_name"), str)]
    files = find_files(path, map(_printable, filter(str.strip, names)), folders, within)
    images: list[RawImage] = []
    by_id: dict[Hashable, RawImage] = {}
    for number, row in enumerate(rows):
        where = f"images[{number}]"
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"].strip():
            findings.add("record_malformed", path, where, "a picture needs a file_name")
            continue
        file_path, file_name = files[_printable(row["file_name"])]
        if tidy_name(row["file_name"])[1]:
            findings.add("image_name_leaves_folder", path, where, repr(row["file_name"]))
        key = as_id(row.get("id"))
        if key is None:
            findings.add("image_id_not_integer", path, where, repr(row.get("id")))
        image = RawImage(
            key, file_path, file_name, row.get("height"), row.get("width"), [], file=str(path), where=where
        )
        images.append(image)
        ref = reference(row.get("id"))
        if ref is not None:
            by_id.setdefault(ref, image)
    return images, by_id


def as_id(value: Any) -> int | None:
    """An integer id out of 7, 7.0, "7" or True; None for anything else."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            return None
    return None


def looks_like_coco(path: Path) -> bool:
    """Whether a json file starts like COCO instances; cheap, so that a folder of large files can be looked through."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    if b'"segments_info"' in head or b'"caption"' in head:
        return False
    return b'"images"' in head or b'"annotations"' in head or b'"categories"' in head


def load_coco(path: Path) -> dict[str, Any]:
    """The content of a COCO json, with lists under `images` (not empty), `annotations` and `categories`.

    Raises:
        DataError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"expected JSON in {path}, found a mistake at line {error.lineno}, column {error.colno}: {error.msg}; "
            "the file may be cut short, write or copy it again"
        ) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"expected JSON text in {path}, found something else: {error}") from None
    if not isinstance(content, dict):
        raise DataError(
            f"expected a COCO file with images, annotations and categories in {path}, found a {type(content).__name__}"
            + ("; a list of detections is a COCO results file, not a data set" if isinstance(content, list) else "")
        )
    for key, required in (("images", True), ("annotations", False), ("categories", False)):
        if key not in content and not required:
            content[key] = []
        if not isinstance(content.get(key), list):
            found = ", ".join(sorted(content)[:8]) if key not in content else type(content[key]).__name__
            raise DataError(f"expected a list under {key!r} in the COCO file {path}, found {found or 'nothing'}")
    if not content["images"]:
        raise DataError(f"expected pictures under 'images' in the COCO file {path}, found an empty list")
    return content


def reference(value: Any) -> Hashable | None:
    """What an image and its annotations share: the integer where the id is one, else the text."""
    number = as_id(value)
    if number is not None:
        return number
    return value if isinstance(value, str) else None


def _printable(text: str) -> str:
    """The text, with what cannot be written as UTF-8 (halves of characters, which JSON allows) spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_categories(content: dict[str, Any], path: Path, findings: Findings) -> Categories:
    """The categories that a COCO json lists, or else the ids that occur in it; ids are integers, names differ.

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
        found = {as_id(row.get("category_id")) for row in content["annotations"] if isinstance(row, dict)}
        names = {category_id: str(category_id) for category_id in sorted(i for i in found if i is not None)}
        if content["annotations"]:
            findings.add("categories_absent", path, "categories", f"{len(names)} ids occur")
    return Categories(tuple(names), tuple(names.values()))
