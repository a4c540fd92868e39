"""The demo set: complete, consistent, the same every time, and readable by our own readers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from detrkit.data.formats.coco_panoptic import read_panoptic_gt
from detrkit.data.formats.detect import open_dataset
from detrkit.data.synthetic.defects import DEFECTS, draw_image
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return "\n".join(content)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("demo") / "set", images=60, size=96, seed=3)


def test_same_seed_same_bytes(demo: Path, tmp_path: Path) -> None:
    assert digest(make_demo_dataset(tmp_path / "again", images=60, size=96, seed=3)) == digest(demo)
    assert digest(make_demo_dataset(tmp_path / "other", images=60, size=96, seed=4)) != digest(demo)
    table = [make_demo_dataset(tmp_path / name, images=5, size=64, panoptic=True) for name in ("a", "b")]
    assert digest(table[0]) == digest(table[1])


def test_is_kept_or_refused(demo: Path) -> None:
    before = (demo / "train.json").stat().st_mtime_ns
    assert make_demo_dataset(demo, images=60, size=96, seed=3) == demo
    assert (demo / "train.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="other files"):
        make_demo_dataset(demo, images=61, size=96, seed=3)


@pytest.mark.parametrize("setting", [{"images": 0}, {"size": 8}, {"difficulty": 1.5}, {"seed": -1}])
def test_settings_out_of_range(tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="demo set"):
        make_demo_dataset(tmp_path / "set", **setting)
    assert not list(tmp_path.iterdir())


def test_our_own_check_finds_nothing(demo: Path) -> None:
    report = check_dataset(open_dataset(demo))
    assert {finding.kind for finding in report.findings} <= {"other_task"}  # objects and maps of the same images
    assert {name: len(split) for name, split in report.splits.items()} == {"train": 60, "val": 12}
    assert report.splits["train"].categories.names == tuple(DEFECTS)


@pytest.fixture(scope="module")
def on_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("table") / "set", images=60, size=96, seed=3, panoptic=True)


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize("kind", ["demo", "on_table"])
def test_boxes_masks_and_panoptic_maps_agree(request: pytest.FixtureRequest, kind: str, name: str) -> None:
    folder: Path = request.getfixturevalue(kind)
    gt = json.loads((folder / f"{name}.json").read_text())
    panoptic = json.loads((folder / f"panoptic_{name}.json").read_text())
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in gt["images"]}
    for row in gt["annotations"]:
        by_image[row["image_id"]].append(row)
    counts = [len(rows) for rows in by_image.values()]
    assert 0 in counts or name == "val"
    assert max(counts) <= 3
    stuff = {category["id"] for category in panoptic["categories"] if not category["isthing"]}
    assert len(stuff) == (1 if kind == "demo" else 3)
    for entry in panoptic["annotations"]:
        colors = cv2.imread(str(folder / f"panoptic_{name}" / entry["file_name"]))[..., ::-1].astype(int)
        ids = colors @ np.array([1, 256, 65536])
        segments = {row["id"]: row for row in entry["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        things = [row for row in segments.values() if row["category_id"] not in stuff]
        rows = by_image[entry["image_id"]]
        assert len(things) == len(rows) <= len(segments) - (1 if kind == "demo" else 2)
        for segment, row in zip(things, rows, strict=True):
            mask = ids == segment["id"]
            assert np.array_equal(mask, coco_mask.decode(row["segmentation"]).astype(bool))
            ys, xs = np.nonzero(mask)
            x, y, w, h = row["bbox"]
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert mask.sum() == row["area"] == segment["area"]
            assert segment["bbox"] == row["bbox"]


def test_the_table_is_drawn_where_its_map_is(on_table: Path) -> None:
    report = check_dataset(open_dataset(on_table, data_format="coco_panoptic"), decode_all=True)
    assert {finding.kind for finding in report.findings} <= {"other_task"}  # objects and maps of the same images
    split = report.splits["train"]
    assert split.categories.names == (*DEFECTS, "metal", "table", "shadow")
    assert split.categories.isthing == (*[True] * len(DEFECTS), False, False, False)
    light: dict[str, list[float]] = {"metal": [], "table": [], "shadow": []}
    for image in split.images:
        ids, rows = read_panoptic_gt(image)
        pixels = cv2.imread(str(image.path)).mean(axis=2)
        name_of = dict(zip(split.categories.ids, split.categories.names, strict=True))
        for row in rows:
            if name_of[row["category_id"]] in light:
                light[name_of[row["category_id"]]].append(pixels[ids.numpy() == row["id"]].mean())
    assert [len(values) > 40 for values in light.values()] == [True] * 3
    assert np.mean(light["metal"]) > 1.8 * np.mean(light["table"]) > 2.5 * np.mean(light["shadow"])


def test_difficulty_makes_defects_smaller_and_fainter() -> None:
    sides, contrasts = [], []
    for difficulty in (0.0, 0.3, 1.0):
        side, contrast = [], []
        for i in range(60):
            drawing = draw_image(128, difficulty, np.random.default_rng(i))
            gray = drawing.pixels.mean(2)
            for mask in drawing.masks:
                ys, xs = np.nonzero(mask)
                side.append(max(np.ptp(ys), np.ptp(xs)) / 128)
                around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask
                contrast.append(np.abs(gray[mask] - np.median(gray[around])).mean() / gray[around].std())
        sides.append(np.mean(side))
        contrasts.append(np.median(contrast))
    assert sides[0] > sides[1] > sides[2]
    assert contrasts[0] > contrasts[1] > 3 * contrasts[2] / 2
    assert 0.15 < sides[1] < 0.5


def test_a_killed_generation_never_looks_complete(tmp_path: Path) -> None:
    code = (
        "from detrkit.data.synthetic.generate import make_demo_dataset; "
        f"make_demo_dataset({str(tmp_path / 'set')!r}, images=100000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set-*/images/train/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".set-*"))
    assert not (tmp_path / "set").exists()
