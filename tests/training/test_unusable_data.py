"""What training refuses to learn from, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.config.train import TrainConfig
from detrkit.errors import DataError
from detrkit.training.setup import load_data

from .conftest import write_split


@pytest.fixture
def labels(tmp_path: Path) -> dict[str, Any]:
    """The content of the training file of a data set in `tmp_path`."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    write_split(tmp_path, "train", 8, rng)
    write_split(tmp_path, "val", 3, rng)
    content: dict[str, Any] = json.loads((tmp_path / "train.json").read_text())
    return content


def test_boxes_that_look_like_corners_are_refused_unless_stated(tmp_path: Path, labels: dict[str, Any]) -> None:
    before = load_data(TrainConfig(data=str(tmp_path))).train
    for row in labels["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]
    (tmp_path / "train.json").write_text(json.dumps(labels))
    (tmp_path / "val.json").unlink()
    with pytest.raises(DataError, match=r"looks like x1, y1, x2, y2 in pixels .* box_format xyxy or box_format xywh$"):
        load_data(TrainConfig(data=str(tmp_path)))
    data = load_data(TrainConfig(data=str(tmp_path), box_format="xyxy"))
    boxes = {obj.id: obj.box for split in (data.train, data.val) for image in split.images for obj in image.objects}
    expected = {obj.id: obj.box for image in before.images for obj in image.objects}
    assert {key: pytest.approx(box) for key, box in expected.items()} == boxes


def test_overfitting_takes_images_with_objects_that_are_no_crowds(tmp_path: Path, labels: dict[str, Any]) -> None:
    first = labels["images"][0]["id"]
    for row in labels["annotations"]:
        row["iscrowd"] = int(row["image_id"] == first)
    (tmp_path / "train.json").write_text(json.dumps(labels))
    data = load_data(TrainConfig(data=str(tmp_path), overfit=1))
    assert [image.has_trainable for image in data.train.images] == [True]
    assert data.train.images[0].id != first


def test_one_usable_image_is_too_little(tmp_path: Path, labels: dict[str, Any]) -> None:
    (tmp_path / "val.json").unlink()
    keep = next(image for image in labels["images"] if any(a["image_id"] == image["id"] for a in labels["annotations"]))
    for path in tmp_path.rglob(f"*{Path(keep['file_name']).suffix}"):
        if path.name != Path(keep["file_name"]).name:
            path.write_bytes(b"")
    with pytest.raises(DataError, match="expected val images in"):
        load_data(TrainConfig(data=str(tmp_path)))
