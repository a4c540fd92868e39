"""A split of drawn images, and tiny data sets to order, for all tests of data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawDataset
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.structures import Categories

CATEGORIES = Categories((3, 7, 20), ("bolt", "nut", "washer"))
SHAPES = ((40, 60), (60, 40), (48, 48))


def make_object(
    number: int, category_id: int, box: tuple[float, float, float, float], **fields: object
) -> ObjectRecord:
    values = {"area": None, "crowd": False, "segmentation": None, "where": f"annotations[{number}]", **fields}
    return ObjectRecord(id=number, category_id=category_id, box=box, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Eleven images; image k has k % 4 objects and the id 100 + 3 k."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    images = []
    for k in range(11):
        height, width = SHAPES[k % 3]
        path = folder / f"{k}.png"
        assert cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        objects = [make_object(10 * k + j, CATEGORIES.ids[j], (4 * j, 5, 4 * j + 20, 25 + j)) for j in range(k % 4)]
        images.append(ImageRecord(100 + 3 * k, Path(path), path.name, height, width, objects))
    return Split("train", images, CATEGORIES, str(folder))


def write_image(path: Path, width: int = 40, height: int = 30, seed: int = 0, mode: str = "RGB", **save: Any) -> Path:
    """An image of noise; every seed is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **save)
    return path


class CocoFolder:
    """A COCO data set with one image and one good box per split, to be broken."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[str, dict[str, Any]] = {}
        for number, split_name in enumerate(("train", "val"), start=1):
            name = f"{split_name}.png"
            write_image(root / "images" / name, seed=number)
            self.content[split_name] = {
                "images": [{"id": 7, "file_name": name, "width": 40, "height": 30}],
                "annotations": [self.box(1)],
                "categories": [{"id": 3, "name": "scratch"}, {"id": 9, "name": "dent"}],
            }
        self.content["train"]["annotations"].append(self.box(2, category_id=9, bbox=[20, 10, 8, 8]))

    @staticmethod
    def box(number: int, **changes: Any) -> dict[str, Any]:
        row = {"id": number, "image_id": 7, "category_id": 3, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
        return {k: v for k, v in (row | changes).items() if v != "absent"}

    @property
    def train(self) -> dict[str, Any]:
        return self.content["train"]

    def add(self, **changes: Any) -> None:
        """One more training object."""
        number = len(self.train["annotations"]) + 1
        self.train["annotations"].append(self.box(**({"number": number, "bbox": [1, 1, 6, 6], "area": 36} | changes)))

    def write(self) -> None:
        for split_name, content in self.content.items():
            (self.root / f"{split_name}.json").write_text(json.dumps(content))

    def check(self, **options: Any) -> CheckReport:
        self.write()
        return check_dataset(open_dataset(self.root), **options)


def only(report: CheckReport, kind: str, count: int = 1) -> None:
    """The report has this finding and no other, but for files of the set that the test made superfluous."""
    assert report.counts() == {kind: count} or counts(report) == {kind: count}
    assert all(finding.file and finding.message for finding in report.findings)


def counts(report: CheckReport) -> dict[str, int]:
    """Findings by kind, but for files of the set that the test made superfluous."""
    return {kind: number for kind, number in report.counts().items() if kind != "image_unused"}


def boxes(report: CheckReport, split: str = "train") -> list[tuple[float, ...]]:
    return [obj.box for image in report.splits[split].images for obj in image.objects]


def sizes(raw: RawDataset) -> dict[str, tuple[int, int]]:
    """Usable images and objects of each split."""
    report = check_dataset(raw)
    return {k: (len(s), sum(len(image.objects) for image in s.images)) for k, s in report.splits.items()}


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "coco")


@pytest.fixture
def make_image() -> Callable[..., Path]:
    return write_image


VOC_XML = """<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height></size>
{objects}</annotation>"""
VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


@pytest.fixture
def write_voc() -> Callable[..., Path]:
    def write(path: Path, image_name: str, *objects: tuple[Any, ...], width: int = 40, height: int = 30) -> Path:
        """Objects are (name, x1, y1, x2, y2) or with a sixth, difficult."""
        rows = [VOC_OBJECT.format(*o[1:5], name=o[0], difficult=o[5] if len(o) > 5 else 0) for o in objects]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VOC_XML.format(name=image_name, width=width, height=height, objects="\n".join(rows)))
        return path

    return write
