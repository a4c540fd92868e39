"""A data set and settings so small that a run takes a second."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.config.train import TrainConfig

SIZES = [(48, 64), (64, 48), (64, 64)]
TINY = {
    "backbone": "timm:test_resnet",
    "backbone_weights": "none",
    "hidden_dim": 16,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 16,
    "num_queries": 5,
    "image_size": 48,
    "batch_size": 2,
    "num_workers": 0,
    "epochs": 2,
    "lr": 1e-3,
    "device": "cpu",
}


def write_split(folder: Path, name: str, images: int, rng: np.random.Generator) -> None:
    """Bright rectangles of two classes (ids 3 and 7) on noise; every fourth image is empty."""
    entries, annotations = [], []
    for number in range(images):
        height, width = SIZES[number % len(SIZES)]
        one_image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        for _ in range(0 if number % 4 == 3 else 1 + number % 3):
            w, h = (int(v) for v in rng.integers(10, 25, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            category = int(rng.choice([3, 7]))
            one_image[y : y + h, x : x + w] = (250, 40, 40) if category == 3 else (40, 250, 40)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        file_name = f"{name}_{number:02d}.png"
        Image.fromarray(one_image).save(folder / "images" / file_name)
        entries.append({"id": number, "file_name": file_name, "height": height, "width": width})
    categories = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(autouse=True, scope="package")
def _quick() -> Iterator[None]:
    """One thread, and no report, which takes longer than a tiny run; `test_run` writes one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "shapes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    write_split(folder, "train", 11, rng)
    write_split(folder, "val", 5, rng)
    return folder


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path):
    """Settings of a tiny run; keywords override."""

    def make(**settings: Any) -> TrainConfig:
        return TrainConfig(**{"data": str(tiny_data), "output_dir": str(tmp_path / "run"), **TINY, **settings})

    return make
