"""The further augmentations: boxes follow pixels, and what an image becomes depends on (seed, epoch, index) alone."""

import random
from dataclasses import fields, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.data.dataset import DetectionDataset, ItemKey
from detrkit.data.loader import train_loader
from detrkit.data.records import ImageRecord, Split
from detrkit.data.transforms.augment import Augment, flip_vertical, iou_crop, jitter_color, zoom_out
from detrkit.data.transforms.mixing import Sample
from detrkit.data.transforms.resize_crop import eval_transform, no_objects, resized_size, train_transform
from detrkit.errors import ConfigError
from detrkit.structures import Batch
from detrkit.training.loaders import augmentation_of
from tests.data.conftest import CATEGORIES, make_object

from .scenes import assert_boxes_follow, rectangles, scene

CHANCES = [each.name for each in fields(Augment) if each.name != "fill"]
FLIP = train_transform("flip", 64)
ALL = Augment(mosaic=0.5, mixup=0.5, zoom_out=0.5, iou_crop=0.5, color_jitter=0.5, vertical_flip=0.5, multi_scale=0.25)
GRAY = torch.tensor([124, 116, 104], dtype=torch.uint8)


class Told(random.Random):
    """Randomness that says what a test wants: `uniform` and `randint` give the numbers in turn, `choice` the last."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.numbers = list(numbers)

    def uniform(self, a: float, b: float) -> float:
        number = self.numbers.pop(0)
        assert a <= number <= b
        return number

    def randint(self, a: int, b: int) -> int:
        return int(self.uniform(a, b))


def shorter_160(height: int, width: int) -> tuple[int, int]:
    return resized_size(height, width, 160, 266)


def scenes(count: int) -> list[Sample]:
    samples = []
    for seed in range(count):
        rng = random.Random(seed)
        height, width = rng.randint(60, 260), rng.randint(60, 260)
        samples.append(scene(height, width, rectangles(rng, height, width, [1, 2, 4]), masks=True))
    return samples


def test_zoom_out_surrounds_the_image_with_gray() -> None:
    shares = []
    for seed, (image, objects) in enumerate(scenes(40)):
        zoomed, placed = zoom_out(image, objects, shorter_160, GRAY, random.Random(seed))
        h, w = zoomed.shape[1:]
        near = [abs(a - b) for a, b in zip((h, w), shorter_160(*image.shape[1:]), strict=True)]
        assert max(near) <= 3  # the ratio of the sides is that of the image, up to rounding
        assert placed["labels"].tolist() == [1, 2, 4]  # nothing is cut off
        assert_boxes_follow(zoomed, placed)
        canvas = (zoomed == GRAY.view(3, 1, 1)).all(dim=0)
        shares.append(1 - canvas.float().mean().item())
    assert 0.25 <= min(shares) < 0.35
    assert 0.75 < max(shares) <= 1


def test_iou_crop_keeps_boxes_on_their_objects() -> None:
    cuts = []
    for seed, (image, objects) in enumerate(scenes(120)):
        cut, kept = iou_crop(image, objects, random.Random(seed))
        assert len(kept["labels"]) >= 1
        assert_boxes_follow(cut, kept, least=0.999)
        sides = [a / b for a, b in zip(cut.shape[1:], image.shape[1:], strict=True)]
        assert min(sides) >= 0.29
        assert sides[0] / sides[1] == pytest.approx(1, abs=1.03)
        cuts.append(min(sides) < 1)
    assert 0.3 < sum(cuts) / len(cuts) < 0.95


def test_iou_crop_reaches_the_iou_it_draws() -> None:
    class Wanting(random.Random):
        def choice(self, seq: Any) -> Any:
            return 0.5

    reached = 0
    for seed, (image, objects) in enumerate(scenes(60)):
        cut, kept = iou_crop(image, objects, Wanting(seed))
        if cut.shape == image.shape:
            continue
        whole = {k: (b[2] - b[0]) * (b[3] - b[1]) for k, b in zip([1, 2, 4], objects["boxes"].tolist(), strict=True)}
        window = cut.shape[1] * cut.shape[2]
        clipped = dict(zip(kept["labels"].tolist(), kept["area"].tolist(), strict=True))
        assert max(a / (window + whole[k] - a) for k, a in clipped.items()) >= 0.5
        reached += 1
    assert reached > 10


def test_without_objects_or_luck_the_image_stays_as_it_is() -> None:
    image, objects = scene(100, 140, {})
    assert iou_crop(image, objects, random.Random(0)) == (image, objects)
    image, objects = scene(100, 140, {1: (50, 50, 54, 54)})  # no window of 30 pixels a side overlaps it by 0.1
    crops = [iou_crop(image, objects, random.Random(seed))[0].shape for seed in range(60)]
    assert 40 <= crops.count(image.shape) < 60


def test_upside_down() -> None:
    image, objects = scene(60, 90, {1: (10, 5, 40, 20)}, masks=True)
    turned, moved = flip_vertical(image, objects)
    assert moved["boxes"].tolist() == [[10, 40, 40, 55]]
    assert_boxes_follow(turned, moved, least=0.999)
    assert moved["masks"][0, 45, 20]
    assert objects["boxes"].tolist() == [[10, 5, 40, 20]]


def recolored(colors: list[tuple[int, int, int]], *numbers: float) -> list[list[int]]:
    """Colors after brightness, contrast, saturation and hue; each fills one column."""
    image = torch.tensor(colors, dtype=torch.uint8).T[:, None].repeat(1, 4, 1)
    return jitter_color(image, Told(*numbers))[:, 2].T.tolist()


def test_recolor_equals_its_formulas() -> None:
    red, gray, teal = (240, 0, 0), (100, 100, 100), (20, 120, 110)
    for color, same in zip((red, gray, teal), recolored([red, gray, teal], 0, 1, 1, 0), strict=True):
        assert same == pytest.approx(color, abs=3)
    assert recolored([gray], 20, 1, 1, 0) == [[120] * 3]
    assert recolored([(50,) * 3, (150,) * 3], 0, 0.5, 1, 0) == [[75] * 3, [125] * 3]
    assert recolored([red], 0, 1, 0.5, 0)[0] == pytest.approx((240, 120, 120), abs=3)
    assert recolored([red], 0, 1, 1, 9)[0] == pytest.approx((240, 240 * 18 / 60, 0), abs=3)
    assert recolored([gray, (0, 0, 0)], 0, 1, 1.5, -9) == [[100] * 3, [0] * 3]  # gray has no hue
    assert recolored([(250, 250, 250)], 32, 1, 1, 0) == [[255] * 3]


def test_recolor_leaves_the_source_alone() -> None:
    image = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = image.clone()
    changed = jitter_color(image, random.Random(1))
    assert changed.shape == image.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, image)
    assert torch.equal(image, before)


def test_sizes_lie_evenly_around_the_middle() -> None:
    assert list(Augment(multi_scale=0.25).sizes(640)) == list(range(480, 801, 32))
    assert list(Augment(multi_scale=0.25).sizes(320)) == [256, 288, 320, 352, 384]
    assert list(Augment(multi_scale=0.25).sizes(128)) == [96, 112, 128, 144, 160]
    assert list(Augment(multi_scale=0.1).sizes(100)) == [92, 96, 100, 104, 108]
    assert list(Augment().sizes(320)) == [320]
    assert min(Augment(multi_scale=1).sizes(64)) > 0
    assert list(Augment(multi_scale=0.01).sizes(50)) == [50]


@pytest.mark.parametrize("augmentation", ["flip", "detr"])
def test_everything_at_once_keeps_boxes_on_their_objects(augmentation: Any) -> None:
    """All but mix-up and colors, after which the pixels say no more where an object is."""
    augment = replace(ALL, mosaic=0.4, mixup=0, color_jitter=0, fill=(0, 0, 0))
    pool = scenes(60)
    seen = 0
    for seed in range(60):
        rng = random.Random(seed)
        parts = iter([scene(120, 90, {3: (10, 10, 60, 90)}), scene(80, 80, {5: (20, 10, 70, 60)}), scene(90, 99, {})])
        image, objects = pool[seed]
        del objects["masks"]
        image, objects, transform = augment(
            image, objects, train_transform(augmentation, 160), lambda p=parts: next(p), rng
        )
        one_image, target = transform(image, objects, rng)
        h, w = one_image.shape[1:]
        assert target["size"] == (h, w)
        centers, sides = (target["boxes"] * torch.tensor([w, h, w, h])).split(2, dim=1)
        actual = no_objects(h, w)
        actual["boxes"] = type(actual["boxes"])(
            torch.cat([centers - sides / 2, centers + sides / 2], dim=1).clamp(min=0),
            format="XYXY",
            canvas_size=(h, w),
        )
        actual["labels"] = target["labels"]
        big = sides.amin(dim=1) >= 8  # of smaller ones enlarged from scraps only a blur is left
        actual["labels"], actual["boxes"] = actual["labels"][big], actual["boxes"].as_subclass(torch.Tensor)[big]
        assert_boxes_follow(one_image, actual, least=0.75)
        seen += int(big.sum())
    assert seen > 120


def test_multi_scale_varies_the_size(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, FLIP, augment=Augment(multi_scale=0.25))
    shorter = [min(dataset[epoch, k][1]["size"]) for epoch in range(10) for k in range(11)]
    assert set(shorter) == {48, 56, 64, 72, 80}


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and all(
        s["noise_seed"] == t["noise_seed"] and torch.equal(s["boxes"], t["boxes"]) and torch.equal(s["area"], t["area"])
        for s, t in zip(a.targets, b.targets, strict=True)
    )


def test_workers_batches_and_resuming_change_nothing(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, FLIP, seed=5, augment=ALL)
    alone, helped, resumed = (train_loader(dataset, batch_size=3, num_workers=n, seed=5) for n in (0, 2, 0))
    for loader in (alone, helped, resumed):
        loader.no_aug_from = (2, 1)
    for epoch in (1, 2):  # the last with all, and one whose second batch is the first of the plain ones
        for loader in (alone, helped):
            loader.set_epoch(epoch)
        batches = list(alone)
        assert all(same(a, b) for a, b in zip(batches, helped, strict=True))
        resumed.set_epoch(epoch, 1)
        assert all(same(a, b) for a, b in zip(batches[1:], resumed, strict=True))
    one = next(islice(alone, 1))
    one_image, target = dataset[2, next(k for k in range(11) if 100 + 3 * k == one.targets[0]["image_id"])]
    h, w = target["size"]
    assert torch.equal(one.images[0, :, :h, :w], one_image)


def test_depends_on_seed_epoch_and_index_alone(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, FLIP, seed=3, augment=ALL)
    first = dataset[2, 5]
    torch.manual_seed(99)
    np.random.seed(1)
    random.seed(7)
    for _ in range(3):
        dataset[0]
    assert torch.equal(dataset[2, 5][0], first[0])
    assert len({dataset[e, 5][0].sum().item() for e in range(6)}) == 6


def test_plain_epochs_are_those_without_the_extras(split: Split) -> None:
    augment = replace(ALL, vertical_flip=0.0)
    dataset = DetectionDataset(split, CATEGORIES, FLIP, seed=1, augment=augment)
    plain = DetectionDataset(split, CATEGORIES, FLIP, seed=1)
    for k in range(11):
        assert torch.equal(dataset[ItemKey(4, k, no_aug=True)][0], plain[4, k][0])
        assert torch.equal(dataset[ItemKey(9, k, no_aug=True)][1]["boxes"], plain[9, k][1]["boxes"])
    assert sum(dataset[3, k][0].shape == plain[3, k][0].shape for k in range(11)) < 8
    turned = DetectionDataset(split, CATEGORIES, FLIP, seed=1, augment=Augment(vertical_flip=1))
    image = eval_transform(64)(torch.zeros(3, 40, 60, dtype=torch.uint8))[0]
    assert turned[0, 0][0].shape == image.shape
    assert [t["boxes"][0, 1] > 0.5 for t in (plain[0, 1][1], turned[ItemKey(0, 1, no_aug=True)][1])] == [False, True]


def test_noise_seeds_belong_to_the_image_and_epoch(split: Split) -> None:
    dataset = DetectionDataset(split, CATEGORIES, FLIP)
    seeds = {(e, k): dataset[e, k][1]["noise_seed"] for e in range(4) for k in range(11)}
    assert len(set(seeds.values())) == 44
    assert all(0 <= seed < 2**62 for seed in seeds.values())
    assert dataset[3, 7][1]["noise_seed"] == seeds[3, 7]


def outlined(split: Split) -> Split:
    """The same images, the first object of each with a triangle for a mask."""
    images = []
    for image in split.images:
        objects = list(image.objects)
        if objects:
            x1, y1, x2, y2 = objects[0].box
            objects[0] = replace(objects[0], segmentation=[[x1, y1, x2, y1, x1, y2]])
        images.append(replace(image, objects=objects))
    return replace(split, images=images)


def test_copy_paste_needs_masks_and_returns_them_on_request(split: Split) -> None:
    with pytest.raises(ConfigError, match="copy_paste needs objects with segmentations, found none in"):
        DetectionDataset(split, CATEGORIES, FLIP, augment=Augment(copy_paste=0.5))
    plain = DetectionDataset(outlined(split), CATEGORIES, FLIP)
    more = 0
    for with_masks in (False, True):
        dataset = DetectionDataset(
            outlined(split), CATEGORIES, FLIP, augment=Augment(copy_paste=1), with_masks=with_masks
        )
        for epoch, k in product(range(4), range(11)):
            one_image, target = dataset[epoch, k]
            assert ("masks" in target) == with_masks
            if with_masks:
                assert target["masks"].shape == (len(target["labels"]), *one_image.shape[1:])
                assert target["masks"].flatten(1).any(dim=1).all()
            more += len(target["labels"]) - len(plain[epoch, k][1]["labels"])
    assert more > 10


def test_targets_of_hostile_images_are_sound(tmp_path: Path) -> None:
    images = []
    for k, (height, width) in enumerate([(1, 1), (1, 70), (90, 1), (40, 50), (3, 200), (50, 50)]):
        path = tmp_path / f"{k}.png"
        assert cv2.imwrite(str(path), np.full((height, width, 3), 40 * k, np.uint8))
        boxes = [(0, 0, width, height), (0, 0, min(1, width), min(1, height)), (width - 0.4, 0, width + 0.3, height)]
        objects = [make_object(10 * k + j, 3, box, segmentation=None) for j, box in enumerate(boxes)] if k != 5 else []
        images.append(ImageRecord(k + 1, path, path.name, height, width, objects))
    images[3].objects[0].segmentation = [[0, 0, 50, 0, 50, 40, 0, 40]]
    split = Split("train", images, CATEGORIES, str(tmp_path))
    always = Augment(**dict.fromkeys(CHANCES, 1.0))
    for augment in (always, replace(always, mosaic=0.0), replace(ALL, copy_paste=0.5)):
        dataset = DetectionDataset(split, CATEGORIES, FLIP, augment=augment)
        for epoch in range(5):
            for k in range(6):
                one_image, target = dataset[epoch, k]
                boxes = target["boxes"]
                assert one_image.shape[1:] == target["size"]
                assert one_image.dtype == torch.uint8
                assert len(boxes) == len(target["labels"]) == len(target["area"])
                assert (boxes[:, 2:] > 0).all()
                assert (boxes[:, :2] - boxes[:, 2:] / 2 >= -1e-6).all()
                assert (boxes[:, :2] + boxes[:, 2:] / 2 <= 1 + 1e-6).all()
                assert (target["area"] > 0).all()


def test_a_broken_file_is_a_gray_quarter(split: Split, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"gone")
    images = [replace(image, path=broken) if k else image for k, image in enumerate(split.images)]
    dataset = DetectionDataset(replace(split, images=images), CATEGORIES, FLIP, augment=Augment(mosaic=1))
    with pytest.warns(UserWarning, match=r"broken\.jpg.*gray image"):
        one_image, target = dataset[0, 0]
    assert (one_image == 128).all(dim=0).any()
    assert target["file"] == str(split.images[0].path)


def test_settings_reach_the_images_unless_there_shall_be_no_augmentation() -> None:
    chances = dict(zip(CHANCES, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), strict=True))
    assert augmentation_of(TrainConfig(**chances)) == ("detr", Augment(**chances))
    assert augmentation_of(TrainConfig(**chances, overfit=8)) == ("none", Augment())
    assert augmentation_of(TrainConfig(**chances, augmentation="none")) == ("none", Augment())
    assert augmentation_of(TrainConfig()) == ("detr", Augment())


@pytest.mark.parametrize("name", CHANCES)
def test_chances_are_from_0_to_1(name: str) -> None:
    TrainConfig(**{name: 1.0})
    with pytest.raises(ConfigError, match=rf"{name} must be at most 1, found 1.5"):
        TrainConfig(**{name: 1.5})
    with pytest.raises(ConfigError, match=rf"{name} must be at least 0, found -0.1"):
        TrainConfig(**{name: -0.1})


@pytest.mark.parametrize("workers", [0, 2])
def test_the_augmentation_may_end_in_the_middle_of_an_epoch(split: Split, workers: int) -> None:
    """Batches that workers may have begun stay as they are, so that a resumed run has the same ones."""
    dataset = DetectionDataset(split, CATEGORIES, FLIP, seed=5, augment=ALL)
    running, resumed = (train_loader(dataset, batch_size=1, num_workers=n, seed=5) for n in (workers, 0))
    assert running.batches_ahead == 2 * workers
    batches = []
    for number, batch in enumerate(running):
        batches.append(batch)
        if number == 1:
            running.no_aug_from = (0, 2 + running.batches_ahead)
    resumed.no_aug_from = (0, 2 + running.batches_ahead)
    assert all(same(a, b) for a, b in zip(batches, resumed, strict=True))
    assert len(batches) == 11
    plain = DetectionDataset(split, CATEGORIES, FLIP, seed=5, augment=ALL.plain())
    shared = [same(a, b) for a, b in zip(batches, train_loader(plain, batch_size=1, seed=5), strict=True)]
    assert all(shared[2 + running.batches_ahead :])
    assert not all(shared[: 2 + running.batches_ahead])
