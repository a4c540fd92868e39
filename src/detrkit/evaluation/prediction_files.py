"""Read files of predictions: COCO results, or panoptic maps in COCO's form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.decode.mask_files import read_ids
from detrkit.data.files.encodings import decode_text
from detrkit.data.formats.coco import as_id
from detrkit.data.formats.raw import RawImage
from detrkit.errors import DataError
from detrkit.ops.text import first_names


@dataclass(frozen=True)
class PanopticPredictions:
    """Panoptic maps in COCO's form: a row per image, and PNGs of segment ids."""

    path: Path
    """The json file."""
    rows: list[dict[str, Any]]
    """`image_id`, `png` (its file's name), `segments_info` with `id` and `category_id`; and `file_name`, that of the
    image, or None."""

    def maps(self) -> Iterator[tuple[int, NDArray[np.int32], list[dict[str, Any]]]]:
        """Image id, int32 [H, W] with the segment id of each pixel (0: none), and the segments; one by one.

        Raises:
            DataError: a PNG cannot be read, or holds an id that no segment has.
        """
        folder = self._folder()
        for row in self.rows:
            png = folder / row["png"]
            ids = read_ids(png)
            known = {segment["id"] for segment in row["segments_info"]}
            unknown = [value for value in np.unique(ids).tolist() if value and value not in known]
            if unknown:
                raise DataError(
                    f"expected in {png} only ids of the segments_info in {self.path}, found {unknown[0]}; write both "
                    "again from the same prediction"
                )
            yield row["image_id"], ids, row["segments_info"]

    def _folder(self) -> Path:
        """Where the PNGs lie: in the folder of the json file's name, beside it, or in one of the usual names."""
        beside = self.path.parent
        guesses = [self.path.with_suffix(""), beside / "png", beside / "panoptic", beside]
        for folder in guesses:
            if self.rows and (folder / self.rows[0]["png"]).is_file():
                return folder
        if self.rows:
            raise DataError(
                f"expected the PNGs of {self.path} in {guesses[0]}, found no {self.rows[0]['png']} there; put "
                "them into a folder of the json file's name"
            )
        return beside


def read_predictions(path: str | Path) -> list[dict[str, Any]] | PanopticPredictions:
    """Read a file of predictions; `coco_metrics.check_detections` checks the content of COCO results.

    Ids written as 7.0 or "7" are read as 7, as in a data set.

    Raises:
        DataError: there is no such file, or it is neither COCO results (a JSON list of objects) nor panoptic.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"expected COCO results in {path}, found no such file; look at the path")
    try:
        content = json.loads(decode_text(path.read_bytes(), path)[0])
    except ValueError as error:
        raise DataError(f"expected COCO results in {path}, but it is not JSON ({error}); write it again") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        rows = content["annotations"]
        if all(isinstance(row, dict) and "segments_info" in row for row in rows):
            return _panoptic(path, content, rows)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(
            f"expected a JSON list of detections in {path}, found {_kind(content)}; COCO results look like "
            '[{"image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, ...]'
        )
    return [_with_ids(row, "image_id", "category_id") for row in content]


def read_detections(path: str | Path) -> list[dict[str, Any]]:
    """Read a COCO results file, see `read_predictions`.

    Raises:
        DataError: there is no such file, or it is not a JSON list of objects.
    """
    predictions = read_predictions(path)
    if isinstance(predictions, PanopticPredictions):
        raise DataError(f"expected a JSON list of detections in {path}, found COCO panoptic predictions")
    return predictions


def _panoptic(path: Path, content: Mapping[str, Any], rows: list[dict[str, Any]]) -> PanopticPredictions:
    images = [row for row in content.get("images") or [] if isinstance(row, dict)]
    file_names = {as_id(row.get("id")): row.get("file_name") for row in images}
    entries = []
    for position, row in enumerate(rows):
        segments = row["segments_info"]
        if not isinstance(row.get("file_name"), str) or not isinstance(segments, list):
            raise DataError(
                f"expected image_id, file_name and segments_info in each entry of {path}, found entry {position} "
                f"without; COCO panoptic predictions look like {_EXAMPLE}"
            )
        segments = [_with_ids(segment, "id", "category_id") for segment in segments if isinstance(segment, dict)]
        broken = [s for s in segments if not all(isinstance(s.get(key), int) for key in ("id", "category_id"))]
        if broken or len(segments) < len(row["segments_info"]):
            raise DataError(
                f"expected an integer id and category_id in each segment, found {str(broken[:1] or segments)[:80]} in "
                f"entry {position} of {path}; COCO panoptic predictions look like {_EXAMPLE}"
            )
        entry = _with_ids(
            {"image_id": row.get("image_id"), "png": row["file_name"], "segments_info": segments}, "image_id"
        )
        entries.append(entry | {"file_name": file_names.get(entry["image_id"])})
    return PanopticPredictions(path, entries)


_EXAMPLE = (
    '{"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 1, "category_id": 1}, ...]}, ...]}'
)


def _with_ids(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Convert the values under these keys to integers where possible; a text id of an image is kept beside it."""
    text = row.get("image_id")
    row |= {key: number for key in keys if (number := as_id(row.get(key))) is not None}
    if "image_id" in keys and isinstance(text, str):
        row["image_id_text"] = text
    return row


def find_images(rows: list[dict[str, Any]], images: Sequence[RawImage], *, where: str) -> list[dict[str, Any]]:
    """Give detections the data set's own image ids, by `file_name` where they have one.

    Files of `detrkit predict` have file names, and ids that are those of the data set only by chance. Of several
    images of one name in different folders, the one whose path shares most of its end is meant. Ids that are text, or
    too large, are those of the data set's file.

    Raises:
        DataError: a file is not among the images, or several of them are called so.
    """
    by_path = {image.path.resolve(): as_id(image.id) for image in images}
    by_text = {image.text_id: as_id(image.id) for image in images if image.text_id}
    by_name: dict[str, list[RawImage]] = {}
    for image in images:
        by_name.setdefault(Path(image.file_name).name, []).append(image)
    ids_of: dict[str, set[int | None]] = {}
    result = []
    for row in rows:
        name = row.get("file_name")
        if isinstance(name, str):
            if name not in ids_of:
                resolved = Path(name).resolve()
                ids_of[name] = {by_path[resolved]} if resolved in by_path else _called(name, by_name)
            same = ids_of[name]
            if len(same) != 1:
                raise DataError(
                    f"expected in {where} only detections of images of the data set, found file_name {name!r}, "
                    f"{'which several of them are called' if same else 'which is none of them'}; "
                    "leave out what does not belong to it"
                )
            row = row | {"image_id": next(iter(same))}
        elif (text := str(row.get("image_id_text", row.get("image_id")))) in by_text:
            row = row | {"image_id": by_text[text]}
        result.append(row)
    return result


def _called(name: str, by_name: Mapping[str, Sequence[RawImage]]) -> set[int | None]:
    """Ids of the images of a name; of several, those whose paths share most folders with it from the end."""
    most, ids = 0, set[int | None]()
    for image in by_name.get(Path(name).name, ()):
        shared = max(_shared_end(PurePath(name), own) for own in (PurePath(image.file_name), image.path))
        if shared > most:
            most, ids = shared, set()
        if shared == most:
            ids.add(as_id(image.id))
    return ids


def _shared_end(a: PurePath, b: PurePath) -> int:
    """Number of last parts that two paths have in common."""
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return next((k for k, (x, y) in enumerate(pairs) if x != y), min(len(a.parts), len(b.parts)))


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list with something else in it"
    return f"an object with the keys {first_names(value, 6)}" if isinstance(value, dict) else type(value).__name__
