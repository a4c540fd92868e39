"""What our writers write, read by parsers of others, where they are installed (`pip install datumaro`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from detrkit import convert_data

from ..conftest import CocoFolder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_datumaro_reads_the_same_boxes(coco: CocoFolder, tmp_path: Path, to: str) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    coco.write()
    convert_data(coco.root, tmp_path / "to", to)
    dataset = datumaro.Dataset.import_from(str(tmp_path / "to"), to)
    names = dataset.categories()[datumaro.AnnotationType.label]
    rows = Counter(
        (item.subset, names[row.label].name, *(round(value) for value in row.points))
        for item in dataset
        for row in item.annotations
    )
    assert rows == {
        ("train", "scratch", 5, 6, 15, 18): 1,
        ("train", "dent", 20, 10, 28, 18): 1,
        ("val", "scratch", 5, 6, 15, 18): 1,
    }
