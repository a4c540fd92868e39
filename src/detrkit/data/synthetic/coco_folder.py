"""Write a generated data set as a COCO folder that is complete or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from detrkit.errors import DataError
from detrkit.ops.masks import encode_rle


@contextlib.contextmanager
def complete_folder(folder: Path, info: dict[str, Any]) -> Iterator[Path | None]:
    """Make a folder aside, and give it its name when it is complete.

    Args:
        folder: the folder of the data set; it must be absent, empty, or hold the same data set.
        info: settings of the data set, as JSON-like data, which its train.json holds.

    Yields:
        The folder to write to, or None if `folder` holds the data set already.

    Raises:
        DataError: the folder holds other files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if _stored_info(folder) != info:
            raise DataError(
                f"expected no folder {folder}, or one with this same generated set, found other files in it; "
                "choose another folder or remove it"
            )
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed process that had this id
    try:
        yield aside
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_image(path: Path, pixels: npt.NDArray[np.uint8], options: Sequence[int] = ()) -> None:
    """Write RGB pixels, uint8 [H, W, 3], in the format of the ending of `path`, with `options` of OpenCV."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    path.write_bytes(data.tobytes())


def instance_rows(
    labels: Sequence[int], masks: Sequence[npt.NDArray[np.bool_]], image_id: int, first_id: int
) -> list[dict[str, Any]]:
    """Make the COCO annotations of one image, with the boxes of the masks; class k has the id k + 1."""
    rows = []
    for number, (label, mask) in enumerate(zip(labels, masks, strict=True), start=first_id):
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        rows.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x, y, width, height],
                "area": int(np.count_nonzero(mask)),
                "iscrowd": 0,
                "segmentation": encode_rle(torch.from_numpy(mask)),
            }
        )
    return rows


def write_coco(
    path: Path,
    info: dict[str, Any],
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: list[dict[str, Any]],
) -> None:
    """Write a COCO file."""
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _stored_info(folder: Path) -> Any:
    """The settings of a data set that was written here, or None."""
    try:
        return json.loads((folder / "train.json").read_text(encoding="utf-8"))["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
