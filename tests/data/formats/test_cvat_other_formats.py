"""What CVAT exports in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from tests.data.conftest import write_image

TREES: dict[str, tuple[str, dict[str, Any]]] = {
    "COCO 1.0": (
        "coco",
        {
            "annotations/instances_default.json": {
                "licenses": [{"name": "", "id": 0, "url": ""}],
                "info": {
                    "contributor": "",
                    "date_created": "",
                    "description": "",
                    "url": "",
                    "version": "",
                    "year": "",
                },
                "categories": [{"id": 1, "name": "pit", "supercategory": ""}],
                "images": [{"id": 1, "width": 96, "height": 64, "file_name": "a.png", "license": 0, "coco_url": ""}],
                "annotations": [
                    {
                        "id": 1,
                        "image_id": 1,
                        "category_id": 1,
                        "segmentation": [],
                        "area": 240.0,
                        "bbox": [4, 8, 20, 12],
                        "iscrowd": 0,
                        "attributes": {"occluded": False, "rotation": 0.0},
                    }
                ],
            },
            "images/default/a.png": None,
        },
    ),
    "YOLO 1.1": (
        "yolo",
        {
            "obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "pit\n",
            "train.txt": "data/obj_train_data/a.png\n",
            "obj_train_data/a.txt": "0 0.145833 0.218750 0.208333 0.187500\n",
            "obj_train_data/a.png": None,
        },
    ),
    "Ultralytics YOLO Detection 1.0": (
        "yolo",
        {
            "data.yaml": "train: train.txt\nnames:\n  0: pit\npath: .\n",
            "train.txt": "data/images/train/a.png\n",
            "labels/train/a.txt": "0 0.145833 0.218750 0.208333 0.187500\n",
            "images/train/a.png": None,
        },
    ),
}
"""Export format of CVAT -> our name of it, and its files as CVAT documents them."""


@pytest.mark.parametrize("name", list(TREES))
def test_exports_of_cvat_in_other_formats_are_read(tmp_path: Path, name: str) -> None:
    form, files = TREES[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            write_image(tmp_path / file, width=96, height=64)
        else:
            (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    raw = open_dataset(tmp_path, val_fraction=0)
    assert raw.format == form
    split = check_dataset(raw).splits["train"]
    assert split.categories.names == ("pit",)
    (obj,) = split.images[0].objects
    assert obj.box == pytest.approx((4, 8, 24, 20), abs=0.01)
