"""Writers of the results of `detrkit predict`, one image at a time, so that memory stays flat."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.files import JsonRows, atomic_path, write_atomic
from detrkit.ops.boxes import xyxy_to_xywh
from detrkit.ops.masks import polygons_from_mask
from detrkit.results import Detections, PanopticMap
from detrkit.structures import Categories

CSV_COLUMNS = ("file", "class_id", "class_name", "score", "x1", "y1", "x2", "y2")

CUTOUTS, LABEL_MAPS, PANOPTIC = "cutouts", "label_maps", "panoptic"
"""Folders of results with one file or more per image."""


@dataclass(frozen=True)
class ExtraOutputs:
    """Results that are written besides the tables, see `PredictConfig`."""

    cutouts: bool = False
    label_map: bool = False
    polygons: bool = False
    polygon_tolerance: float = 1.0
    panoptic: bool = False

    def folders(self) -> list[str]:
        """The folders of the chosen results."""
        choices = ((CUTOUTS, self.cutouts), (LABEL_MAPS, self.label_map), (PANOPTIC, self.panoptic))
        return [name for name, chosen in choices if chosen]


class PredictionWriter:
    """Writes result files as images come in; they get their names when all images are written.

    Used as a context: if the block ends with an error, only whole files of single images are left behind.

    Args:
        folder: where to write.
        categories: the model's classes.
        extras: results to write besides `detections.json` and `detections.csv`.
        masks: whether detections have masks; their area is then a further column of the csv file.
        tracks: whether detections have track ids; they are then the last column of the csv file.
    """

    def __init__(
        self, folder: Path, categories: Categories, extras: ExtraOutputs, *, masks: bool, tracks: bool = False
    ) -> None:
        self.rows = 0
        self._folder, self._categories, self._extras = folder, categories, extras
        self._columns = (*CSV_COLUMNS, *(("area",) if masks else ()), *(("track_id",) if tracks else ()))
        self._stack = contextlib.ExitStack()
        self._images: list[dict[str, Any]] = []
        self._polygons: JsonRows | None = None
        self._panoptic: JsonRows | None = None

    def __enter__(self) -> PredictionWriter:
        with contextlib.ExitStack() as stack:
            self._json = JsonRows(_open(stack, self._folder / "detections.json"), "[")
            # with the mark by which spreadsheets know UTF-8
            table = _open(stack, self._folder / "detections.csv", "utf-8-sig")
            self._csv = csv.writer(table, lineterminator="\n")
            if self._extras.polygons:
                self._polygons = JsonRows(_open(stack, self._folder / "polygons.json"), '{"annotations": [')
            if self._extras.panoptic:
                self._panoptic = JsonRows(_open(stack, self._folder / "panoptic.json"), '{"annotations": [')
            self._stack = stack.pop_all()
        self._csv.writerow(self._columns)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            rest = {"images": self._images, "categories": self._plain_categories()}
            tail = "\n], " + json.dumps(rest, ensure_ascii=False)[1:] + "\n"
            self._json.close("\n]\n")
            for dataset in (self._polygons, self._panoptic):
                if dataset is not None:
                    dataset.close(tail)
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # the triple that any exit is given

    def write(
        self,
        detections: Detections,
        image_id: int,
        name: str,
        image: Tensor,
        segments: PanopticMap | None,
        time: float | None = None,
    ) -> None:
        """Write the results of one image.

        Args:
            detections: of the image, with original ids and names.
            image_id: for the COCO files.
            name: relative name of its files, without an ending, with forward slashes.
            image: uint8 [3, H, W] (RGB).
            segments: its panoptic map, if there is one; `detections` then are the segments.
            time: of a video frame, in seconds from the start.
        """
        height, width = image.shape[1:]
        when = {} if time is None else {"time": round(time, 3)}
        if self._polygons is not None or self._panoptic is not None:
            image_row = {"id": image_id, "file_name": detections.source, "height": height, "width": width}
            self._images.append(image_row | when)
        self._write_rows(detections, image_id, when)
        if self._polygons is not None:
            for row in polygon_rows(detections, image_id, self._extras.polygon_tolerance):
                self._polygons.add({"id": self._polygons.count + 1} | row)
        if self._extras.label_map:
            write_png(self._folder / LABEL_MAPS / f"{name}.png", label_map(detections, height, width))
        if self._extras.cutouts:
            digits = len(str(len(detections)))
            for k, (cutout, class_name) in enumerate(
                zip(cutouts(detections, image), detections.class_names, strict=True), 1
            ):
                if cutout.size:
                    write_png(self._folder / CUTOUTS / name / f"{k:0{digits}}-{_file_name(class_name)}.png", cutout)
        if self._panoptic is not None and segments is not None:
            pixels, rows = panoptic_image(segments)
            write_png(self._folder / PANOPTIC / f"{name}.png", pixels)
            self._panoptic.add({"image_id": image_id, "file_name": f"{name}.png", "segments_info": rows})

    def _write_rows(self, detections: Detections, image_id: int, when: dict[str, float]) -> None:
        rows = detections.to_coco(image_id)
        areas = [] if detections.masks is None else [[int(mask.sum())] for mask in detections.masks]
        for k, (row, box, name) in enumerate(zip(rows, detections.xyxy.tolist(), detections.class_names, strict=True)):
            entry = row | {"file_name": detections.source, "category_name": name} | when
            self._json.add(entry | {"label": k + 1} if self._extras.label_map else entry)
            corners = [f"{value:.2f}" for value in box]
            self._csv.writerow(
                [
                    detections.source,
                    row["category_id"],
                    name,
                    f"{row['score']:.4f}",
                    *corners,
                    *(areas[k] if areas else ()),
                    *([row["track_id"]] if "track_id" in row else ()),
                ]
            )
            self.rows += 1

    def _plain_categories(self) -> list[dict[str, Any]]:
        things = self._categories.isthing or (True,) * len(self._categories)
        return Categories(self._categories.ids, self._categories.names, things).to_plain()


def segments_as_detections(segments: PanopticMap, source: str | None = None) -> Detections:
    """Convert the segments of a panoptic map to detections that do not overlap, best first, with the same ids and
    names."""
    rows = sorted(segments.segments, key=lambda row: -row.get("score", 1.0))
    height, width = segments.ids.shape
    masks = torch.zeros(len(rows), height, width, dtype=torch.bool)
    for mask, row in zip(masks, rows, strict=True):
        torch.eq(segments.ids, row["id"], out=mask)
    return Detections(
        xyxy=torch.tensor([box_of(mask) for mask in masks], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([row.get("score", 1.0) for row in rows], dtype=torch.float32),
        class_ids=torch.tensor([row["category_id"] for row in rows], dtype=torch.int64),
        class_names=tuple(str(row.get("category_name", row["category_id"])) for row in rows),
        masks=masks,
        image_size=(height, width),
        source=source,
    )


def box_of(mask: Tensor) -> tuple[int, int, int, int]:
    """The smallest box x1, y1, x2, y2 around a mask, bool [H, W]; zeros for an empty mask."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def polygon_rows(detections: Detections, image_id: int, tolerance: float) -> Iterable[dict[str, Any]]:
    """Convert detections with masks to annotations of a COCO data set, without ids; empty masks are left out."""
    assert detections.masks is not None
    for mask, score, class_id in zip(
        detections.masks, detections.scores.tolist(), detections.class_ids.tolist(), strict=True
    ):
        polygons = polygons_from_mask(mask, tolerance)
        if polygons:
            x1, y1, x2, y2 = box_of(mask)
            yield {
                "image_id": image_id,
                "category_id": class_id,
                "segmentation": polygons,
                "area": int(mask.sum()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
                "score": score,
            }


def label_map(detections: Detections, height: int, width: int) -> npt.NDArray[np.uint16]:
    """The number of the detection at each pixel, from 1 (the best) on; 0: none. Where two overlap, the better
    counts."""
    labels = np.zeros((height, width), dtype=np.uint16)
    assert detections.masks is not None
    for k in range(len(detections) - 1, -1, -1):
        labels[detections.masks[k].numpy()] = k + 1
    return labels


def cutouts(detections: Detections, image: Tensor) -> Iterable[npt.NDArray[np.uint8]]:
    """Cut each detection out of its image uint8 [3, H, W]: uint8 RGBA [h, w, 4], transparent outside of its mask.

    An empty mask gives an array of size 0.
    """
    assert detections.masks is not None
    for mask in detections.masks:
        x1, y1, x2, y2 = box_of(mask)
        opacity = mask[None, y1:y2, x1:x2].to(torch.uint8) * 255
        cutout = torch.cat([image[:, y1:y2, x1:x2] * (opacity > 0), opacity])
        yield cutout.permute(1, 2, 0).numpy()


def panoptic_image(segments: PanopticMap) -> tuple[npt.NDArray[np.uint8], list[dict[str, Any]]]:
    """Convert a panoptic map to COCO's form: RGB [H, W, 3] with ids as R + 256 G + 65536 B, and `segments_info`.

    Ids count from 1, since 0 stands for void: pixels without a segment.
    """
    ids = np.zeros(tuple(segments.ids.shape), dtype=np.int64)
    rows = []
    for number, row in enumerate(segments.segments, start=1):
        mask = segments.ids == row["id"]
        ids[mask.numpy()] = number
        x, y, w, h = xyxy_to_xywh(torch.tensor(box_of(mask))).tolist()
        rows.append(
            {
                "id": number,
                "category_id": row["category_id"],
                "area": int(mask.sum()),
                "bbox": [x, y, w, h],
                "iscrowd": 0,
            }
        )
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8), rows


def png_names(names: Iterable[str]) -> dict[str, str]:
    """Names of result files without an ending: `a` for `a.jpg`, or `a.jpg` where there is an `a.png` too."""
    names = list(names)
    stems = Counter(PurePosixPath(name).with_suffix("").as_posix().casefold() for name in names)
    short = {name: PurePosixPath(name).with_suffix("").as_posix() for name in names}
    return {name: stem if stems[stem.casefold()] == 1 else name for name, stem in short.items()}


def write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    """Write uint16 [H, W], uint8 RGB [H, W, 3] or RGBA [H, W, 4] to a PNG file, whole or not at all."""
    import cv2

    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # OpenCV has them the other way round
    write_atomic(path, cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes())


def _file_name(class_name: str) -> str:
    """Make a class name fit to be part of a file name."""
    return re.sub(r"[^\w.-]+", "_", class_name)[:60] or "object"


def _open(stack: contextlib.ExitStack, path: Path, encoding: str = "utf-8") -> IO[str]:
    """Open a file to write text to; bytes of file names in other encodings become `\\udcff`, see `write_atomic`."""
    aside = stack.enter_context(atomic_path(path))
    return stack.enter_context(aside.open("w", encoding=encoding, newline="", errors="backslashreplace"))
