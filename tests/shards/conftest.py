"""A small data set with every kind of annotation, and its packed copy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detrkit
from detrkit.config.train import TrainConfig
from tests.training.conftest import TINY, write_split


@pytest.fixture(scope="package")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data: polygons, RLE, a crowd, images without objects, a name with blanks, a JPEG with an EXIF rotation."""
    folder = tmp_path_factory.mktemp("loose") / "shapes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    write_split(folder, "train", 11, rng)
    write_split(folder, "val", 5, rng)
    for name in ("val", "train"):
        content = json.loads((folder / f"{name}.json").read_text())
        for number, row in enumerate(content["annotations"]):
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]] if number % 3 else []
        (folder / f"{name}.json").write_text(json.dumps(content))
    first = content["annotations"][0]
    size = content["images"][0]
    runs = [size["height"] * 10, 6, size["height"] * (size["width"] - 10) - 6]
    first["segmentation"] = {"size": [size["height"], size["width"]], "counts": runs}
    first["bbox"], first["area"] = [10, 0, 1, 6], 6
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][1]["segmentation"] = first["segmentation"]
    (folder / "images" / "with blank ä.jpg").write_bytes((folder / "images" / "train_05.png").read_bytes())
    turned = Image.open(folder / "images" / "train_06.png")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / "turned.jpg", exif=exif, quality=95)
    content["images"][5]["file_name"] = "with blank ä.jpg"
    content["images"][6]["file_name"] = "turned.jpg"
    (folder / "train.json").write_text(json.dumps(content))
    for name in ("train_05.png", "train_06.png"):
        (folder / "images" / name).unlink()
    return folder


@pytest.fixture(scope="package")
def packed(loose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data, packed into several shards."""
    folder = tmp_path_factory.mktemp("packed") / "shapes"
    detrkit.pack(loose, folder, shard_mb=0.03)
    return folder


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A copy of the packed data, to be broken."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


@pytest.fixture
def config(tmp_path: Path):
    """Settings of a run of seconds on some data."""

    def make(data: Path | str, name: str, **settings) -> TrainConfig:
        return TrainConfig(**{"data": str(data), "output_dir": str(tmp_path / name), **TINY, **settings})

    return make
