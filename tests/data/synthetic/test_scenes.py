"""Generated scenes: the same from the same seed, boxes tight to visible pixels, counts and sizes in range."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.data.formats.detect import open_dataset
from detrkit.data.loader import collate
from detrkit.data.synthetic.contours import FAMILIES
from detrkit.data.synthetic.scene_dataset import SCENE_CATEGORIES, SceneDataset, make_scene_dataset
from detrkit.data.synthetic.scenes import LEAST_PIXELS, MOST, SMALLEST, Scene, draw_scene, plan_scene
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError

SIZE = 224


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(SIZE, np.random.default_rng((5, number))) for number in range(150)]


def test_a_seed_makes_a_scene(scenes: list[Scene]) -> None:
    again = draw_scene(SIZE, np.random.default_rng((5, 3)))
    assert np.array_equal(again.pixels, scenes[3].pixels)
    assert again.labels == scenes[3].labels
    assert np.array_equal(again.boxes, scenes[3].boxes)
    assert len({scene.pixels.tobytes() for scene in scenes}) == len(scenes)


def test_boxes_are_tight_to_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.owner.max() == len(scene.labels) == len(scene.boxes)
        for index, box in enumerate(scene.boxes.tolist()):
            ys, xs = np.nonzero(scene.mask(index))
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert len(ys) >= LEAST_PIXELS


def test_counts_sizes_and_classes_are_in_range(scenes: list[Scene]) -> None:
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) == 1
    assert 40 < max(counts) <= MOST
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert boxes.min() >= 0
    assert boxes.max() <= SIZE
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert np.median(longer) < 0.15 * SIZE
    assert (longer < 9).any()
    assert (longer > 0.85 * SIZE).any()
    assert {label for scene in scenes for label in scene.labels} == set(range(len(FAMILIES)))
    planned = [size for number in range(100) for size in plan_scene(SIZE, np.random.default_rng(number)).sizes]
    assert min(planned) >= SMALLEST
    assert max(planned) <= SIZE


def test_objects_hide_each_other(scenes: list[Scene]) -> None:
    """Boxes of different objects overlap in many scenes, and some objects are in two parts."""
    overlapping = 0
    for scene in scenes:
        low = np.maximum(scene.boxes[:, None, :2], scene.boxes[None, :, :2])
        high = np.minimum(scene.boxes[:, None, 2:], scene.boxes[None, :, 2:])
        overlapping += bool(((high - low).clip(0).prod(axis=2) > 0).sum() > len(scene.boxes))
    assert overlapping > len(scenes) / 4


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_draws_a_finite_outline(name: str) -> None:
    for seed in range(50):
        outline = FAMILIES[name](np.random.default_rng(seed))
        points = np.concatenate(outline.paths)
        assert np.isfinite(points).all()
        assert (np.ptp(points, axis=0) > 0.05).all()
        assert (outline.pen > 0) == (name in {"spiral", "wave", "lissajous", "strand", "branch"})


def test_an_item_depends_on_its_key_alone_and_epochs_differ() -> None:
    dataset = SceneDataset(images=4, size=64, seed=1)
    image, target = dataset[2, 3]
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    again = SceneDataset(images=9, size=64, seed=1)[2, 3]
    assert torch.equal(image, again[0])
    assert torch.equal(target["boxes"], again[1]["boxes"])
    others = [dataset[3], dataset[1, 3], dataset[2, 2], SceneDataset(images=4, size=64, seed=2)[2, 3]]
    assert not any(torch.equal(image, other) for other, _ in others)
    boxes = target["boxes"]
    assert (boxes > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] / 2 <= 1).all()
    assert collate([dataset[0, 0], dataset[0, 1]]).images.shape == (2, 3, 64, 64)
    with pytest.raises(IndexError):
        dataset[0, 4]


def test_the_ground_truth_is_that_of_epoch_0() -> None:
    dataset = SceneDataset(images=3, size=64, seed=1)
    gt = dataset.to_coco()
    boxes = [row["bbox"] for row in gt["annotations"] if row["image_id"] == 2]
    cx, cy, w, h = (64 * dataset[1][1]["boxes"]).T
    assert torch.allclose(torch.tensor(boxes).float(), torch.stack([cx - w / 2, cy - h / 2, w, h], 1))


def test_a_folder_is_the_same_every_time_and_our_own_check_finds_nothing(tmp_path: Path) -> None:
    settings = {"images": 12, "val_images": 4, "size": 96, "seed": 3}
    folders = [make_scene_dataset(tmp_path / name, **settings) for name in ("a", "b")]
    one, other = (
        {p.relative_to(f): hashlib.sha256(p.read_bytes()).hexdigest() for p in f.rglob("*") if p.is_file()}
        for f in folders
    )
    assert one == other
    report = check_dataset(open_dataset(folders[0]), masks=True, decode_all=True)
    assert {finding.kind for finding in report.findings} <= {"category_not_in_train", "category_unused"}
    assert {name: len(split) for name, split in report.splits.items()} == {"train": 12, "val": 4}
    assert report.splits["train"].categories == SCENE_CATEGORIES
    assert make_scene_dataset(folders[0], **settings) == folders[0]
    with pytest.raises(DataError, match="other files"):
        make_scene_dataset(folders[0], **settings | {"images": 13})
    with pytest.raises(ConfigError, match="generated scenes"):
        make_scene_dataset(tmp_path / "c", images=0)
    assert not (tmp_path / "c").exists()


def test_a_core_draws_fifty_images_per_second() -> None:
    begun = time.process_time()
    for number in range(60):
        draw_scene(SIZE, np.random.default_rng(number))
    assert 60 / (time.process_time() - begun) > 50  # 140 were seen
