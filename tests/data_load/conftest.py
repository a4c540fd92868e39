"""A small split of images of several shapes, drawn for the tests of loading."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.structures import Categories

CATEGORIES = Categories((3, 7, 20), ("bolt", "nut", "washer"))
SHAPES = ((40, 60), (60, 40), (48, 48))


def found(number: int, category_id: int, box: tuple[float, float, float, float], **fields: object) -> ObjectRecord:
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
        objects = [found(10 * k + j, CATEGORIES.ids[j], (4 * j, 5, 4 * j + 20, 25 + j)) for j in range(k % 4)]
        images.append(ImageRecord(100 + 3 * k, Path(path), path.name, height, width, objects))
    return Split("train", images, CATEGORIES, str(folder))
