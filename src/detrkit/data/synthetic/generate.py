"""Generate the demo data set: images of surface defects with boxes, instance masks and panoptic maps.

FOLDER/images/train/*.jpg, images/val/*.jpg
FOLDER/train.json, val.json                      COCO instances: five classes of defects, masks as RLE
FOLDER/panoptic_train.json, panoptic_train/*.png COCO panoptic: the defects are things, the metal is stuff, and so are
                                                 a table and a shadow with `panoptic`; also _val
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detrkit.data.synthetic.background import GROUND
from detrkit.data.synthetic.coco_folder import complete_folder, instance_rows, write_coco, write_image
from detrkit.data.synthetic.defects import DEFECTS, Drawing, draw_image
from detrkit.errors import ConfigError

_CATEGORIES: list[dict[str, Any]] = [
    {"id": i, "name": name, "supercategory": "defect"} for i, name in enumerate(DEFECTS, start=1)
]
_STUFF: list[dict[str, Any]] = [
    {"id": i, "name": name, "supercategory": "background", "isthing": 0}
    for i, name in enumerate(GROUND, start=len(DEFECTS) + 1)
]


def make_demo_dataset(
    folder: str | Path,
    *,
    images: int = 600,
    size: int = 128,
    difficulty: float = 0.3,
    seed: int = 0,
    panoptic: bool = False,
) -> Path:
    """Generate the demo data set, unless the folder already holds it with the same settings.

    The same settings give the same files, byte for byte. The folder gets its name only when it is complete.

    Args:
        folder: the folder of the data set; it must be absent or empty.
        images: number of training images; a fifth of that, at least one, is generated for validation.
        size: side of the images in pixels, at least 32.
        difficulty: difficulty from 0 (large, high contrast) to 1 (small, faint, blurred and noisy).
        seed: source of all randomness.
        panoptic: show the edge of the metal in each image, with a table and mostly a shadow: three classes of stuff.
            Otherwise metal fills the image.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the folder holds other files.
    """
    if images < 1 or size < 32 or not 0 <= difficulty <= 1 or seed < 0:
        raise ConfigError(
            "a demo set needs images >= 1, size >= 32, difficulty in 0..1 and seed >= 0, "
            f"found {images}, {size}, {difficulty} and {seed}"
        )
    folder = Path(folder)
    info = {
        "description": "detrkit demo set: generated images of surface defects",
        "version": "1",
        "images": images,
        "size": size,
        "difficulty": difficulty,
        "seed": seed,
        **({"panoptic": True} if panoptic else {}),  # without it, the files of older sets stay the same
    }
    with complete_folder(folder, info) as new:
        if new:
            _write_split(new, "train", range(1, images + 1), info)
            _write_split(new, "val", range(images + 1, images + 1 + max(1, images // 5)), info)
    return folder


def _write_split(root: Path, name: str, ids: range, info: dict[str, Any]) -> None:
    """Draw and write one split; an image depends on the settings and its id alone."""
    size = info["size"]
    image_dir, maps = root / "images" / name, root / f"panoptic_{name}"
    image_dir.mkdir(parents=True)
    maps.mkdir()
    rows: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for image_id in ids:
        rng = np.random.default_rng((info["seed"], image_id))
        table = np.random.default_rng((info["seed"], image_id, 1)) if "panoptic" in info else None
        drawing = draw_image(size, info["difficulty"], rng, table)
        stem = f"{image_id:06d}"
        write_image(image_dir / f"{stem}.jpg", drawing.pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
        rows.append({"id": image_id, "file_name": f"{name}/{stem}.jpg", "height": size, "width": size})
        annotations = instance_rows(drawing.classes, drawing.masks, image_id, first_id=len(instances) + 1)
        instances += annotations
        panoptic_map, segments = _segments(drawing, annotations)
        write_image(maps / f"{stem}.png", panoptic_map)
        panoptic.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
    things = [{**category, "isthing": 1} for category in _CATEGORIES]
    bare = [{**row, "file_name": Path(row["file_name"]).name} for row in rows]
    write_coco(root / f"{name}.json", info, rows, instances, _CATEGORIES)
    stuff = _STUFF if "panoptic" in info else _STUFF[:1]
    write_coco(root / f"panoptic_{name}.json", info, bare, panoptic, [*things, *stuff])


def _segments(drawing: Drawing, instances: list[dict[str, Any]]) -> tuple[np.ndarray[Any, Any], list[dict[str, Any]]]:
    """Make the panoptic map, uint8 [S, S, 3], with segment ids in the red channel, and its list of segments.

    Id 1 is metal; the defects follow, then table and shadow.
    """
    ids = np.ones(drawing.ground.shape, np.uint8)
    table = []
    for segment, (mask, row) in enumerate(zip(drawing.masks, instances, strict=True), start=2):
        ids[mask] = segment
        table.append({"id": segment, **{key: row[key] for key in ("category_id", "bbox", "area", "iscrowd")}})
    for kind in range(1, len(GROUND)):
        if (drawing.ground == kind).any():
            segment = len(table) + 2
            ids[drawing.ground == kind] = segment
            table.append(_stuff(segment, kind, ids))
    return np.stack([ids, ids * 0, ids * 0], -1), [_stuff(1, 0, ids), *table]


def _stuff(segment: int, kind: int, ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Make the segment of a stuff class."""
    ys, xs = np.nonzero(ids == segment)
    x, y = int(xs.min()), int(ys.min())
    box = [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
    return {"id": segment, "category_id": _STUFF[kind]["id"], "bbox": box, "area": len(xs), "iscrowd": 0}
